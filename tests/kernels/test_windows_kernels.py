"""Kernels compiled for Windows, run by Wine: its calls, its pages, the bytes that Linux gives."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.kernels import TIERS, Array, KernelRunner

from edgellama.kernels_cpu.compiling.code_loader import Layout
from edgellama.kernels_cpu.compiling.elf_object import ElfObject
from edgellama.kernels_cpu.signatures import SIGNATURES, kernels_by_name
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.quant.formats import FORMATS_BY_NAME

WINE = shutil.which("wine64") or shutil.which("wine") or "/usr/lib/wine/wine64"
COMPILER = "x86_64-w64-mingw32-gcc"
CODE_AT, ARENA_AT, ARENA_BYTES = 1 << 41, 1 << 40, 1 << 26
BETWEEN = 4096
FIXED = 0x10
"""Linux's flag for memory at the given address."""
FUNCTION_IN_STUB = 6
PROGRAM = """
import json, sys; sys.path[:] = json.loads(sys.argv[1])
from llvmlite import binding
binding.get_process_triple = lambda: "x86_64-pc-windows-msvc"
from pathlib import Path
from edgellama.kernels_cpu.compiling.compile_worker import compile_into
compile_into(Path(sys.argv[2]), sys.argv[3], sys.argv[4:], print)
"""
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="Wine"),
]


class RecordingRunner(KernelRunner):
    """Runs kernels on copies at a fixed address, and keeps the memory before and after each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(next(tier for tier in TIERS if not tier.has_byte_tiles))
        self.folder = folder
        self.calls: list[tuple[str, int]] = []
        library = ctypes.CDLL(None)
        library.mmap.restype = pointer = ctypes.c_void_p
        number = ctypes.c_int
        library.mmap.argtypes = (pointer, ctypes.c_size_t, number, number, number, ctypes.c_int64)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED
        rights = mmap.PROT_READ | mmap.PROT_WRITE
        assert library.mmap(ARENA_AT, ARENA_BYTES, rights, flags, -1, 0) == ARENA_AT

    def __call__(self, name: str, num_threads: int = 1, **arguments: Any) -> None:
        """As a ``KernelRunner`` calls a kernel."""
        self.preload([name])
        signature = SIGNATURES[kernels_by_name()[name]]
        arguments["counter"] = np.zeros(layout.COUNTER_BYTES // 8, np.int64)
        places: list[tuple[Array, int]] = []
        record, end = b"", ARENA_AT + BETWEEN
        for parameter in signature.parameters:
            value = arguments[parameter]
            if isinstance(value, np.ndarray):
                places.append((value, end))
                value, end = end, end + -(-value.nbytes // 64) * 64 + BETWEEN
            code = "<f4x" if parameter in signature.float_parameters else "<q"
            record += struct.pack(code, value)
        assert end <= ARENA_AT + ARENA_BYTES
        ctypes.memset(ARENA_AT, 0, end - ARENA_AT)
        ctypes.memmove(ARENA_AT, record, len(record))
        for array, place in places:
            ctypes.memmove(place, array.ctypes.data, array.nbytes)
        self._keep("before", end)
        for thread in reversed(range(num_threads)):
            self._loaded[name](ARENA_AT, thread, 0)
        self._keep("after", end)
        for array, place in places:
            ctypes.memmove(array.ctypes.data, place, array.nbytes)
        self.calls.append((name, num_threads))

    def _keep(self, when: str, end: int) -> None:
        path = self.folder / f"{len(self.calls)}.{when}"
        path.write_bytes(ctypes.string_at(ARENA_AT, end - ARENA_AT))


def write_image(folder: Path, calls: list[tuple[str, int]], objects: list[ElfObject]) -> int:
    """The kernels' code as it must stand at CODE_AT, and the list of calls; bytes of code."""
    placed = Layout.of(objects)
    functions = placed.functions()
    (folder / "image").write_bytes(placed.image(CODE_AT, lambda name: 0))
    lines = [f"{name} {place + FUNCTION_IN_STUB}\n" for name, place in placed.stubs.items()]
    (folder / "stubs").write_text("".join(lines))
    lines = [f"{n} {functions[name]} {threads}\n" for n, (name, threads) in enumerate(calls)]
    (folder / "calls").write_text("".join(lines))
    return placed.code_bytes


def test_kernels_of_windows(tmp_path: Path) -> None:
    """Kernels keep Windows' registers, take its arguments, and write the bytes of Linux's."""
    runner = RecordingRunner(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 512), np.float32)
    for name in ("Q4_0", "Q4_K", "Q8_0", "F16"):
        row_bytes = FORMATS_BY_NAME[name].row_bytes(512)
        weights = rng.integers(0, 60, (40, row_bytes), np.uint8)
        runner.gemv(name, weights, x[:1], 2)
        runner.gemm(name, weights, x, 2)
    runner.rms_norm(x, x[0], 1e-5)
    runner.swiglu(x, x)
    names = sorted({name for name, _ in runner.calls})
    command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), str(tmp_path)]
    subprocess.run([*command, runner.tier.name, *names], check=True, capture_output=True)
    compiled = [(name, (tmp_path / f"{name}.o").read_bytes()[32:]) for name in names]
    code_bytes = write_image(
        tmp_path, runner.calls, [ElfObject.parse(content, name) for name, content in compiled]
    )
    source = Path(__file__).with_name("windows_calls.c")
    subprocess.run([COMPILER, "-O1", "-o", tmp_path / "calls.exe", source], check=True)
    done = subprocess.run(
        [WINE, "calls.exe", str(CODE_AT), str(code_bytes), str(ARENA_AT)],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{n} same kept" for n in range(len(runner.calls))]
