"""Runs the steps of one engine on its threads, and on its graphics card.

The scheduler decides which works share a step; the runner computes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.program.program import Op, Program
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.running.next_token import RepeatableStep
from edgellama.engine.running.running_job import RunningJob
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.steps.segments import Segment
from edgellama.engine.steps.step import StepRunner
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import CudaError, CudaMemoryError

if TYPE_CHECKING:
    from edgellama.engine.running.machinery import Machinery
    from edgellama.engine.running.step_timer import StepTimer
    from edgellama.engine.scheduling.scheduler import Scheduler


class CardOfSteps(Protocol):
    """The graphics card on which sequences lie, as the runner of steps needs it."""

    def take_part(self, runner: StepRunner, cancel_word: int) -> None:
        """Let a runner run steps of sequences on the card; CudaError if that is lost.

        ``cancel_word``: that of the team of threads.
        """
        ...

    def fail(self, error: CudaError) -> None:
        """Use the card no more: what lies there is lost."""
        ...


class StepRuns:
    """Steps on one machinery; ``card`` takes part in those of sequences that lie there."""

    def __init__(self, machine: Machinery, vocab_size: int, timer: StepTimer | None) -> None:
        self._machine, self._vocab_size, self._timer = machine, vocab_size, timer
        self.card: CardOfSteps | None = None
        self._running: Program | None = None
        self._job: RunningJob | None = None

    @property
    def progress(self) -> int:
        """Another number whenever the running step has come a bit further; for any thread."""
        running = self._running
        return 0 if running is None else running.progress

    def run(
        self, segments: Sequence[Segment], cancelled: CancelToken | None
    ) -> list[FloatRows] | None:
        """One step for the scheduler; None if the token has stopped it.

        Raises CudaError, and ModelFileError if the file was written to.
        """
        machine = self._machine
        runner, programs = machine.open(), list[Program]()
        machine.check_file()
        machine.last_step = None
        flag = None if cancelled is None else cancelled.flag
        is_long = any(segment.num_tokens > MAX_SHORT_TOKENS for segment in segments)

        def run_ops(
            key: tuple[object, ...], ops: Callable[[], list[Op]], values: dict[str, int]
        ) -> bool:
            program = machine.program(key, ops)
            programs.append(program)
            self._running = program
            program.prepare(machine.team.next_job, **values)
            if self._timer:
                return self._timer.run(machine.team, program, flag)
            if is_long:
                return self._run_long(program, cancelled or CancelToken())
            return machine.team.run(program.memory, flag, owner=program)

        if isinstance(segments[0].cache.layout, PageLayout):
            results = runner.run(segments, run_ops)
        else:
            with self._noting_failures():
                self._card.take_part(runner, machine.team.cancel_word)
                results = runner.run(segments, run_ops)
        if results is not None and len(segments) == 1 and not machine.hooks and not self._timer:
            machine.last_step = RepeatableStep.of(segments[0], programs[0])
        return results

    def stop(self) -> None:
        """End the running step, where it may be long, whoever waits for it; for any thread."""
        if (job := self._job) is not None:
            job.stop()

    def _run_long(self, program: Program, cancelled: CancelToken) -> bool:
        self._job = job = RunningJob(self._machine.team, program, cancelled)
        try:
            return job.run()
        finally:
            self._job = None

    def run_next(
        self,
        token: int,
        cache: KVCache,
        cancelled: CancelToken | None,
        scheduler: Scheduler,
        *,
        rows: FloatRows | None = None,
        gives_rows: bool = False,
        is_copied: bool = True,
        is_rehearsal: bool = False,
    ) -> FloatRows | None:
        """The logits of a token whose step is the last one again; None if it is another.

        ``rows``: see ``Segment``; ``gives_rows``: instead of logits. Of what is not copied the
        caller sees to it that no other step runs as long as it is used. ``is_rehearsal``: all is
        done but the step itself, and will be done again; None. No other step may run meanwhile.
        """
        machine = self._machine
        last, takes_rows = machine.last_step, rows is not None
        is_token = type(token) is int and 0 <= token < self._vocab_size
        if last is None or not is_token or not last.is_followed_by(cache, takes_rows, gives_rows):
            return None

        def run() -> FloatRows | None:
            runner, is_same = machine.runner, machine.last_step is last
            is_followed = is_same and last.is_followed_by(cache, takes_rows, gives_rows)
            if runner is None or not is_followed:
                return None
            machine.check_file()
            machine.last_step = None
            held = cache.page_list
            runner.place_next(token, cache, rows)
            last.program.prepare(machine.team.next_job)
            if is_rehearsal:
                machine.last_step = last
                return None
            flag = None if cancelled is None else cancelled.flag
            if not machine.team.run(last.program.memory, flag, owner=last.program):
                return None
            del held
            if last.is_on_card:
                with self._noting_failures():
                    runner.end_on_card()
            found = runner.first_row(gives_rows)
            if is_copied:
                found = found.copy()
            cache.append((token,))
            machine.last_step = last
            return found

        return run() if is_rehearsal else scheduler.run_alone(cache, run)

    @contextlib.contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """What fails on a card inside is the end of using it, but for a lack of memory."""
        try:
            yield
        except CudaMemoryError:
            raise
        except CudaError as error:
            self._card.fail(error)
            raise

    @property
    def _card(self) -> CardOfSteps:
        assert self.card is not None, "whoever has pages on a card was placed there"
        return self.card
