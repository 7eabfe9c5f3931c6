"""Compiled kernels on disk and in memory: what is missing is compiled, the rest only loaded.

The folder's name is a hash of everything that the code depends on (all kernel sources, numba,
llvmlite, the CPU, the tier), so stale code cannot run. Loading needs llvmlite alone; Numba is
started, in worker processes, only when something is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding

from edgellama.kernels_cpu.compiling.compile_worker import compile_into, read_checked
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.machine.user_cache import cache_folders, cache_root, folder_to_fill
from edgellama.quant.errors import CacheError, KernelError

logger = logging.getLogger(__name__)

FOLDER_NAME = "kernels"
"""Within the cache folder."""
MONTH_SECONDS = 30 * 24 * 3600
WORKER_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgellama.kernels_cpu.compiling.compile_worker import main; main(sys.argv[2:])"
)
Progress = Callable[[int, int], None]
"""Told the number of kernels compiled so far and their total."""


class CompiledKernels:
    """Compiled kernels of one tier; the machine code lives as long as this object."""

    def __init__(self, tier: Tier) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_default_triple()
        machine = target.create_target_machine(jit=True, codemodel="jitdefault")
        self.tier = tier
        self.code_bytes = 0
        self.num_compiled = 0
        self._engine: Any = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._addresses: dict[str, int] = {}

    def ensure(self, names: Iterable[str], progress: Progress | None = None) -> None:
        """Load the kernels called ``names``, compiling those that the cache lacks.

        ``progress`` is called only if any must be compiled. Raises KernelError on failure.
        """
        wanted = sorted(set(names) - self._addresses.keys())
        if not wanted:
            return

        def count(done: int, total: int) -> None:
            self.num_compiled += done > 0
            if progress:
                progress(done, total)

        objects = _read_or_compile(wanted, self.tier, count)
        for content in objects.values():
            self._engine.add_object_file(binding.ObjectFileRef.from_data(content))
            self.code_bytes += len(content)
        self._engine.finalize_object()
        for name in wanted:
            self._addresses[name] = int(self._engine.get_function_address(name))

    def address(self, name: str) -> int:
        """Address of ``void(int64 args, int64 thread, int64 job)``."""
        return self._addresses[name]


def _read_or_compile(
    names: Sequence[str], tier: Tier, progress: Progress | None
) -> Mapping[str, bytes]:
    name_in_cache = f"{FOLDER_NAME}/{code_key(tier)}"
    places = cache_folders(name_in_cache)
    found = {name: _read_first(places, name) for name in names}
    missing = [name for name, content in found.items() if content is None]
    if missing:
        folder = folder_to_fill(name_in_cache)
        _compile(missing, tier, folder, progress)
        found |= {name: read_checked(folder / f"{name}.o") for name in missing}
    complete = {name: content for name, content in found.items() if content is not None}
    if len(complete) < len(names):
        raise KernelError(f"compiled kernels could not be read back from {folder}")
    return complete


def _read_first(places: Iterable[Path], name: str) -> bytes | None:
    """The kernel from the first place that holds it whole."""
    contents = (read_checked(place / f"{name}.o") for place in places)
    return next((content for content in contents if content is not None), None)


def cache_folder(tier: Tier) -> Path:
    """Where this tier's code lies in the user's cache."""
    return cache_root() / FOLDER_NAME / code_key(tier)


def code_key(tier: Tier) -> str:
    """The name of the folder with this tier's code for the present sources, libraries and CPU."""
    key = hashlib.sha256()
    folder = Path(__file__).parent.parent
    for source in sorted(folder.rglob("*.py")):
        name = source.relative_to(folder).as_posix()
        key.update(name.encode() + b"\0" + source.read_bytes())
    parts = (llvmlite.__version__, binding.get_host_cpu_name(), binding.get_process_triple())
    key.update("\0".join((*parts, _numba_version(), tier.name)).encode())
    return f"{tier.name}-{key.hexdigest()[:16]}"


def _numba_version() -> str:
    """What numba says of its version, without the cost of importing it."""
    spec = find_spec("numba")
    if spec is None or spec.origin is None:
        return "absent"
    return (Path(spec.origin).parent / "_version.py").read_text(encoding="utf-8")


def _compile(names: Sequence[str], tier: Tier, folder: Path, progress: Progress | None) -> None:
    _remove_unused(folder)
    count = 0

    def finished(_: str) -> None:
        nonlocal count
        count += 1
        if progress:
            progress(count, len(names))

    if progress:
        progress(0, len(names))
    if getattr(sys, "frozen", False):
        compile_into(folder, tier.name, names, finished)
    else:
        _compile_in_workers(names, tier, folder, finished)


def _remove_unused(folder: Path) -> None:
    """Drop code of earlier versions that nothing has been added to for a month."""
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # Another process may be at the same.
            if other != folder and time.time() - other.stat().st_mtime > MONTH_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def _compile_in_workers(
    names: Sequence[str], tier: Tier, folder: Path, finished: Callable[[str], None]
) -> None:
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sorted(names, key=lambda name: (-COMPILE_WEIGHTS.get(name.split("_")[0], 1), name)):
        jobs.put(name)
    num_workers = min(MAX_WORKERS, os.cpu_count() or 1, len(names))
    workers = [_start_worker(tier, folder) for _ in range(num_workers)]
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for worker in workers:
        threading.Thread(target=_serve_worker, args=(worker, jobs, lines), daemon=True).start()
    try:
        open_workers = len(workers)
        while open_workers:
            line = lines.get()
            if line is None:
                open_workers -= 1
            else:
                finished(line)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    for worker in workers:
        if worker.wait() != 0:
            report = worker.stderr.read().strip() if worker.stderr else ""
            logger.debug("kernel compiler: %s", report)
            reason = report.splitlines()[-1] if report else f"exit code {worker.returncode}"
            if told := reason.partition(f"{CacheError.__qualname__}: ")[2]:
                raise CacheError(told)
            raise KernelError(f"the kernel compiler failed for tier {tier.name}: {reason}")


MAX_WORKERS = 4
"""Each costs half a second of start-up and 200 MB, and types anew what kernels share."""
COMPILE_WEIGHTS = {"search": 4, "attention": 3, "choose": 3, "gemm": 2}
"""Relative compile times by the first word of a kernel's name, to balance the workers."""


def _start_worker(tier: Tier, folder: Path) -> subprocess.Popen[str]:
    arguments = [json.dumps(sys.path), tier.name, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", WORKER_PROGRAM, *arguments],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip


def _serve_worker(
    worker: subprocess.Popen[str],
    jobs: queue.SimpleQueue[str],
    lines: queue.SimpleQueue[str | None],
) -> None:
    """Give a worker one name after another and pass on what it says of each; None at its end."""
    assert worker.stdin is not None and worker.stdout is not None
    with contextlib.suppress(queue.Empty, OSError):  # No names left, or the worker has died.
        while True:
            print(jobs.get_nowait(), file=worker.stdin, flush=True)
            line = worker.stdout.readline()
            if not line:
                break
            lines.put(line.strip())
    with contextlib.suppress(OSError):
        worker.stdin.close()
    lines.put(None)
