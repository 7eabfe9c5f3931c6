"""The processes that compile kernels: at once, in the background, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.cold_kernels import KERNEL, compiled, run_python

from edgellama.kernels_cpu.compiling import background, compile_pool
from edgellama.kernels_cpu.compiling.code_cache import MAX_ATTEMPTS, CompiledKernels, cache_folder
from edgellama.kernels_cpu.machine.cpu import GENERIC, Tier
from edgellama.quant.errors import CacheError


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_worker_that_meets_a_full_disk(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compiling worker cannot write is told as the parent would tell it."""
    folder = cache_folder(GENERIC)
    worker = (
        "import os\n"
        "def fdopen(descriptor, mode):\n"
        "    os.close(descriptor)\n"
        "    return open('/dev/full', mode)\n"
        "os.fdopen = fdopen\n"
    )
    start = "importlib.import_module"
    program = compile_pool.WORKER_PROGRAM.replace(start, f"exec({worker!r}); {start}", 1)
    monkeypatch.setattr(compile_pool, "WORKER_PROGRAM", program)
    with pytest.raises(CacheError, match=rf"^{folder}/{KERNEL}\.o cannot be written: No space"):
        compiled()
    assert list(folder.glob(f"{KERNEL}*")) == []


OTHER_CPU = """
import hashlib
from llvmlite import binding
name = sys.argv[1]
if name:
    binding.get_host_cpu_name = lambda: name
    host = binding.get_host_cpu_features()
    host.update({feature: False for feature in host})
    binding.get_host_cpu_features = lambda: host
from edgellama.kernels_cpu.compiling import jit
from edgellama.kernels_cpu.machine.cpu import compilable_tiers
from edgellama.kernels_cpu.signatures import kernels_by_name
jit.use_tier(compilable_tiers()[0])
for kernel in ("add_bias", "rms_norm_float"):
    # Names of inner functions, beside the code, differ from run to run.
    code = binding.ObjectFileRef.from_data(jit.compile_kernel(kernels_by_name()[kernel]))
    parts = [section.data() for section in code.sections() if section.is_text()]
    print(hashlib.sha256(b"".join(parts)).hexdigest(), len(b"".join(parts)) > 500)
"""


def test_code_of_a_tier_does_not_depend_on_the_cpu() -> None:
    """A tier's code is the same bytes on a CPU of another name without any feature."""
    here, there = (run_python(OTHER_CPU, name) for name in ("", "i386"))
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert here.stdout == there.stdout and here.stdout.count("True") == 2


def background_threads() -> list[threading.Thread]:
    """Those that see to compilations in the background."""
    return [thread for thread in threading.enumerate() if thread.name == "edgellama-compile"]


def test_companions_follow_in_the_background(empty_cache: Path) -> None:
    """When anything is compiled its companions follow, unawaited; when nothing is, nothing is."""
    progress: list[tuple[int, int]] = []
    kernels = CompiledKernels(GENERIC)
    kernels.ensure([KERNEL], lambda *pair: progress.append(pair), ["sum_squares", KERNEL])
    assert progress == [(0, 1), (1, 1)]
    for thread in background_threads():
        thread.join()
    assert {path.stem for path in empty_cache.rglob("*.o")} == {KERNEL, "sum_squares"}
    CompiledKernels(GENERIC).ensure([KERNEL], None, ["merge_attention"])
    assert not background_threads()
    assert len(list(empty_cache.rglob("*.o"))) == 2


def test_what_can_wait_is_awaited_by_nobody(empty_cache: Path) -> None:
    """What is wanted later is compiled in the background, at once or when somebody asks for it."""
    for _ in range(2):
        kernels = CompiledKernels(GENERIC)
        kernels.ensure([KERNEL], later=lambda: [KERNEL, "sum_squares"])
        assert kernels.are_coming([KERNEL, "sum_squares"])
        for thread in background_threads():
            thread.join()
        assert not kernels.are_coming([KERNEL, "sum_squares"])
        assert not kernels.are_there([KERNEL, "merge_attention"])
        (path,) = empty_cache.rglob("sum_squares.o")
        path.unlink()
        assert not kernels.are_there(["sum_squares"])


