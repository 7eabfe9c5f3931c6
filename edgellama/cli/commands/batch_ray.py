"""``edgellama batch --ray``: the same lines, whose texts the machines of a cluster generate.

``cluster.batch_worker`` is a worker, and ``cluster.ray_batch`` distributes the lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.output.batch_progress import Counts

if TYPE_CHECKING:
    from edgellama.cli.commands.batch_job import Job
    from edgellama.cli.options.adapter_option import AdapterPath
    from edgellama.cluster.batch_worker import BatchTask

RAY_HELP = "Use all machines of a Ray cluster, or this one if there is none."
WORKERS_HELP = "Run this many processes, with --ray.  [default: one for each machine]"


def make_task(
    model: str,
    path: Path,
    *,
    width: int | None,
    engine: dict[str, Any],
    options: dict[str, Any],
    adapters: Sequence[AdapterPath],
    is_chat: bool,
    system: str | None,
) -> BatchTask:
    """What workers do with ``model``, which is the file ``path`` here."""
    from edgellama.cluster.batch_worker import BatchTask
    from edgellama.engine.model_identity import model_identity
    from edgellama.quant.gguf.file import GGUFFile

    with GGUFFile(path) as file:
        identity = model_identity(file)
    is_path = Path(os.path.expanduser(model)).exists()
    return BatchTask(
        str(path.resolve()) if is_path else model,
        identity,
        width,
        engine,
        options,
        [(str(Path(name).resolve()), scale) for name, scale in adapters],
        is_chat,
        system,
    )


def run_on_ray(
    task: BatchTask,
    job: Job,
    address: str | None,
    num_workers: int | None,
    show: Callable[[Counts], None],
) -> None:
    """Write all texts, block by block; what is not done yet is read before anything runs."""
    from edgellama.cluster.ray_batch import texts_on_ray
    from edgellama.cluster.ray_cluster import connect

    lines = [
        json.dumps({"id": line_id, **content})
        for line_id, content in (line for line in job.pending() if line is not None)
    ]
    show(job.counts)
    if not lines:
        return
    with _without_native_log():
        connect(address, starts=address is None)
    for line in texts_on_ray(task, lines, num_workers):
        job.write(line)
        show(job.counts)


@contextmanager
def _without_native_log() -> Iterator[None]:
    """Let Ray's native part write nothing, neither now, where it says so, nor later.

    What it tells of its own objects is nothing that a user could act on.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def check_ray_options(is_on_ray: bool, address: str | None, num_workers: int | None) -> None:
    """UsageError for what needs --ray."""
    for name, value in (("--address", address), ("--workers", num_workers)):
        if value is not None and not is_on_ray:
            raise click.UsageError(f"{name} needs --ray")
