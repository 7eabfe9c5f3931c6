"""Closing a model while several callers compute."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from edgellama import EdgellamaError, Llama
from edgellama.engine.running.running_job import RunningJob

PATIENCE_S = 20


def test_closing_ends_the_long_step_that_a_stream_runs_for_another_caller(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose thread runs somebody else's long step does not hold up the model's end."""
    llama = Llama(tiny_path, num_threads=2)
    is_begun, is_stopped, stopped = threading.Event(), threading.Event(), list[bool]()
    run, stop = RunningJob.run, RunningJob.stop

    def run_late(job: RunningJob) -> bool:
        is_begun.set()
        stopped.append(is_stopped.wait(PATIENCE_S / 20))
        return run(job)

    def note_stop(job: RunningJob) -> None:
        stop(job)
        is_stopped.set()

    monkeypatch.setattr(RunningJob, "run", run_late)
    monkeypatch.setattr(RunningJob, "stop", note_stop)
    scheduler: Any = llama._engine.scheduler
    drive = scheduler._drive_if_nobody_does
    scheduler._drive_if_nobody_does = lambda works: (
        (is_begun.is_set() or threading.current_thread() is not other) and drive(works)
    )

    def compute() -> None:
        with contextlib.suppress(EdgellamaError):  # the closed model's
            llama._engine.forward([5] * 512, llama._engine.new_cache(512))

    stream = llama.session().stream("Hello " * 30, max_tokens=2)
    other = threading.Thread(target=compute)
    streaming = threading.Thread(target=lambda: list(stream))
    other.start()
    while not scheduler._waiting:
        pass
    streaming.start()
    assert is_begun.wait(PATIENCE_S)
    llama.close()
    for thread in (other, streaming):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert stopped[0]
    assert stream.result.finish_reason == "cancelled"
