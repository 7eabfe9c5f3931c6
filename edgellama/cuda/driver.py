"""NVIDIA's driver, called through ctypes.

This module finds the driver's library, declares its functions and checks what they return. It
keeps the names of NVIDIA's manual, and it is the only place that says which version of a function
is called. What the functions are used for is known to the modules that call them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from edgellama.cuda.advice import advice
from edgellama.quant.errors import CudaError, CudaLostError, CudaMemoryError

LIBRARIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "linux": (
            # The library of Windows Subsystem for Linux: a Linux driver beside it does not work
            # there.
            "/usr/lib/wsl/lib/libcuda.so.1",
            "libcuda.so.1",
            # Where NixOS and nodes of Kubernetes have it, which the loader need not search.
            "/run/opengl-driver/lib/libcuda.so.1",
            "/usr/local/nvidia/lib64/libcuda.so.1",
        ),
        "win32": ("nvcuda.dll",),
    }
)
"""Names of the driver's library by ``sys.platform``; the first that can be loaded is it."""
MIN_DRIVER_VERSION = 11000
"""CUDA 11.0: the first whose compiler takes our code for all cards."""

SUCCESS, OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 0, 2, 100, 600
LOST = frozenset(
    # Deinitialized, unavailable, uncorrectable memory or link, contained, illegal address, time
    # limit of the display, destroyed context, assertion, faults of a kernel, unknown.
    (4, 46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999)
)
"""Codes after which a process's context on the card answers nothing any more."""

NO_CARD = "the NVIDIA driver shows no card (CUDA_VISIBLE_DEVICES may hide some)"

_HANDLE, _ADDRESS = c_void_p, c_uint64
_HANDLE_OUT, _ADDRESS_OUT, _INT_OUT = POINTER(c_void_p), POINTER(c_uint64), POINTER(c_int)
_TEXT_OUT, _SIZE_OUT = POINTER(c_char_p), POINTER(c_size_t)
_GRID = (c_uint, c_uint, c_uint)
FUNCTIONS: Mapping[str, tuple[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "cuInit": ("cuInit", (c_uint,)),
        "cuDriverGetVersion": ("cuDriverGetVersion", (_INT_OUT,)),
        "cuGetErrorName": ("cuGetErrorName", (c_int, _TEXT_OUT)),
        "cuGetErrorString": ("cuGetErrorString", (c_int, _TEXT_OUT)),
        "cuDeviceGetCount": ("cuDeviceGetCount", (_INT_OUT,)),
        "cuDeviceGet": ("cuDeviceGet", (_INT_OUT, c_int)),
        "cuDeviceGetName": ("cuDeviceGetName", (POINTER(c_char), c_int, c_int)),
        "cuDeviceGetUuid": ("cuDeviceGetUuid", (POINTER(c_char), c_int)),
        "cuDeviceGetAttribute": ("cuDeviceGetAttribute", (_INT_OUT, c_int, c_int)),
        "cuDeviceTotalMem": ("cuDeviceTotalMem_v2", (_SIZE_OUT, c_int)),
        "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", (_HANDLE_OUT, c_int)),
        "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", (c_int,)),
        "cuCtxPushCurrent": ("cuCtxPushCurrent_v2", (_HANDLE,)),
        "cuCtxPopCurrent": ("cuCtxPopCurrent_v2", (_HANDLE_OUT,)),
        "cuCtxSynchronize": ("cuCtxSynchronize", ()),
        "cuMemGetInfo": ("cuMemGetInfo_v2", (_SIZE_OUT, _SIZE_OUT)),
        "cuMemAlloc": ("cuMemAlloc_v2", (_ADDRESS_OUT, c_size_t)),
        "cuMemFree": ("cuMemFree_v2", (_ADDRESS,)),
        "cuMemHostAlloc": ("cuMemHostAlloc", (_HANDLE_OUT, c_size_t, c_uint)),
        "cuMemFreeHost": ("cuMemFreeHost", (c_void_p,)),
        "cuMemHostRegister": ("cuMemHostRegister_v2", (c_void_p, c_size_t, c_uint)),
        "cuMemHostUnregister": ("cuMemHostUnregister", (c_void_p,)),
        "cuMemHostGetDevicePointer": (
            "cuMemHostGetDevicePointer_v2",
            (_ADDRESS_OUT, c_void_p, c_uint),
        ),
        "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", (_ADDRESS, c_void_p, c_size_t, _HANDLE)),
        "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", (c_void_p, _ADDRESS, c_size_t, _HANDLE)),
        "cuMemcpyDtoDAsync": ("cuMemcpyDtoDAsync_v2", (_ADDRESS, _ADDRESS, c_size_t, _HANDLE)),
        "cuMemsetD8Async": ("cuMemsetD8Async", (_ADDRESS, ctypes.c_ubyte, c_size_t, _HANDLE)),
        "cuStreamCreate": ("cuStreamCreate", (_HANDLE_OUT, c_uint)),
        "cuStreamDestroy": ("cuStreamDestroy_v2", (_HANDLE,)),
        "cuStreamQuery": ("cuStreamQuery", (_HANDLE,)),
        "cuStreamSynchronize": ("cuStreamSynchronize", (_HANDLE,)),
        "cuEventCreate": ("cuEventCreate", (_HANDLE_OUT, c_uint)),
        "cuEventDestroy": ("cuEventDestroy_v2", (_HANDLE,)),
        "cuEventRecord": ("cuEventRecord", (_HANDLE, _HANDLE)),
        "cuEventElapsedTime": ("cuEventElapsedTime", (POINTER(c_float), _HANDLE, _HANDLE)),
        "cuModuleLoadDataEx": (
            "cuModuleLoadDataEx",
            (_HANDLE_OUT, c_void_p, c_uint, _INT_OUT, _HANDLE_OUT),
        ),
        "cuModuleUnload": ("cuModuleUnload", (_HANDLE,)),
        "cuModuleGetFunction": ("cuModuleGetFunction", (_HANDLE_OUT, _HANDLE, c_char_p)),
        "cuFuncGetAttribute": ("cuFuncGetAttribute", (_INT_OUT, c_int, _HANDLE)),
        "cuFuncSetAttribute": ("cuFuncSetAttribute", (_HANDLE, c_int, c_int)),
        "cuLaunchKernel": (
            "cuLaunchKernel",
            (_HANDLE, *_GRID, *_GRID, c_uint, _HANDLE, _HANDLE_OUT, _HANDLE_OUT),
        ),
    }
)
"""Every function that is called: its symbol in the library, and its arguments."""


