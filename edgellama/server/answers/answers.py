"""The texts of one request: made by threads, read in the event loop as they come.

An answer waits for its model and its turn. It has a thread for each of its texts, and hands on
pieces, results and errors. ``text_openers`` begins the texts, ``streaming`` sends them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgellama.generation.results import Generation
from edgellama.server.answers.events import Done, Ended, Event, Failed, Piece
from edgellama.server.answers.mailbox import Mailbox
from edgellama.server.answers.text_queue import Place, TextQueue
from edgellama.server.answers.wish import TextStream, Wish
from edgellama.server.connections.wire import client_has_left
from edgellama.server.errors import RequestError, as_request_error

if TYPE_CHECKING:
    from edgellama.llama import Llama
    from edgellama.server.answers.metrics import Metrics
    from edgellama.server.models.model_shelf import ModelShelf


@dataclass
class Times:
    """Seconds of an answer on the clock of ``perf_counter``, and what came of it."""

    asked: float = field(default_factory=time.perf_counter)
    loaded: float = 0.0
    begun: float = 0.0
    first: float = 0.0

    @property
    def load_s(self) -> float:
        """How long the model was waited for."""
        return max(0.0, self.loaded - self.asked)


class Answer:
    """The texts that a wish asks for, on their way. ``close`` ends them, ended or not."""

    def __init__(
        self,
        wish: Wish,
        shelf: ModelShelf,
        queue: TextQueue,
        threads: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        """Take places in the queue at once; RequestError if it is full."""
        self._wish = wish
        self._shelf = shelf
        self._threads = threads
        self._metrics = metrics
        self._places: list[Place] = []
        try:
            for _ in range(wish.num_texts):
                self._places.append(queue.place())
        except RequestError:
            self._leave_queue()
            raise
        self._mailbox: Mailbox[Event] = Mailbox()
        self._streams: dict[int, TextStream] = {}
        self._is_stopped = False
        self.times = Times()
        self._work = asyncio.create_task(self._run())

    async def events(self, timeout_s: float) -> list[Event]:
        """The next events; none if none comes for so long."""
        return await self._mailbox.take(timeout_s)

    def divert(self, taker: Callable[[Event], Event | None]) -> None:
        """Let threads hand their events to ``taker`` until ``events`` returns; see Mailbox."""
        self._mailbox.divert(taker)

    async def results(self) -> list[Generation]:
        """Wait for all texts; RequestError if anything goes wrong."""
        found: dict[int, Generation] = {}
        while True:
            for event in await self._mailbox.take():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Ended):
                    found[event.index] = event.result
                if isinstance(event, Done):
                    return [found[index] for index in sorted(found)]

    @property
    def model(self) -> str | None:
        """The name that was asked for."""
        return self._wish.model

    @property
    def num_texts(self) -> int:
        """How many texts there will be."""
        return self._wish.num_texts

    @property
    def is_stream(self) -> bool:
        """Whether pieces are handed on as they come."""
        return self._wish.is_stream

    @property
    def is_done(self) -> bool:
        """Whether all of it has ended."""
        return self._work.done()

    @property
    def state(self) -> str:
        """What is waited for, in a few words."""
        if not self.times.loaded:
            return "the model is being loaded"
        waiting = [place.position for place in self._places if place.position]
        if waiting and not self._streams:
            return f"waiting, position {min(waiting)}"
        for stream in list(self._streams.values()):
            done, wanted = stream.prefill_progress
            if done < wanted:
                return f"reading the prompt, {done} of {wanted} tokens"
        return "working"

    def stop(self, error: RequestError) -> None:
        """End all texts, and say why."""
        if not self._work.done():
            self._mailbox.post(Failed(error))
            self._cancel()

    async def close(self) -> None:
        """End what runs, and wait until its threads have let go: an op of the model at most."""
        self._cancel()
        await asyncio.shield(self._work)

    def _cancel(self) -> None:
        self._is_stopped = True
        if not self.times.loaded:
            self._work.cancel()
        for stream in list(self._streams.values()):
            stream.cancel()
        for place in self._places:
            place.give_up()

    def _check_wanted(self) -> None:
        if self._is_stopped:
            raise client_has_left()

    def _leave_queue(self) -> None:
        for place in self._places:
            place.__exit__()

    async def _run(self) -> None:
        """Wait for the model, then for turns; make the texts; let go of everything."""
        try:
            async with self._shelf.lease(self._wish.model, self._wish.keep_alive_s) as llama:
                self.times.loaded = time.perf_counter()
                await self._make_all(llama)
            self._mailbox.post(Done())
        except asyncio.CancelledError:
            self._mailbox.post(Failed(RequestError(503, "the answer was cancelled")))
        except Exception as error:
            self._mailbox.post(Failed(as_request_error(error)))
        finally:
            self._leave_queue()

    async def _make_all(self, llama: Llama) -> None:
        """Texts side by side; the others begin once the first has the prompt computed."""
        prompt_is_there = asyncio.Event()
        waits = [
            self._make(index, place, llama, prompt_is_there)
            for index, place in enumerate(self._places)
        ]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _make(
        self, index: int, place: Place, llama: Llama, prompt_is_there: asyncio.Event
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            if index:
                await prompt_is_there.wait()
            await place.turn()
            if self._is_stopped:
                return
            self.times.begun = self.times.begun or time.perf_counter()

            def first_piece() -> None:
                loop.call_soon_threadsafe(prompt_is_there.set)

            work = loop.run_in_executor(
                self._threads, self._make_in_thread, index, llama, first_piece
            )
            # A thread cannot be left behind: its model may be closed next.
            while not work.done():
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    self._cancel()
            work.result()
        except BaseException:
            self._cancel()  # What is left of the others would not be sent.
            raise
        finally:
            prompt_is_there.set()
            place.__exit__()

    def _make_in_thread(self, index: int, llama: Llama, first_piece: Callable[[], None]) -> None:
        with ExitStack() as stack:
            with llama.tokenizer.checked_by(self._check_wanted):
                stream = self._wish.open(llama, index, stack)
            stack.callback(stream.close)
            self._streams[index] = stream
            if self._is_stopped:
                stream.cancel()
            is_first = True
            for chunk in stream:
                if is_first:
                    is_first = False
                    self.times.first = self.times.first or time.perf_counter()
                    first_piece()
                if self.is_stream:
                    self._mailbox.post(Piece(index, chunk))
            result = stream.result
            self._metrics.count_text(result)
            self._mailbox.post(Ended(index, result))
