"""Replies on the page: a stream of events. Whatever has come of a reply is kept, however it ends.

``stores.page_conversations`` keeps conversations, ``routes`` has the paths.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.generation.chat.messages import REASONING, checked_messages
from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.answers.text_openers import open_chat
from edgellama.server.answers.wish import OpenText, Wish
from edgellama.server.connections.wire import sse
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.fields.limits import hold_limits
from edgellama.server.fields.presets import preset_messages, preset_options
from edgellama.server.stores import page_conversations as conversations
from edgellama.server.stores.page_conversations import Draft, StoredMessage
from edgellama.server.stores.sqlite_file import SqliteFile

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.generation.sessions.stream import Stream
    from edgellama.llama import Llama
    from edgellama.server.models.catalogue import ServedModel
    from edgellama.server.settings import Limits

TITLE_CHARACTERS = 60
SHOWN_EVERY_S = 0.5
"""How often the page is told what a reply waits for, such as its model."""
KEEP_EVERY_S = 2.0
"""How much of a reply may be lost with the machine's power."""
PING_S = 0.5
"""How often a stream says what it waits for: somebody looks at it."""


class ChatFields(msgspec.Struct):
    """A message to be answered, or (``content`` None) one under which a reply is to stand.

    ``goes_on``: ``parent`` is an incomplete reply, which is continued.
    """

    conversation: str | None = None
    parent: str | None = None
    content: str | None = None
    model: str = ""
    system: str = ""
    goes_on: bool = False


@dataclass(frozen=True)
class Turn:
    """What is to be answered: where it is kept, the messages so far, the reply to be filled."""

    conversation: str
    title: str
    settings: Mapping[str, Any]
    new_messages: Sequence[StoredMessage]
    reply: StoredMessage
    said: Sequence[Mapping[str, Any]]
    goes_on: bool

    def wish(self, model: ServedModel, given: Mapping[str, Any], limits: Limits) -> Wish:
        """What the model is to make."""
        options = preset_options(model.preset, given)
        hold_limits(options, limits)
        open_text = open_chat if self.goes_on else open_reply
        said = preset_messages(model.preset, self.said)
        start = open_text(said, options, template=model.preset.template)
        return Wish(model.name, start, is_stream=True)


def new_turn(
    fields: ChatFields, options: Mapping[str, Any], kept: Mapping[str, Any] | None
) -> Turn:
    """The turn that a request begins, below the messages that are kept."""
    path: list[dict[str, Any]] = []
    if fields.parent is not None:
        found = None if kept is None else conversations.path_to(kept, fields.parent)
        if found is None:
            raise RequestError(404, "there is no such message", param="parent", code="not_found")
        path = found
    said = [_conversation_message(each) for each in path]
    system = [{"role": "system", "content": fields.system}] if fields.system.strip() else []
    new: list[StoredMessage] = []
    if fields.content is not None:
        new.append(StoredMessage(_new_id(), fields.parent, "user", fields.content))
        said.append({"role": "user", "content": fields.content})
    if not said or said[-1]["role"] != ("assistant" if fields.goes_on else "user"):
        raise RequestError(400, "there is nothing to answer", param="content")
    checked_messages(said)
    if fields.goes_on:
        last = path[-1]
        reply = StoredMessage(last["id"], last["parent"], "assistant", last["content"])
        thought = _thought(last)
    else:
        reply = StoredMessage(_new_id(), new[0].id if new else fields.parent, "assistant", "")
        thought = {}
    return Turn(
        conversation=fields.conversation or _new_id(),
        title=_title(said[0]["content"]),
        settings={"model": fields.model, "system": fields.system, "options": dict(options)},
        new_messages=[*new, reply],
        reply=replace(reply, details={"model": fields.model, **thought}),
        said=[*system, *said],
        goes_on=fields.goes_on,
    )


