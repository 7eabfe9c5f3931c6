"""Compiles kernels in several processes at once, or in this one where there is no Python to start.

Which kernels, and where their code lies, is the caller's business; how one is compiled is known
to the module that a worker runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from edgellama.kernels_cpu.compiling import compile_worker
from edgellama.kernels_cpu.compiling.compile_worker import LOW_PRIORITY
from edgellama.kernels_cpu.compiling.exported_kernels import EXPORT_VARIABLE
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import kernels_by_name, signature_of
from edgellama.quant.errors import CacheError, KernelError

logger = logging.getLogger(__name__)

MAX_WORKERS = 4
"""Each costs half a second of start-up and 200 MB, and types anew what kernels share."""
COMPILE_WEIGHTS: Mapping[str, int] = MappingProxyType(
    {"search": 4, "attention_direct": 3, "attention_packed": 3, "choose_token": 3, "gemm": 2}
)
"""Relative compile times of families of kernels, to balance the workers; others take 1."""
WORKER = compile_worker.__name__
"""The module of workers that make machine code. Others have the same ``main`` and
``compile_into``."""
WORKER_PROGRAM = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module(sys.argv[2]).main(sys.argv[3:])"
)
SAME_ORDER: Mapping[str, str] = MappingProxyType({"PYTHONHASHSEED": "0"})
"""Numba numbers variables in the order of sets, so that another seed gives other registers."""
Progress = Callable[[int, int], None]
"""Told the number of kernels compiled so far and their total."""


def compile_kernels(
    names: Sequence[str],
    tier: Tier,
    folder: Path,
    progress: Progress | None = None,
    worker: str = WORKER,
) -> None:
    """Compile the kernels of these names into ``folder``; KernelError on failure."""
    if find_spec("numba") is None:
        raise KernelError(
            f"{names[0]} must be compiled for {tier.name}, and Numba is not here; ship it with the "
            f"others (edgellama warmup --export FOLDER; {EXPORT_VARIABLE}=FOLDER), or install numba"
        )
    count = 0

    def finished(_: str) -> None:
        nonlocal count
        count += 1
        if progress:
            progress(count, len(names))

    if progress:
        progress(0, len(names))
    if getattr(sys, "frozen", False):
        importlib.import_module(worker).compile_into(folder, tier.name, names, finished)
    else:
        _compile_in_workers(names, tier, folder, finished, worker)


def _compile_in_workers(
    names: Sequence[str], tier: Tier, folder: Path, finished: Callable[[str], None], module: str
) -> None:
    jobs = Jobs(names)
    num_workers = min(MAX_WORKERS, os.cpu_count() or 1, len(names))
    workers = [start_worker(tier, folder, module) for _ in range(num_workers)]
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
        with worker:
            report = worker.stderr.read().strip() if worker.stderr else ""
        if worker.returncode != 0:
            logger.debug("kernel compiler: %s", report)
            reason = report.splitlines()[-1] if report else f"exit code {worker.returncode}"
            if told := reason.partition(f"{CacheError.__qualname__}: ")[2]:
                raise CacheError(told)
            raise KernelError(f"the kernel compiler failed for tier {tier.name}: {reason}")


class Jobs:
    """Names of kernels that nobody compiles yet, shared by those who serve workers.

    Kernels of one room share functions, which a worker types once. So each stays in its rooms as
    long as there is work, then takes a room that nobody is in, and helps others in the end.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._left = sorted(names, key=lambda name: (-_compile_weight(name), name))
        self._entered: set[str] = set()
        self._lock = threading.Lock()

    def take(self, own_rooms: set[str]) -> str | None:
        """The next kernel for a worker, whose rooms are noted; None at the end."""
        with self._lock:
            if not self._left:
                return None
            rooms = [_room(name) for name in self._left]
            own = (index for index, room in enumerate(rooms) if room in own_rooms)
            free = (index for index, room in enumerate(rooms) if room not in self._entered)
            index = next(own, next(free, 0))
            own_rooms.add(rooms[index])
            self._entered.add(rooms[index])
            return self._left.pop(index)


def _room(name: str) -> str:
    kernel = kernels_by_name().get(name)  # A worker says which name it does not know.
    return signature_of(kernel).module.partition(".")[0] if kernel else ""


def _compile_weight(name: str) -> int:
    kernel = kernels_by_name().get(name)
    return COMPILE_WEIGHTS.get(kernel.family, 1) if kernel else 1


def start_worker(
    tier: Tier, folder: Path, module: str = WORKER, *, in_background: bool = False
) -> subprocess.Popen[str]:
    """A process that runs ``module`` and compiles what it reads, see ``compile_worker``.

    ``in_background``: at the lowest priority, and Ctrl-C in the terminal does not reach it.
    """
    arguments = [json.dumps(sys.path), module, tier.name, str(folder)]
    if in_background:
        arguments.append(LOW_PRIORITY)
    flags = 0
    if in_background and sys.platform == "win32":
        flags = subprocess.IDLE_PRIORITY_CLASS | subprocess.CREATE_NEW_PROCESS_GROUP
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", WORKER_PROGRAM, *arguments],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **SAME_ORDER},
        creationflags=flags, start_new_session=in_background,
    )  # fmt: skip


def _serve_worker(
    worker: subprocess.Popen[str],
    jobs: Jobs,
    lines: queue.SimpleQueue[str | None],
) -> None:
    """Give a worker one name after another and pass on what it says of each; None at its end."""
    assert worker.stdin is not None and worker.stdout is not None
    rooms: set[str] = set()
    with contextlib.suppress(OSError):  # The worker has died.
        while (name := jobs.take(rooms)) is not None:
            print(name, file=worker.stdin, flush=True)
            line = worker.stdout.readline()
            if not line:
                break
            lines.put(line.strip())
    with contextlib.suppress(OSError):
        worker.stdin.close()
    lines.put(None)