def test_a_worker_that_dies_is_followed_by_another(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for kernels has them compiled again, but not for ever."""
    started: list[Sequence[str]] = []

    def die(names: Sequence[str], tier: Tier, folder: Path) -> threading.Thread:
        started.append(names)
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        return thread

    monkeypatch.setattr(background, "compile_in_background", die)
    kernels = CompiledKernels(GENERIC)
    assert all(kernels.are_coming([KERNEL]) for _ in range(10))
    assert started == [[KERNEL]] * MAX_ATTEMPTS


IN_BACKGROUND = """
import psutil, threading
from pathlib import Path
from edgellama.kernels_cpu.compiling.background import compile_in_background
from edgellama.kernels_cpu.machine.cpu import GENERIC
compile_in_background(["add_bias", "sum_squares", "merge_attention"], GENERIC, Path(sys.argv[1]))
while not list(Path(sys.argv[1]).glob("*.o")):
    threading.Event().wait(0.05)
(worker,) = psutil.Process().children()
print(worker.pid, worker.nice())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="priorities of POSIX")
def test_background_ends_with_its_process(tmp_path: Path) -> None:
    """Its worker has the lowest priority, and compiles little more once nobody wants it."""
    told = run_python(IN_BACKGROUND, str(tmp_path))
    assert told.returncode == 0, told.stderr
    number, priority = map(int, told.stdout.split())
    assert priority == 19
    psutil = pytest.importorskip("psutil")
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(number).wait(120)
    assert len(list(tmp_path.glob("*.o"))) in (1, 2)


def test_workers_keep_to_their_rooms() -> None:
    """A worker stays where it has been, takes a room of its own, then what others have left."""
    names = ["gemv_Q4_0", "gemm_Q4_0", "rms_norm_float", "swiglu_float", "choose_token"]
    jobs, first, second = compile_pool.Jobs(names), set[str](), set[str]()
    assert [jobs.take(first), jobs.take(second)] == ["choose_token", "gemm_Q4_0"]
    assert jobs.take(second) == "gemv_Q4_0"
    assert jobs.take(first) == "rms_norm_float"
    assert jobs.take(second) == "swiglu_float"
    assert jobs.take(first) is jobs.take(second) is None


ONE_OF_MANY = f"""
from edgellama.kernels_cpu.compiling import compile_pool
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import GENERIC
compile_kernels, made = compile_pool.compile_kernels, []
def note(names, *how):
    made.extend(names)
    compile_kernels(names, *how)
compile_pool.compile_kernels = note
kernels = CompiledKernels(GENERIC)
print("ready", flush=True)
sys.stdin.readline()
kernels.ensure(["{KERNEL}"])
print(kernels.address("{KERNEL}") > 0, made)
"""


def test_two_processes_at_once(empty_cache: Path) -> None:
    """Of processes that need a kernel at the same time, one compiles it, and both have it."""
    start = "import sys, json; sys.path[:] = json.loads(sys.argv[1])\n"
    command = [sys.executable, "-c", start + ONE_OF_MANY, json.dumps(sys.path)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        print("go", file=process.stdin, flush=True)
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert sorted(told) == [f"True ['{KERNEL}']", "True []"]
    assert len(list(empty_cache.rglob("*.o"))) == 1


EXTERNAL_KERNEL = """
import math, types
import numpy as np
from edgellama.kernels_cpu.compiling import jit
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.kernels_cpu.signatures import Kernel, Signature
from edgellama.kernels_cpu.simd.vectors import {reader}, {writer}
from edgellama.quant.errors import CacheError, KernelError

def factory():
    def kernel(x, thread, job):
        {writer}(x, {body})
    return kernel

module = types.ModuleType("edgellama.kernels_cpu.sample")
module.factory = factory
sys.modules[module.__name__] = module
jit.signature_of = lambda kernel: Signature("sample", "factory", ("x",))
jit.use_tier(select_tier("generic"))
try:
    print(len(jit.compile_kernel(Kernel("sample"))) > 100)
except KernelError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("read_f32(x) + np.float32(1)", "True"),
        ("np.float32(math.gamma(read_f32(x)))", "refused: kernel sample needs"),
    ],
)
def test_external_symbols(body: str, expected: str) -> None:
    """A kernel that would call the C library is refused when it is compiled, by the symbol."""
    program = EXTERNAL_KERNEL.format(reader="read_f32", writer="write_f32", body=body)
    result = run_python(program)
    assert result.stdout.startswith(expected), result.stdout + result.stderr


def test_one_tier_a_process() -> None:
    """A process that compiles for one tier refuses to compile for another."""
    result = run_python(
        "import dataclasses\n"
        "from edgellama.kernels_cpu.compiling import jit\n"
        "from edgellama.kernels_cpu.machine.cpu import GENERIC\n"
        "jit.use_tier(GENERIC); jit.use_tier(GENERIC)\n"
        "jit.use_tier(dataclasses.replace(GENERIC, name='other'))"
    )
    assert result.returncode != 0
    assert "KernelError: this process already compiles for generic, not for other" in result.stderr
