"""A stage in a process of its own, behind a line: started by tests, stopped and killed there."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from edgellama.cluster.connections.direct_line import Line, LineServer
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import Answer, StageCall
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.kernels_cpu.threads.thread_team import ThreadTeam
from edgellama.quant.array_types import FloatRows
from edgellama.quant.gguf.file import GGUFFile


class ProcessStage:
    """The handle of such a stage, which is given up after a fraction of a second of silence."""

    def __init__(self, path: Path, layers: range) -> None:
        self.layers, self.name = layers, f"layers {layers}"
        self._path = path
        self.processes: list[subprocess.Popen[bytes]] = []
        self._driver: AnswerHook | None = None
        self.revive()

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """See ``Stage.run``."""
        answers: list[Answer] = self._line.ask(calls)
        return answers

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """See ``Stage.run_next``."""
        answer: FloatRows | None = self._line.ask(given, meanwhile)
        return answer

    def rehearse(self, given: NextToken) -> None:
        """Nothing: the process does so itself."""

    def do(self, task: StageTask) -> object:
        """See ``Stage.do``."""
        return self._line.ask(task)

    def forget(self, sequence: int) -> None:
        """Nothing: the process ends with its test."""

    def revive(self) -> None:
        """Another process; the one before is left as it is."""
        arguments = [str(self._path), str(self.layers.start), str(self.layers.stop)]
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        self._line = Line(pickle.load(process.stdout), 5, silence_s=0.2, pulse_s=0.5, stuck_s=0.5)
        self._line.driver = self._driver

    def call_hooks(self, driver: AnswerHook) -> None:
        """See ``StageHandle.call_hooks``."""
        self._driver = self._line.driver = driver

    def close(self) -> None:
        """End all processes."""
        self._line.close()
        for process in self.processes:
            process.kill()
            process.communicate()


def hang() -> None:
    """Let no step of this process ever end from now on; it says that it is there, as before."""
    ThreadTeam.run = lambda *arguments, **how: threading.Event().wait()  # type: ignore


def main(path: str, start: str, stop: str) -> None:
    """Tell where the stage listens, and run until stdin ends."""
    layers = range(int(start), int(stop))
    with GGUFFile(path) as file, Stage(file, layers, num_threads=1, exact=True) as stage:
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda number, frame: hang())
        server = LineServer("127.0.0.1", stage.answer, lambda: stage.progress, stage.rehearse)
        sys.stdout.buffer.write(pickle.dumps(server.address))
        sys.stdout.buffer.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
