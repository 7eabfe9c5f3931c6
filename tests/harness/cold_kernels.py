"""One small kernel, compiled or loaded anew; and programs in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import GENERIC

KERNEL = "add_bias"


def compiled(progress: list[tuple[int, int]] | None = None, name: str = KERNEL) -> int:
    """Compile or load a kernel anew; its address."""
    kernels = CompiledKernels(GENERIC)
    kernels.ensure([name], None if progress is None else lambda *pair: progress.append(pair))
    return kernels.address(name)


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a fresh interpreter that finds the same modules."""
    start = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))\n"
    command = [sys.executable, "-c", start + program, json.dumps(sys.path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
