"""Decides which works share a step, and who runs it; the callers' threads are the only ones.

A caller who waits for a work, and finds nobody driving, drives: it runs steps for all who wait,
delivers their results, and hands over when its own work is done. A few tokens for every sequence
and pieces of long prompts share steps, or take turns, so that a long prompt stops no other text.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.scheduling.returning import Returning
from edgellama.engine.scheduling.shared_step import RunStep, SharedStep
from edgellama.engine.scheduling.step_costs import StepCosts
from edgellama.engine.scheduling.step_planner import StepPlanner
from edgellama.engine.scheduling.work import Work
from edgellama.engine.steps.segments import Segment
from edgellama.quant.errors import EdgellamaError

POLL_S = 0.02
"""How often a waiting thread looks for a cancellation that does not wake it."""
Result = TypeVar("Result")


class Caller:
    """Stands for a call, as long as that runs."""


class Scheduler:
    """Works of all callers of one engine, over a function that runs one step."""

    def __init__(
        self,
        run_step: RunStep,
        step_tokens: int,
        *,
        may_mix: bool = True,
        are_all_split: bool = False,
        may_guess: Callable[[], bool] = lambda: True,
    ) -> None:
        """``may_mix`` and ``are_all_split``: see ``StepPlanner``; ``may_guess``: ``StepCosts``."""
        self.planner = StepPlanner(step_tokens, may_mix=may_mix, are_all_split=are_all_split)
        # Reentrant: a signal's handler may close the engine in the middle of its thread's step.
        self._driving = threading.RLock()
        self._is_long_due = False
        # The thread that runs a step, 0 between two of them.
        self._stepping = 0
        self._waiting: list[Work] = []
        self._wanted_alone: list[object] = []
        self._returning = Returning()
        self.costs = StepCosts(may_guess)
        self._shared = SharedStep(run_step, self._returning, self.costs)

    @property
    def is_idle(self) -> bool:
        """Whether no step runs and nobody waits for one."""
        return not self._stepping and not self._waiting

    def run(self, work: Work) -> None:
        """Return when ``work`` is over. What went wrong is in its ``error``."""
        self.run_any((work,))

    def run_any(self, works: Sequence[Work], caller: object = None) -> None:
        """Return when one of ``works`` is over; the others go on with the next call.

        ``caller``: the object that wants them all. When it is gone, or without one when this call
        ends, they are forgotten, so that nothing is left of works whose caller was interrupted.
        """
        self.refuse_within_a_step()
        first, caller, thread = works[0], caller or Caller(), threading.get_ident()
        for work in works:
            work.alarm, work.caller, work.thread = first.alarm, weakref.ref(caller), thread
        self._waiting += [work for work in works if work not in self._waiting]
        try:
            while not _is_any_over(works):
                if self._wanted_alone or not self._drive_if_nobody_does(works):
                    first.alarm.acquire(timeout=POLL_S)
                    for work in works:
                        work.check_cancelled()
                    self._wanted_alone.clear()
                first.report()
        except BaseException:
            self._leave(works)
            raise
        self._leave([work for work in works if work.is_over])
        self._wake_next()

    def run_only(self, works: Sequence[Work]) -> None:
        """Return when all of ``works`` are over; this engine has no other works.

        For a caller that has gathered the works of all callers already: it waits for nobody else.
        """
        self.refuse_within_a_step()
        try:
            self._driving.acquire()
            self._run_all(works)
        finally:
            try:  # noqa: SIM105
                self._driving.release()
            except RuntimeError:
                pass

    def _run_all(self, works: Sequence[Work]) -> None:
        while True:
            for work in works:
                work.check()
            left = [work for work in works if not work.is_over]
            if not left:
                self._returning.forget()
                return
            short = [work for work in left if work.is_short]
            if short:
                self._step(self.planner.short_segments(short), works)
            else:
                self._step(self.planner.long_segments(left, False), works)

    def leave(self, works: Sequence[Work]) -> None:
        """Give up works that are not over."""
        self._leave(works)
        self._wake_next()

    def expect_no_more(self, sequence: TextCache) -> None:
        """A text is at its end: no step waits for it to come back."""
        self._returning.forget_one(sequence)

    def exclusively(self, action: Callable[[], Result]) -> Result:
        """What ``action`` returns, called while no step runs.

        No context manager: Ctrl-C could come between the taking of its lock and its body.
        """
        try:
            while not self._driving.acquire(blocking=False):
                # The driving thread lets others in between two steps, if one asks for it.
                self._wanted_alone.append(action)
                if self._driving.acquire(timeout=POLL_S):
                    break
            self._wanted_alone.clear()
            return action()
        finally:
            # RuntimeError: it was not taken yet. Nothing is called before the release, since a
            # signal's handler could run there.
            try:  # noqa: SIM105
                self._driving.release()
            except RuntimeError:
                pass

    def run_alone(self, sequence: TextCache, action: Callable[[], Result | None]) -> Result | None:
        """What ``action`` returns, which is a step of one sequence.

        None, and nothing is called, where others wait for a step or had one lately.
        """
        is_shared = self._waiting or self._wanted_alone or not self._returning.is_only(sequence)
        if is_shared or self._stepping:
            return None
        is_taken, started = False, time.perf_counter()
        try:
            if not self._driving.acquire(blocking=False):
                return None
            is_taken, self._stepping = True, threading.get_ident()
            result = action()
        finally:
            if is_taken:
                self._stepping = 0
            try:  # noqa: SIM105
                self._driving.release()
            except RuntimeError:
                pass
        now = time.perf_counter()
        self._returning.last_step_s = now - started
        self._returning.note(sequence, now)
        if self._waiting:
            self._wake_next()
        return result

    def refuse_within_a_step(self) -> None:
        """EdgellamaError if this thread is in the middle of a step: in a hook, or a handler."""
        if self._stepping == threading.get_ident():
            raise EdgellamaError(
                "a hook or a signal's handler cannot do this in the middle of its own step"
            )

    def lose_threads(self) -> bool:
        """In a forked process, where all threads but the calling one are gone, start anew.

        One of them may have driven, and others have waited. False, and all stays as it is, in the
        middle of a step of the calling one.
        """
        this = threading.get_ident()
        if self._stepping == this:
            return False
        self._driving, self._stepping = threading.RLock(), 0
        self._wanted_alone.clear()
        self._waiting = [work for work in self._waiting if work.thread == this]
        self._returning.forget()
        return True

    def _drive_if_nobody_does(self, works: Sequence[Work]) -> bool:
        """Run steps until one of ``works`` is over; False if another thread does.

        Ctrl-C leaves the lock free wherever it comes, as in ``exclusively``.
        """
        try:
            if not self._driving.acquire(blocking=False):
                return False
            self._drive(works)
            return True
        finally:
            try:  # noqa: SIM105
                self._driving.release()
            except RuntimeError:
                pass

    def _drive(self, works: Sequence[Work]) -> None:
        """Run steps for all who wait, until one of ``works`` is over or another caller drives.

        If short segments and pieces of long prompts do not share a step, they take turns, whoever
        drives. Otherwise a caller with one token after the other would never let other prompts run.
        """
        planner = self.planner
        while not _is_any_over(works) and not self._wanted_alone:
            self._returning.gather(works, self._waiting)
            waiting = list(self._waiting)
            for work in waiting:
                work.check()
                if work.is_over:
                    self._remove(work)
            waiting = [work for work in waiting if not work.is_over]
            short = [work for work in waiting if work.is_short]
            long = [work for work in waiting if not work.is_short]
            is_shared = bool(long) and self._is_shared(long[0], short, works)
            if short and long and (chosen := planner.mixed_segments(short, long, is_shared)):
                self._step(chosen, works)
                continue
            if short and not (long and self._is_long_due):
                self._step(planner.short_segments(short), works)
                self._is_long_due = bool(long)
            if long and not _is_any_over(works):
                self._step(planner.long_segments(long, is_shared), works)
                self._is_long_due = False

    def _is_shared(self, long: Work, short: Sequence[Work], works: Sequence[Work]) -> bool:
        """Whether somebody else than a long work's caller waits for a short step, or will soon."""
        return bool(self._returning.absent(works, self._waiting)) or any(
            work.is_for_another_caller_than(long) for work in short
        )

    def _step(self, chosen: Sequence[tuple[Work, Segment]], works: Sequence[Work]) -> None:
        """Run one step and deliver what it gives; ``works`` are the driver's own.

        Until all is delivered, a signal's handler on this thread must not run another one.
        """
        try:
            self._stepping = threading.get_ident()
            delivered = self._shared.run(chosen, works)
        finally:
            self._stepping = 0
        for work in delivered:
            if work.is_over:
                self._remove(work)
            if work in works:
                work.report()
            else:
                work.ring()

    def _leave(self, works: Sequence[Work]) -> None:
        for work in works:
            self._remove(work)
            if not work.is_over or work.error is not None:
                work.give_up()

    def _remove(self, work: Work) -> None:
        """Off the list, if another thread has not taken it off already."""
        if work in self._waiting:
            with contextlib.suppress(ValueError):
                self._waiting.remove(work)

    def _wake_next(self) -> None:
        """Wake a waiting caller, so that it finds out that nobody drives."""
        for work in self._waiting:
            if not work.is_over:
                work.ring()
                return


def _is_any_over(works: Sequence[Work]) -> bool:
    # A loop, since a generator costs more than what it asks.
    for work in works:  # noqa: SIM110
        if work.is_over:
            return True
    return False