def _conversation_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the page, in the form that a conversation takes."""
    return {"role": message["role"], "content": message["content"], **_thought(message)}


def _thought(message: Mapping[str, Any]) -> dict[str, Any]:
    """What was thought before a kept reply, if anything was."""
    thought = message["details"].get(REASONING)
    return {REASONING: thought} if thought else {}


def open_reply(
    messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], *, template: str
) -> OpenText:
    """What starts a reply; the oldest turns go out of its prompt where the context is full."""

    def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
        chat = stack.enter_context(llama.chat(messages=messages, template=template or None))
        return chat.regenerate(**options)

    return start


class ReplyWriter(StreamWriter):
    """Events of a reply for the page, which also fill its place in the store."""

    error_shape = staticmethod(openai_error)
    ping_s = SHOWN_EVERY_S

    def __init__(
        self, turn: Turn, store: SqliteFile, drafts: dict[str, Draft],
        context_length: Callable[[], int | None],
    ) -> None:  # fmt: skip
        """``drafts`` are replies that are being written, by id, for other tabs to see."""
        self._turn = turn
        self._store = store
        self._drafts = drafts
        self._context_length = context_length
        self._pieces = [turn.reply.content]
        self._thoughts = [turn.reply.details.get(REASONING, "")]
        self._details: Mapping[str, Any] = {"finish_reason": "writing"}
        self.is_open = False
        self._kept_at = time.monotonic()

    async def begin(self) -> bytes:
        """Keep the question, and a place for the reply."""
        turn = self._turn
        await self._store.ask(
            partial(
                conversations.begin,
                name=turn.conversation,
                title=turn.title,
                settings=turn.settings,
                messages=turn.new_messages,
            )
        )
        self.is_open = True
        self._drafts[turn.reply.id] = self
        messages = [each.as_json() for each in (*turn.new_messages[:-1], turn.reply)]
        return sse(
            {"type": "begun", "conversation": turn.conversation, "title": turn.title,
             "messages": messages}
        )  # fmt: skip

    def event(self, event: Event) -> bytes:
        """A piece, or the end with its figures."""
        if isinstance(event, Piece):
            chunk = event.chunk
            told = b""
            if chunk.reasoning:
                self._thoughts.append(chunk.reasoning)
                told = sse({"type": "thinking", "text": chunk.reasoning})
            if chunk.text:
                self._pieces.append(chunk.text)
                told += sse({"type": "text", "text": chunk.text})
            if told:
                self._keep_now_and_then()
            return told
        if isinstance(event, Ended):
            return sse({"type": "end", "message": self.message().as_json()})
        return b""

    async def keep(self, result: Generation) -> None:
        """Keep the whole reply; where that fails it is there as long as the server runs."""
        self._end(self._figures(result))
        await self._store.ask(partial(conversations.finish, message=self.message()))
        del self._drafts[self._turn.reply.id]

    def ping(self, state: str) -> bytes:
        """What is waited for."""
        return sse({"type": "state", "text": state})

    def failure(self, error: RequestError) -> bytes:
        """Why nothing more comes."""
        has_left = error.code == "client_left"
        details = {"finish_reason": "failed", "error": error.what}
        self._end_early({"finish_reason": "cancelled"} if has_left else details)
        message = self.message().as_json()
        return sse({"type": "failed", "error": error.what, "code": error.code, "message": message})

    def close(self) -> None:
        """Keep what came, if nobody has said yet how it ended."""
        self._end_early({"finish_reason": "cancelled"})

    def _keep_now_and_then(self) -> None:
        """What came so far, without a reason of its end: the server may end by force."""
        now = time.monotonic()
        if now - self._kept_at > KEEP_EVERY_S:
            self._kept_at = now
            self._store.tell(partial(conversations.finish, message=self._with({})))

    def _end(self, details: Mapping[str, Any]) -> None:
        self._details, self.is_open = details, False

    def _end_early(self, details: Mapping[str, Any]) -> None:
        if self.is_open:
            self._end(details)
            self._store.tell(partial(conversations.finish, message=self.message()))
            del self._drafts[self._turn.reply.id]

    def message(self) -> StoredMessage:
        """The reply as far as it has come."""
        return self._with(self._details)

    def _with(self, details: Mapping[str, Any]) -> StoredMessage:
        reply = self._turn.reply
        thought = "".join(self._thoughts)
        known = {**reply.details, **({REASONING: thought} if thought else {}), **details}
        return replace(reply, content="".join(self._pieces), details=known)

    def _figures(self, result: Generation) -> dict[str, Any]:
        figures = result.statistics
        return {
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "generated_tokens": len(result.tokens),
            "cached_tokens": result.usage.cached_tokens,
            "dropped_messages": result.dropped_messages,
            "tokens_per_second": figures.decode_tokens_per_second,
            "prefill_tokens_per_second": figures.prefill_tokens_per_second,
            "first_token_seconds": figures.time_to_first_token_s,
            "context_length": self._context_length(),
        }


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1] + "…"


def _new_id() -> str:
    return secrets.token_hex(12)