class Driver:
    """The driver, initialized for this process; ``version`` is 1000 * major + 10 * minor of CUDA.

    ``library`` has a function of ctypes for each symbol of FUNCTIONS.
    """

    def __init__(self, library: object) -> None:
        """Declare the functions and initialize; CudaError where that cannot be done."""
        self._process = os.getpid()
        first = ("cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString")
        self._functions = {name: _function(library, name) for name in first}
        version = c_int()
        self.call("cuDriverGetVersion", version)
        self.version = version.value
        if self.version < MIN_DRIVER_VERSION:
            raise CudaError(
                f"the NVIDIA driver is of CUDA {version_text(self.version)}; needed: CUDA "
                f"{version_text(MIN_DRIVER_VERSION)} or later (install a newer driver)"
            )
        self._functions = {name: _function(library, name) for name in FUNCTIONS}
        code = self.result("cuInit", 0)
        if code == NO_DEVICE:
            raise CudaError(NO_CARD, code=code)
        if code != SUCCESS:
            raise self.error(code, "cuInit")

    @classmethod
    def load(cls) -> Driver:
        """The driver of this machine; CudaError, in one line, if it has none that can be used."""
        names = LIBRARIES.get(sys.platform, ())
        if not names:
            raise CudaError(f"no CUDA on {sys.platform}; supported: linux, win32")
        reason = f"{PurePath(names[0]).name} cannot be loaded"
        for name in names:
            try:
                library = ctypes.CDLL(name)
            except OSError as error:
                # A library that is there may be damaged: images of containers often have an empty
                # one.
                if "No such file" not in str(error) and sys.platform != "win32":
                    reason = str(error)
                continue
            return cls(library)
        raise CudaError(f"no NVIDIA driver is installed ({reason})")

    def address(self, name: str) -> int:
        """Where machine code finds a function of FUNCTIONS."""
        return ctypes.cast(self._functions[name], c_void_p).value or 0

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of FUNCTIONS; CudaError, or one of its kinds, unless it succeeds."""
        code = self.result(name, *arguments)
        if code != SUCCESS:
            raise self.error(code, name)

    def result(self, name: str, *arguments: object) -> int:
        """What a function returns, for those that tell more than success; CudaError after fork."""
        self.check_process()
        return int(self._functions[name](*arguments))

    def check_process(self) -> None:
        """CudaError in a forked child."""
        if self.is_foreign:
            raise CudaError(
                "the graphics card cannot be used in a process that was forked from one that has "
                "used it; load the model in the child, or start processes with spawn"
            )

    @property
    def is_foreign(self) -> bool:
        """Whether this is a forked child, for which the driver knows nothing."""
        return os.getpid() != self._process

    def error(self, code: int, name: str) -> CudaError:
        """The error for a code that the function ``name`` has returned, in the driver's words."""
        kind = CudaError
        if code in LOST:
            kind = CudaLostError
        elif code == OUT_OF_MEMORY:
            kind = CudaMemoryError
        called = self._text("cuGetErrorName", code) or f"error {code}"
        reason, way = self._text("cuGetErrorString", code), advice(code, name)
        told = f"{name}: {called}{f' ({reason})' if reason else ''}{f'; {way}' if way else ''}"
        return kind(told, code=code)

    def _text(self, name: str, code: int) -> str:
        text = c_char_p()
        function = self._functions.get(name)
        if function is None or function(code, text) != SUCCESS or not text.value:
            return ""
        return text.value.decode("utf-8", "replace")


def version_text(version: int) -> str:
    """A version of CUDA as people write it: 12040 is 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _function(library: object, name: str) -> Any:
    symbol, arguments = FUNCTIONS[name]
    try:
        function = getattr(library, symbol)
    except AttributeError:
        raise CudaError(
            f"the NVIDIA driver has no function {symbol}; install a newer driver"
        ) from None
    function.argtypes, function.restype = arguments, c_int
    return function
