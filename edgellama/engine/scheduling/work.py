"""A caller's work: tokens to append to a sequence, in as many steps as they need.

Its progress is read from the sequence itself, so an interruption between two lines leaves nothing
to repair. The scheduler decides which works share a step.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.engine.pages.text_cache import TextCache, no_room
from edgellama.engine.program.key_splits import most_split_tokens
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.steps.segments import ROWS, Segment, Wanted, num_logits
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import EdgellamaError, GenerationCancelled
from edgellama.quant.progress import Progress

CANCELLED = "the step was cancelled"
CHANGED = "the sequence was changed while its tokens were computed"
CLAIM_S = 0.1
"""Far longer than a delivery takes; an interrupted one must not hold up a caller that gives up."""
Kept = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""What is kept of the rows that a step has given."""


class Work:
    """``tokens`` (n,) for the end of ``cache``; its ``result`` is there when it is over."""

    def __init__(
        self,
        cache: TextCache,
        tokens: npt.NDArray[np.int64],
        wanted: Wanted = "last",
        cancelled: CancelToken | None = None,
        progress: Progress | None = None,
        rows: npt.NDArray[np.float32] | None = None,
        kept: Kept | None = None,
    ) -> None:
        """``kept`` sums up the rows of each step, where all of a long text would be too many."""
        self.cache = cache
        self.tokens = tokens
        self.wanted = wanted
        self._rows = rows
        self._kept = kept
        self.cancelled = cancelled
        self.error: BaseException | None = None
        # ``alarm`` is a lock that stays taken until there is news for the waiting thread.
        self.caller: weakref.ref[object] | None = None
        self.thread = 0
        self.alarm = threading.Lock()
        self.alarm.acquire()
        # ``_claim`` is taken for a moment by a thread that changes the sequence or gives the work
        # up.
        self._claim = threading.RLock()
        self._is_given_up = False
        self._progress = progress
        self._reported = 0
        self._start = cache.length
        if not self._start:
            cache.begin(len(tokens))
        self._end = cache.length + len(tokens)
        self._outputs: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def num_done(self) -> int:
        """Tokens that the sequence holds already."""
        return self.cache.length - self._start

    @property
    def num_left(self) -> int:
        """Tokens that are still to be computed."""
        return self._end - self.cache.length

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, or to be hoped for."""
        return self.error is not None or self.cache.length >= self._end

    def is_for_another_caller_than(self, other: Work) -> bool:
        """Whether two different callers wait for this work and another one."""
        own, others = (work.caller and work.caller() for work in (self, other))
        return own is not others

    @property
    def _is_forgotten(self) -> bool:
        return self.caller is not None and self.caller() is None

    @property
    def is_short(self) -> bool:
        """Whether what is left goes into a step of a few tokens a sequence."""
        return self.num_left <= MAX_SHORT_TOKENS

    def check_cancelled(self) -> None:
        """A cancellation, or the end of its caller, becomes the work's error."""
        is_cancelled = self.cancelled is not None and self.cancelled.cancelled
        if (is_cancelled or self._is_forgotten) and not self.is_over:
            self.error = GenerationCancelled(CANCELLED)

    def check(self) -> None:
        """Find out what makes a further step impossible; it becomes the work's error."""
        cache = self.cache
        self.check_cancelled()
        if self.error is not None:
            return
        if self._end > cache.context_length:
            self.error = no_room(cache, self.num_left)
        elif not self._start <= cache.length <= self._end:
            self.error = EdgellamaError(CHANGED)

    def segment(self, most: int, split_room: int | None = None) -> Segment | None:
        """The next tokens, up to ``most``; None where too few fit to be worth a step.

        ``split_room``: for the parts of their keys, where those of a prompt are cut. All that is
        left, or whole pages: so that how a prompt is cut never depends on what else is in a step.
        """
        # The length is read once: a signal's handler may change it between two reads.
        position = self.cache.length
        start, count = position - self._start, self._end - position
        # Segments hold KVCache or SpreadSequence; the runner of a step knows which of them it made.
        cache: Any = self.cache
        if split_room is not None:
            most = most_split_tokens(position, most, cache.window, split_room)
        if count == len(self.tokens) <= most:
            return Segment(cache, position, self.tokens, self.wanted, self._rows)
        if count > most:
            count = (position + most) // PAGE_POSITIONS * PAGE_POSITIONS - position
            if count <= 0:
                return None
        num_later = len(self.tokens) - start - count
        wanted = self.wanted
        if num_later and wanted not in ROWS:
            wanted = num_logits(wanted, len(self.tokens)) - num_later
        part = slice(start, start + count)
        rows = None if self._rows is None else self._rows[part]
        return Segment(cache, position, self.tokens[part], wanted, rows)

    def deliver(self, segment: Segment, logits: npt.NDArray[np.float32]) -> None:
        """Take a step's result, unless it was given up: its tokens belong to the sequence now."""
        try:
            if not self._is_claimed():
                return
            if len(logits):
                self._outputs[segment.position] = self._kept(logits) if self._kept else logits
            segment.cache.append(segment.tokens.tolist())
        finally:
            # RuntimeError: it was not taken yet, when Ctrl-C came. Nothing is called before.
            try:  # noqa: SIM105
                self._claim.release()
            except RuntimeError:
                pass

    def prepared(self, segment: Segment) -> Segment | None:
        """A segment with room for its tokens; raises why there is none.

        None if it was given up, or computed by a signal's handler since it was chosen.
        """
        try:
            is_next = not self.is_over and segment.position == self.cache.length
            return segment.prepared() if is_next and self._is_claimed() else None
        finally:
            try:  # noqa: SIM105
                self._claim.release()
            except RuntimeError:
                pass

    def give_up(self) -> None:
        """Let no step that is still running change the sequence any more; more calls do nothing."""
        if self._is_given_up:
            return
        try:
            self._claim.acquire(timeout=CLAIM_S)
            self._is_given_up = True
        finally:
            try:  # noqa: SIM105
                self._claim.release()
            except RuntimeError:
                pass

    def _is_claimed(self) -> bool:
        """Whether this thread may change the sequence until it releases the claim."""
        if self._is_forgotten or not self._claim.acquire(blocking=False):
            return False
        return not self._is_given_up

    def ring(self) -> None:
        """Wake up the thread that waits for this work, at most once before it has looked."""
        if self.alarm.locked():
            self.alarm.release()

    def report(self) -> None:
        """Report the work's progress to its caller."""
        if self._progress is not None and self.error is None and self.num_done > self._reported:
            self._reported = self.num_done
            self._progress(self._reported, len(self.tokens))

    def result(self, width: int) -> npt.NDArray[np.float32]:
        """What was wanted, a row of ``width`` a token; raises the error instead if there is one."""
        if self.error is None and self.num_left:
            self.error = EdgellamaError(CHANGED)
        if self.error is not None:
            raise self.error
        parts = list(self._outputs.values())
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, width), np.float32), *parts])
