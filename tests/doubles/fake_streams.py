"""The part of the double of the driver that knows streams: work in order, done when waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from doubles.fake_library import INVALID_HANDLE, INVALID_VALUE, FakeLibrary
from edgellama.cuda.driver import NOT_READY, SUCCESS


class FakeStreams(FakeLibrary):
    """Streams and events. ``idle_after``: how often a stream is asked whether it is done before it
    is."""

    def __init__(self, missing: Sequence[str] = (), idle_after: int = 2) -> None:
        super().__init__(missing)
        self.idle_after = idle_after
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self.running_kernels = 0
        self._questions: Counter[int] = Counter()
        self._events: dict[int, bool] = {}

    @property
    def pending(self) -> int:
        """How much work no stream has done yet."""
        return sum(map(len, self._queues.values()))

    def _cuCtxSynchronize(self) -> int:
        return next(filter(None, map(self._drain, list(self._queues))), SUCCESS)

    def _cuStreamCreate(self, stream: Any, flags: int) -> int:
        stream[0] = handle = self._new("streams")
        self._queues[handle] = []
        return SUCCESS if flags in (0, 1) else INVALID_VALUE

    def _cuStreamDestroy(self, stream: int) -> int:
        """What it was given is still done, at some time."""
        return self._drop("streams", stream)

    def _put(self, stream: int, work: Callable[[], object]) -> int:
        if not self._is_usable("streams", stream):
            return INVALID_HANDLE
        self._queues[stream].append(lambda: (work(), None)[1])
        self._questions[stream] = 0
        return SUCCESS

    def _drain(self, stream: int) -> int:
        queue, self._queues[stream] = self._queues[stream], []
        for work in queue:
            if not self.lost:
                work()
        return self.lost

    def _cuStreamQuery(self, stream: int) -> int:
        if not self._is_usable("streams", stream):
            return INVALID_HANDLE
        self._questions[stream] += 1
        if self._queues.get(stream) and self._questions[stream] <= self.idle_after:
            return NOT_READY
        return self._drain(stream)

    def _cuStreamSynchronize(self, stream: int) -> int:
        if not self._is_usable("streams", stream):
            return INVALID_HANDLE
        return self._drain(stream)

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        event[0] = self._new("events")

    def _cuEventDestroy(self, event: int) -> int:
        return self._drop("events", event)

    def _cuEventRecord(self, event: int, stream: int) -> int:
        if not self._is_usable("events", event):
            return INVALID_HANDLE
        self._events[event] = False
        return self._put(stream, lambda: self._events.update({event: True}))

    def _cuEventElapsedTime(self, milliseconds: Any, start: int, end: int) -> int:
        if not {start, end} <= self._events.keys():
            return self._violation("an event that was never recorded", INVALID_HANDLE)
        milliseconds[0] = 1.0
        return SUCCESS if self._events[start] and self._events[end] else NOT_READY
