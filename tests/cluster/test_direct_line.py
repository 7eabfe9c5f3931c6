"""The line between a driver and a stage: what comes through, who gets in, what an end is."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cluster.stage_harness import TOKENS, cut

from edgellama.cluster.connections.direct_line import TOKEN_BYTES, Line, LineAddress, LineServer
from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import Answer, StageCall, StageSilentError
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.engine.engine import Engine
from edgellama.quant.array_types import FloatRows
from edgellama.quant.gguf.file import GGUFFile

pytest_plugins = ["cluster.stage_fixtures"]
CALL = StageCall(1, 0, np.array([1, 2], np.int32))


class Calls:
    """A stage that gives its calls' tokens back, or fails."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.num_calls = 0
        self.seconds = 0.0

    def __call__(self, calls: list[StageCall], driver: AnswerHook) -> list[Answer]:
        """The tokens as rows."""
        self.num_calls += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [call.tokens.astype(np.float32)[:, None] for call in calls]


@pytest.fixture
def stage() -> Iterator[tuple[LineServer, Calls]]:
    """A line to such a stage."""
    calls = Calls()
    server = LineServer("127.0.0.1", calls)
    yield server, calls
    server.close()


class LinedStage:
    """The handle of a stage behind a line, which is cut now and then."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.layers, self.num_runs = stage, stage.layers, 0
        self.name = f"layers {stage.layers}"
        self._server = LineServer("127.0.0.1", stage.answer, rehearse=stage.rehearse)
        self._line = Line(self._server.address, 5)

    def call_hooks(self, driver: AnswerHook) -> None:
        """Never asked for."""

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """Answer, unless the line was cut."""
        answers: list[Answer] = self._ask(calls)
        return answers

    def run_next(self, given: NextToken, meanwhile: Callable[[], None]) -> FloatRows | None:
        """The same."""
        answer: FloatRows | None = self._ask(given, meanwhile)
        return answer

    def rehearse(self, given: NextToken) -> None:
        """See ``Stage.rehearse``."""
        self._stage.rehearse(given)

    def _ask(self, message: object, meanwhile: Callable[[], None] | None = None) -> Any:
        self.num_runs += 1
        if self.num_runs % 7 == 0:
            self._line.close()
        return self._line.ask(message, meanwhile)

    def do(self, task: StageTask) -> object:
        """See ``Stage.do``."""
        return self._line.ask(task)

    def forget(self, sequence: int) -> None:
        """See ``Stage.forget``."""
        self._stage.forget(sequence)

    def revive(self) -> None:
        """Another line to the same stage."""
        self._line = Line(self._server.address, 5)

    def close(self) -> None:
        """End both."""
        self._line.close()
        self._server.close()
        self._stage.close()


def test_a_model_runs_over_lines_that_are_cut(file: GGUFFile, exact: Engine) -> None:
    """Prompts and tokens have the bits of one process; what was cut off is asked again."""
    stages = [LinedStage(Stage(file, each, num_threads=1, exact=True)) for each in cut(4, 2)]
    spread = SpreadEngine(file, stages, chunk_tokens=128)
    found = []
    for engine in (exact, spread):
        cache = engine.new_cache()
        parts = [engine.forward(TOKENS[:400], cache)]
        parts += [engine.forward([token], cache) for token in TOKENS[400:420]]
        found.append(np.concatenate(parts))
    spread.close()
    np.testing.assert_array_equal(*found)
    assert all(stage.num_runs > 20 for stage in stages)


def test_who_has_no_token_is_not_heard(stage: tuple[LineServer, Calls]) -> None:
    """Nothing of what it sends is unpickled, whatever it is, and others are answered."""
    server, calls = stage
    address = server.address
    wrong = Line(replace(address, token=bytes(TOKEN_BYTES)), 5)
    with pytest.raises((EOFError, OSError)):
        wrong.ask([CALL])
    assert wrong.is_closed
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", pickle.dumps([CALL]), bytes(100_000)):
        with (
            socket.create_connection((address.host, address.port), 5) as connection,
            contextlib.suppress(OSError),  # It may have hung up already.
        ):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(10) == b""
    assert not calls.num_calls
    assert "token" not in repr(address)
    (answer,) = Line(address, 5).ask([CALL])
    np.testing.assert_array_equal(answer, [[1], [2]])  # type: ignore[arg-type]


def test_what_a_stage_fails_with_is_told(stage: tuple[LineServer, Calls]) -> None:
    """As a loss, with its words; the line stays."""
    server, calls = stage
    line = Line(server.address, 5)
    calls.error = MemoryError("no room")
    with pytest.raises(ConnectionError, match="MemoryError: no room"):
        line.ask([CALL])
    calls.error = None
    assert len(line.ask([CALL, CALL])) == 2


def test_an_interrupted_line_is_closed(stage: tuple[LineServer, Calls]) -> None:
    """An answer that nobody waited for can never be taken for the next one's."""
    server, calls = stage
    line = Line(server.address, 5)
    line._check_pulse = _interrupted  # type: ignore[method-assign]
    calls.seconds = 0.2
    line._connection.settimeout(0.05)
    with pytest.raises(KeyboardInterrupt):
        line.ask([CALL])
    assert line.is_closed
    with pytest.raises((OSError, ValueError)):
        line.ask([CALL])


def _interrupted() -> None:
    """What Ctrl-C makes of waiting for an answer."""
    raise KeyboardInterrupt


def test_a_stage_may_compute_for_long(stage: tuple[LineServer, Calls]) -> None:
    """However often it is silent meanwhile, since it says each time that it is there."""
    server, calls = stage
    calls.seconds = 0.5
    line = Line(server.address, 5, silence_s=0.05, pulse_s=20)
    assert len(line.ask([CALL])) == 1
    assert calls.num_calls == 1


def test_a_stage_must_get_on(stage: tuple[LineServer, Calls]) -> None:
    """One whose progress changes may take its time; one whose progress stays the same may not."""
    server, calls = stage
    calls.seconds = 0.6
    steps = itertools.count()
    limits = {"silence_s": 0.05, "pulse_s": 20, "stuck_s": 0.2}
    server._progress = lambda: next(steps)
    assert len(Line(server.address, 5, **limits).ask([CALL])) == 1
    server._progress = lambda: (1, 2)
    line = Line(server.address, 5, **limits)
    with pytest.raises(StageSilentError, match=r"not come any further for 0\.2 s"):
        line.ask([CALL])
    assert line.is_closed


@pytest.mark.parametrize("num_bytes", [8, 1 << 25])
def test_a_stage_that_says_nothing_is_lost(num_bytes: int) -> None:
    """Whether its system takes what is sent or not: a process that is stopped looks like this."""
    call = replace(CALL, rows=np.zeros(num_bytes // 4, np.float32))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = LineAddress("127.0.0.1", listener.getsockname()[1], b"")
        line = Line(address, 5, silence_s=0.05, pulse_s=0.1)
        with pytest.raises(StageSilentError, match=r"not said for 0.15 s that it is still there"):
            line.ask([call])
        assert line.is_closed


def test_a_stage_that_dies_in_an_answer_is_lost(stage: tuple[LineServer, Calls]) -> None:
    """Half an answer is none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def half() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.sendall((1000).to_bytes(8, "little") + b"abc")
            connection.close()

        thread = threading.Thread(target=half)
        thread.start()
        line = Line(LineAddress("127.0.0.1", listener.getsockname()[1], b""), 5)
        with pytest.raises((EOFError, OSError)):
            line.ask([CALL])
        thread.join()
