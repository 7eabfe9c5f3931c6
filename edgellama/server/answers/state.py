"""What all requests of a server share: settings, models, the queue, threads, counts.

The module of each of these knows what it does.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from concurrent.futures import ThreadPoolExecutor

from edgellama.quant.free_memory import available_memory_bytes
from edgellama.server.answers.answers import Answer
from edgellama.server.answers.leaving import Leaving
from edgellama.server.answers.metrics import Metrics
from edgellama.server.answers.text_queue import TextQueue
from edgellama.server.answers.wish import Wish
from edgellama.server.errors import too_busy
from edgellama.server.models.catalogue import Catalogue, ServedModel
from edgellama.server.models.jobs import Jobs
from edgellama.server.models.model_shelf import ModelShelf
from edgellama.server.settings import ServerSettings
from edgellama.server.stores.page_conversations import NAME as CONVERSATIONS_NAME
from edgellama.server.stores.page_conversations import Draft, conversation_file
from edgellama.server.stores.response_store import ResponseStore, usual_store


class ServerState:
    """Made in the event loop when a server starts, closed when it ends."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.catalogue = Catalogue(
            settings.models, only_given=settings.only_given, aliases=settings.aliases
        )
        self.shelf = ModelShelf(
            self.catalogue,
            engine=settings.engine,
            keep_alive_s=self._keep_alive_s,
            available_bytes=available_memory_bytes,
            openers=settings.openers,
            on_compile=settings.on_compile,
        )
        self.queue = TextQueue(settings.limits.parallel, settings.limits.max_waiting)
        self.metrics = Metrics()
        store = settings.store or usual_store()
        self.responses = ResponseStore(store)
        self.conversations = conversation_file(store.with_name(CONVERSATIONS_NAME))
        self.drafts: dict[str, Draft] = {}
        self.jobs = Jobs()
        self.token_work = asyncio.Semaphore(1)
        self.is_ending = False
        self._threads = ThreadPoolExecutor(settings.limits.parallel, "edgellama-text")
        self.works: weakref.WeakSet[Leaving] = weakref.WeakSet()
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()

    def answer(self, wish: Wish) -> Answer:
        """Begin to make what is wished for; RequestError if there is no room, or no model."""
        self.check_open(wish.model)
        answer = Answer(wish, self.shelf, self.queue, self._threads, self.metrics)
        self._answers.add(answer)
        return answer

    def check_open(self, model: str | None) -> None:
        """RequestError if the server ends, or has no such model."""
        self.check_running()
        self.catalogue.find(model)

    def check_running(self) -> None:
        """RequestError if the server ends."""
        if self.is_ending:
            raise too_busy("the server is about to end", "shutting_down", 503)

    def described_answers(self) -> list[dict[str, str]]:
        """Which model each unfinished answer is of, and what it waits for."""
        running = [answer for answer in self._answers if not answer.is_done]
        running.sort(key=lambda answer: answer.times.asked)
        return [
            {"model": self.catalogue.find(answer.model).name, "state": answer.state}
            for answer in running
        ]

    def stop_all(self, reason: str) -> None:
        """End all answers, downloads and the like that still run, and tell their clients."""
        self.jobs.cancel_all()
        error = too_busy(reason, "shutting_down", 503)
        self.shelf.stop(error)
        for answer in list(self._answers):
            answer.stop(error)
        for work in list(self.works):
            work.stop(error)

    async def close(self) -> None:
        """Let go of threads and models."""
        self.is_ending = True
        self.stop_all("the server has ended")
        await self.jobs.close()
        await asyncio.to_thread(self._threads.shutdown)
        await self.shelf.close()
        await asyncio.to_thread(self.responses.close)
        await asyncio.to_thread(self.conversations.close)

    def _keep_alive_s(self, model: ServedModel) -> float:
        is_given = model.name in self.settings.models
        return (
            math.inf if is_given and not self.settings.unloads_given else self.settings.keep_alive_s
        )
