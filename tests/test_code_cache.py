"""The cache of compiled kernels: damage, keys, folders, workers, and what a warm start imports."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from elf_bytes import sample_object
from kernel_harness import runner_of
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.kernels_cpu.compiling import code_cache, compile_pool
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, cache_folder
from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.compiling.source_hash import (
    BOUND_NAME,
    FORMATS_FILE,
    SOURCE_FOLDER,
    source_hash,
)
from edgellama.kernels_cpu.machine.cpu import GENERIC, TIERS, select_tier
from edgellama.kernels_cpu.machine.user_cache import (
    CACHE_VARIABLE,
    cache_folders,
    folder_to_fill,
    temporary_root,
)
from edgellama.quant.errors import CacheError, KernelError
from edgellama.quant.gguf.file import GGUFFile

KERNEL = "add_bias"


@pytest.fixture
def cold_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this process and its children."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


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


def test_cold_and_warm(cold_cache: Path) -> None:
    """The first use compiles and reports it, the second only loads and reports nothing."""
    progress: list[tuple[int, int]] = []
    assert compiled(progress)
    assert progress == [(0, 1), (1, 1)]
    assert [path.name for path in cold_cache.rglob("*.o")] == [f"{KERNEL}.o"]
    progress.clear()
    assert compiled(progress)
    assert progress == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_damaged_object(cold_cache: Path, damage: str) -> None:
    """A stored kernel that was damaged is compiled again, and the file repaired."""
    stored = runner_object()
    path = cache_folder(GENERIC) / f"{KERNEL}.o"
    path.parent.mkdir(parents=True)
    flipped = bytearray(stored)
    flipped[len(stored) // 2] ^= 1
    damaged = {
        "flip": bytes(flipped), "truncate": stored[:-1], "empty": b"", "text": b"x" * 4000,
    }[damage]  # fmt: skip
    path.write_bytes(damaged)
    assert read_checked(path) is None
    if damage == "flip":
        progress: list[tuple[int, int]] = []
        assert compiled(progress)
        assert progress == [(0, 1), (1, 1)]
        assert read_checked(path)


def test_stored_kernel_that_is_no_object(cold_cache: Path) -> None:
    """What has the right digest and is no kernel is compiled anew, like what is damaged."""
    folder = cache_folder(GENERIC)
    folder.mkdir(parents=True)
    path = folder / f"{KERNEL}.o"
    for content in (b"machine code", sample_object()):
        write_checked(path, content)
        progress: list[tuple[int, int]] = []
        assert compiled(progress)
        assert progress == [(0, 1), (1, 1)]


def runner_object() -> bytes:
    """A kernel's stored object, as bytes with its digest."""
    content = b"machine code" * 100
    folder = cache_folder(GENERIC).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sample.o"
    write_checked(path, content)
    assert read_checked(path) == content
    return path.read_bytes()


