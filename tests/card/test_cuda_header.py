"""The functions and numbers of the driver that we use are those of NVIDIA's own header.

What the header says was written by ``reference/make_cuda_golden.py``.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import pytest
from doubles.fake_cuda import MAX_SHARED_BYTES
from places import DATA

from edgellama.cuda import advice, cards, driver, memory, modules, streams

GOLDEN = json.loads((DATA / "cuda_header.json").read_text("utf-8"))
NUMBERS: dict[str, Any] = GOLDEN["numbers"]
HANDLES = ("CUcontext", "CUevent", "CUfunction", "CUmodule", "CUstream")
SIZES = {
    "CUdevice": ctypes.c_int, "CUdeviceptr": ctypes.c_uint64, "size_t": ctypes.c_size_t,
    "unsigned int": ctypes.c_uint, "unsigned char": ctypes.c_ubyte, "int": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int, "CUfunction_attribute": ctypes.c_int,
    "CUjit_option": ctypes.c_int, "CUresult": ctypes.c_int, "float": ctypes.c_float,
    **dict.fromkeys(HANDLES, ctypes.c_void_p),
}  # fmt: skip
"""C types that are passed by value, or pointed at."""
TEXTS = {"char": ctypes.c_char, "CUuuid": ctypes.c_char}
ADVISED = {
    "CUDA_ERROR_NOT_INITIALIZED": advice.NOT_INITIALIZED,
    "CUDA_ERROR_STUB_LIBRARY": advice.STUB_LIBRARY,
    "CUDA_ERROR_DEVICE_UNAVAILABLE": advice.UNAVAILABLE,
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": advice.COMPILER_NOT_FOUND,
    "CUDA_ERROR_JIT_COMPILATION_DISABLED": advice.COMPILATION_DISABLED,
    "CUDA_ERROR_OPERATING_SYSTEM": advice.OPERATING_SYSTEM,
    "CUDA_ERROR_SYSTEM_NOT_READY": advice.SYSTEM_NOT_READY,
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": advice.DRIVER_MISMATCH,
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": advice.NO_COMPATIBILITY,
    "CUDA_ERROR_UNKNOWN": advice.UNKNOWN,
}
"""Codes about which something is said."""
USED = {
    "CUDA_SUCCESS": driver.SUCCESS,
    "CUDA_ERROR_OUT_OF_MEMORY": driver.OUT_OF_MEMORY,
    "CUDA_ERROR_NO_DEVICE": driver.NO_DEVICE,
    "CUDA_ERROR_NOT_READY": driver.NOT_READY,
    **ADVISED,
    "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": cards.MULTIPROCESSORS,
    "CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT": cards.TIME_LIMIT,
    "CU_DEVICE_ATTRIBUTE_INTEGRATED": cards.INTEGRATED,
    "CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY": cards.MAPS_HOST_MEMORY,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_MODE": cards.COMPUTE_MODE,
    "CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE": cards.MEMORY_CLOCK_KHZ,
    "CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH": cards.MEMORY_BUS_BITS,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cards.CAPABILITY_MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cards.CAPABILITY_MINOR,
    "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": MAX_SHARED_BYTES,
    "CU_COMPUTEMODE_PROHIBITED": cards.PROHIBITED,
    "CU_STREAM_NON_BLOCKING": streams.NON_BLOCKING,
    "CU_MEMHOSTALLOC_PORTABLE": memory.PORTABLE,
    "CU_MEMHOSTALLOC_DEVICEMAP": memory.MAPPED,
    "CU_MEMHOSTREGISTER_PORTABLE": memory.PORTABLE,
    "CU_MEMHOSTREGISTER_DEVICEMAP": memory.MAPPED,
    "CU_JIT_ERROR_LOG_BUFFER": modules.ERROR_LOG,
    "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES": modules.ERROR_LOG_BYTES,
    "CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": modules.MAX_THREADS,
    "CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES": modules.LOCAL_BYTES,
    "CU_FUNC_ATTRIBUTE_NUM_REGS": modules.REGISTERS,
    "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": modules.DYNAMIC_SHARED_BYTES,
}


@pytest.mark.parametrize("name", driver.FUNCTIONS)
def test_a_function_is_declared_as_in_the_header(name: str) -> None:
    """A function has the symbol, and each parameter the size and kind, that the header says."""
    symbol, declared = driver.FUNCTIONS[name]
    header = GOLDEN["functions"][name]
    assert symbol == header["symbol"]
    assert len(declared) == len(header["types"])
    for ours, theirs in zip(declared, header["types"], strict=True):
        assert is_passed_as(ours, theirs), f"{theirs}: {ours}"


def is_passed_as(ours: Any, theirs: str) -> bool:
    """Whether a type of ctypes stands for a C type."""
    plain = theirs.removeprefix("const ")
    if not plain.endswith("*"):
        return bool(ours is SIZES[plain])
    target = plain.rstrip("*").strip()
    if plain.endswith("**"):
        kinds = {"char": ctypes.c_char_p, "void": ctypes.c_void_p}
        return bool(ours is ctypes.POINTER(kinds[target]))
    if target == "void" or ours is ctypes.c_char_p:
        return ours is ctypes.c_void_p or target == "char"
    return bool(ours is ctypes.POINTER(TEXTS.get(target) or SIZES[target]))


@pytest.mark.parametrize("name", USED)
def test_a_number_is_the_headers(name: str) -> None:
    """Codes, flags, options and attributes have the numbers that the header says."""
    assert USED[name] == NUMBERS[name]


def test_errors_that_lose_the_context_are_the_headers() -> None:
    """Every code of the list is one of those names, and no other."""
    others = USED.keys() - {"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_UNKNOWN"}
    names = {name for name in NUMBERS if name.startswith("CUDA_ERROR_")} - others
    assert {NUMBERS[name] for name in names} == driver.LOST
    assert set(ADVISED.values()) == {*advice.ADVICE, *advice.START_ADVICE}
