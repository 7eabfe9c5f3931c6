"""What Numba is spared changes no kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellama.kernels_cpu.compiling.compile_pool import compile_kernels
from edgellama.kernels_cpu.machine.cpu import compilable_tier

pytestmark = pytest.mark.slow
KERNELS = ("embed_Q8_0", "quantize_in_order", "merge_attention")
PROGRAM = """
import hashlib
from edgellama.kernels_cpu.compiling import front_end, jit
from edgellama.kernels_cpu.machine.cpu import compilable_tier
from edgellama.kernels_cpu.signatures import kernels_by_name
if {plain}:
    front_end.spare_all = lambda typing_context: None
    del front_end.KernelLibrary._optimize_functions
jit.use_tier(compilable_tier("generic"))
for name in {names}:
    print(name, hashlib.sha256(jit.compile_kernel(kernels_by_name()[name])).hexdigest())
"""


def test_kernels_are_the_same_byte_for_byte() -> None:
    """Numba as it is and Numba as workers use it make the same objects."""
    # Numba's order of variables, and so of registers, follows Python's hashes of strings.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(plain=plain, names=KERNELS)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for plain in (True, False)
    ]  # fmt: skip
    plain, spared = (worker.communicate()[0] for worker in workers)
    assert plain == spared and plain.count("\n") == len(KERNELS)


def test_kernels_do_not_depend_on_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers make the same objects whatever the seed of this process's hashes is."""
    found = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        folder = tmp_path / seed
        folder.mkdir()
        compile_kernels(["rms_norm_records"], compilable_tier("generic"), folder)
        found.append((folder / "rms_norm_records.o").read_bytes())
    assert found[0] == found[1]