def test_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves neither a new file nor a temporary one, and the old one whole."""
    path = tmp_path / "kernel.o"
    write_checked(path, b"old")

    def failing(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(CacheError, match="disk full"):
        write_checked(path, b"new")
    assert read_checked(path) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.o"]


def unusable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that cannot be made, and an empty folder for what is temporary."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "file" / "cache"


def test_unusable_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels of a cache that cannot be written go to a private folder, which is said once."""
    folder = unusable_cache(tmp_path, monkeypatch)
    progress: list[tuple[int, int]] = []
    assert compiled(progress)
    assert compiled(progress)
    assert progress == [(0, 1), (1, 1)]
    (temporary,) = (tmp_path / "temporary").iterdir()
    assert temporary.stat().st_mode & 0o077 == 0
    (record,) = caplog.records
    for text in (str(folder), str(temporary), "Not a directory", CACHE_VARIABLE):
        assert text in record.getMessage()


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary folder is open to others too, the error names cache and variable."""
    folder = unusable_cache(tmp_path, monkeypatch)
    temporary_root().mkdir(mode=0o777)
    temporary_root().chmod(0o777)
    with pytest.raises(CacheError, match=rf"{folder}.*Not a directory.*{CACHE_VARIABLE}"):
        compiled()
    assert cache_folders("kernels") == [folder / "kernels"]


def test_full_disk(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error that names the folder and two ways out, and nothing replaces it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(CacheError, match=rf"{cold_cache}.*No space.*{CACHE_VARIABLE}"):
        folder_to_fill("kernels")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_worker_that_meets_a_full_disk(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert list(folder.iterdir()) == []


def test_old_code_is_dropped(cold_cache: Path) -> None:
    """A compilation drops folders that nothing was added to for a month, and no others."""
    old, recent = (cold_cache / "kernels" / name for name in ("generic-old", "generic-recent"))
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        (folder / "kernel.o").write_bytes(b"code")
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    compiled()
    assert not old.exists()
    assert (recent / "kernel.o").exists()


def test_unknown_kernel(cold_cache: Path) -> None:
    """A kernel that cannot be compiled is a KernelError that says why and for which tier."""
    with pytest.raises(KernelError, match=r"generic(.|\n)*no_such_kernel"):
        compiled(name="no_such_kernel")


def test_key_of_tiers(cold_cache: Path) -> None:
    """Each tier has a folder of its own, the same one every time."""
    folders = [cache_folder(tier) for tier in TIERS]
    assert len(set(folders)) == len(TIERS)
    assert folders == [cache_folder(tier) for tier in TIERS]
    assert all(folder.is_relative_to(cold_cache) for folder in folders)


def copy_sources(folder: Path) -> Path:
    """A copy of the kernels' sources, with the formats beside them."""
    copy = folder / "kernels_cpu"
    shutil.copytree(SOURCE_FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    formats = copy.parent / FORMATS_FILE
    formats.parent.mkdir()
    shutil.copy(SOURCE_FOLDER.parent / FORMATS_FILE, formats)
    return copy


def test_key_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any kernel source, also in one that others inline, or in the formats, changes
    the folder."""
    copy = copy_sources(tmp_path)
    monkeypatch.setattr(code_cache, "source_hash", lambda: source_hash(copy))
    before = cache_folder(GENERIC)
    monkeypatch.undo()
    assert cache_folder(GENERIC).name == before.name
    monkeypatch.setattr(code_cache, "source_hash", lambda: source_hash(copy))
    for name in (
        "simd/vectors.py",
        "matrices/gemv.py",
        "formats/blocks.py",
        "quantizers/scale_search.py",
        "../quant/formats.py",
    ):
        with (copy / name).open("a") as file:
            file.write("# changed\n")
        assert cache_folder(GENERIC) != before
        before = cache_folder(GENERIC)


def test_key_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sources the hash that was bound at build time counts; without it, an error."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert source_hash(tmp_path) is None
    (tmp_path / BOUND_NAME).write_text("abc\n", "ascii")
    assert source_hash(tmp_path) == "abc"
    folders = []
    for sources in ("abc", "abd"):
        monkeypatch.setattr(code_cache, "source_hash", lambda value=sources: value)
        folders.append(cache_folder(GENERIC))
    assert folders[0] != folders[1]
    monkeypatch.setattr(code_cache, "source_hash", lambda: None)
    with pytest.raises(KernelError, match=r"frozen without.*source_hash\.txt"):
        cache_folder(GENERIC)


def test_sources_count_more_than_a_bound_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sources lie they are hashed, whatever a wheel has bound; in a frozen application the
    bound hash counts, since only some of them may be there."""
    copy = copy_sources(tmp_path)
    (copy / BOUND_NAME).write_text("abc", "ascii")
    assert source_hash(copy) == source_hash() != "abc"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert source_hash(copy) == "abc"


def test_key_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of LLVM or of Numba, or another system, changes the folder."""
    before, real = cache_folder(GENERIC), code_cache._package_version
    for module, name, value in (
        (code_cache, "_package_version", lambda name: "0.0" if name == "llvmlite" else real(name)),
        (code_cache, "_package_version", lambda name: "0.0" if name == "numba" else real(name)),
        (code_cache, "system_name", lambda: "other-system"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert cache_folder(GENERIC) != before
    assert cache_folder(GENERIC) == before


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
from edgellama.kernels_cpu.signatures import KERNELS
jit.use_tier(compilable_tiers()[0])
for kernel in ("add_bias", "rms_norm_float"):
    # Names of inner functions, beside the code, differ from run to run.
    code = binding.ObjectFileRef.from_data(jit.compile_kernel(KERNELS[kernel]))
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


def test_companions_follow_in_the_background(cold_cache: Path) -> None:
    """When anything is compiled its companions follow, unawaited; when nothing is, nothing is."""
    progress: list[tuple[int, int]] = []
    kernels = CompiledKernels(GENERIC)
    kernels.ensure([KERNEL], lambda *pair: progress.append(pair), ["sum_squares", KERNEL])
    assert progress == [(0, 1), (1, 1)]
    for thread in background_threads():
        thread.join()
    assert {path.stem for path in cold_cache.rglob("*.o")} == {KERNEL, "sum_squares"}
    CompiledKernels(GENERIC).ensure([KERNEL], None, ["merge_attention"])
    assert not background_threads()
    assert len(list(cold_cache.rglob("*.o"))) == 2


def test_what_can_wait_is_awaited_by_nobody(cold_cache: Path) -> None:
    """What is wanted later is compiled in the background, even if nothing else had to be."""
    for _ in range(2):
        kernels = CompiledKernels(GENERIC)
        kernels.ensure([KERNEL], later=[KERNEL, "sum_squares"])
        for thread in background_threads():
            thread.join()
        assert kernels.are_there([KERNEL, "sum_squares"])
        assert not kernels.are_there([KERNEL, "merge_attention"])
        (path,) = cold_cache.rglob("sum_squares.o")
        path.unlink()
        assert not kernels.are_there(["sum_squares"])


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


def test_two_processes_at_once(cold_cache: Path) -> None:
    """Processes that compile the same kernel at the same time both end with a whole one."""
    program = (
        "from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels\n"
        "from edgellama.kernels_cpu.machine.cpu import GENERIC\n"
        f"k = CompiledKernels(GENERIC); k.ensure(['{KERNEL}']); print(k.address('{KERNEL}') > 0)"
    )
    command = [sys.executable, "-c", "import sys, json; sys.path[:] = json.loads(sys.argv[1])\n"
               + program, json.dumps(sys.path)]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=120)[0].strip() for p in processes] == ["True", "True"]
    assert len(list(cold_cache.rglob("*.o"))) == 1


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


WARM_START = """
from edgellama import Llama
with Llama(sys.argv[1], num_threads=2, kv_type="f16", progress=print) as llama:
    found = llama.generate("Some text", max_tokens=3, temperature=0, ignore_eos=True)
heavy = {"numba", "llvmlite", "jinja2", "rich", "prompt_toolkit", "tiktoken", "sentencepiece"}
heavy |= {"asyncio", "ssl", "_hashlib", "subprocess", "numpy.random"}
print(len(found.tokens), sorted(heavy & set(sys.modules)))
"""


def test_warm_start_without_a_compiler(tmp_path: Path) -> None:
    """With a warm cache a model runs without a compiler, OpenSSL and the like, silently."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(weight_format="Q4_0"))
    with Engine(GGUFFile(path)) as engine:
        CompiledKernels(engine.tier).ensure(engine.usual_kernels())
    warm = run_python(WARM_START, str(path))
    assert warm.stdout == "3 []\n", warm.stdout + warm.stderr


def test_all_in_one_call_or_several() -> None:
    """Kernels asked for later join those that are loaded; repeated names cost nothing."""
    runner = runner_of(select_tier())
    runner.preload([KERNEL])
    address = runner.kernels.address(KERNEL)
    size = runner.kernels.code_bytes
    runner.kernels.ensure([KERNEL, KERNEL])
    assert runner.kernels.address(KERNEL) == address
    assert runner.kernels.code_bytes == size
    with pytest.raises(KeyError):
        runner.kernels.address("no_such_kernel")
