"""A response as a stream of numbered events, each with the name of what happened.

``responses`` writes the object itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.connections.wire import sse
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.fields.log_probabilities import chat_logprobs, text_logprobs
from edgellama.server.fields.tool_fields import ToldCalls, arguments_text
from edgellama.server.openai.responses import (
    ResponseObject,
    call_item,
    reasoning_part,
    status_of,
    text_part,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellama.generation.results import Chunk, Generation, TokenLogprob
    from edgellama.tools.call_pieces import CallPiece

CALL = "response.function_call_arguments"


class ThinkingItem:
    """The item of what is thought before the message, the first one; not there without any."""

    def __init__(self, response: ResponseObject, event: Callable[..., bytes]) -> None:
        """``event`` writes an event by its name and content."""
        self._response = response
        self._event = event
        self._pieces: list[str] = []
        self._is_open = False

    @property
    def is_begun(self) -> bool:
        """Whether anything was thought."""
        return bool(self._pieces)

    def piece(self, reasoning: str) -> bytes:
        """Some more of it."""
        told = b""
        if not self._pieces:
            self._is_open = True
            item = self._response.reasoning_item("", "in_progress")
            told = self._event("response.output_item.added", output_index=0, item=item)
            told += self._of_part("response.content_part.added", part=reasoning_part(""))
        self._pieces.append(reasoning)
        return told + self._of_part("response.reasoning_text.delta", delta=reasoning)

    def end(self) -> bytes:
        """All of it, once."""
        if not self._is_open:
            return b""
        self._is_open = False
        text = "".join(self._pieces)
        item = self._response.reasoning_item(text, "completed")
        return (
            self._of_part("response.reasoning_text.done", text=text)
            + self._of_part("response.content_part.done", part=reasoning_part(text))
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _of_part(self, name: str, **content: Any) -> bytes:
        item = self._response.reasoning_id
        return self._event(name, item_id=item, output_index=0, content_index=0, **content)


class ResponseStream(StreamWriter):
    """Events of a response: thinking, if any, a message even without any text, and calls."""

    error_shape = staticmethod(openai_error)

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0
        self._told = ToldCalls()
        self._arguments: dict[int, str] = {}
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._waiting: list[TokenLogprob] = []
        self._message: Literal["later", "open", "ended"] = "later"
        self._thinking = ThinkingItem(response, self._event)

    async def begin(self) -> bytes:
        """The response; what it has comes once it is known that nothing is thought before."""
        begun = self._response.begun()
        created = self._event("response.created", response=begun)
        return created + self._event("response.in_progress", response=begun)

    def event(self, event: Event) -> bytes:
        """A piece of text or of a call, or the end of everything."""
        if isinstance(event, Piece):
            told = self._piece(event.chunk)
            return told + b"".join(map(self._call_piece, event.chunk.calls))
        return self._end(event.result) if isinstance(event, Ended) else b""

    def failure(self, error: RequestError) -> bytes:
        """A response that has failed."""
        return self._event("response.failed", response=self._response.failed(error))

    def _piece(self, chunk: Chunk) -> bytes:
        # Once the message has begun, a stream has no place for thinking; the whole object has.
        is_told = chunk.reasoning and self._message == "later"
        thought = self._thinking.piece(chunk.reasoning) if is_told else b""
        text = self._told.text_of(chunk)
        if chunk.is_reasoning:
            self._waiting.clear()  # The tokens of what is thought have no place in the message.
        elif chunk.logprobs and self._message != "ended":
            self._waiting.append(chunk.logprobs)
        return thought + self._more(text) if text else thought

    def _more(self, text: str) -> bytes:
        """Some text of the message, with what is known of its tokens."""
        begun = self._begin_message()
        found, self._waiting = self._waiting, []
        self._text += text
        self._logprobs += found
        logprobs = chat_logprobs(found)
        return begun + self._of_part("response.output_text.delta", delta=text, logprobs=logprobs)

    def _call_piece(self, piece: CallPiece) -> bytes:
        """Some of a call's arguments, behind the end of the message."""
        index = piece.index
        told = b""
        if self._told.begins(piece):
            told = self._end_message("completed") + self._begin_call(index, piece.id, piece.name)
        self._arguments[index] = self._arguments.get(index, "") + piece.arguments
        told += self._of_call(f"{CALL}.delta", index, piece.id, delta=piece.arguments)
        if piece.is_whole:
            told += self._end_call(index, piece.id, piece.name, self._arguments[index])
        return told

    def _end(self, result: Generation) -> bytes:
        status = status_of(result)
        told = b""
        if self._message != "ended":
            told = self._more("") if self._waiting and not result.tool_calls else b""
            self._text, self._logprobs = result.text, list(text_logprobs(result) or ())
        told += self._end_message(status)
        for index, call in self._told.others(result.tool_calls):
            text = arguments_text(call)
            told += self._begin_call(index, call.id, call.name)
            told += self._of_call(f"{CALL}.delta", index, call.id, delta=text)
            told += self._end_call(index, call.id, call.name, text)
        return told + self._event(f"response.{status}", response=self._whole(result))

    def _whole(self, result: Generation) -> dict[str, Any]:
        """The response with its items in the places that the stream gave them."""
        return self._response.ended(result, is_thought_first=self._thinking.is_begun)

    def _begin_message(self) -> bytes:
        """The message and the part that text goes to, behind what was thought."""
        if self._message != "later":
            return b""
        self._message = "open"
        item = self._response.item(None, "in_progress")
        return (
            self._thinking.end()
            + self._event("response.output_item.added", output_index=self._index, item=item)
            + self._of_part("response.content_part.added", part=text_part(""))
        )

    def _end_message(self, status: str) -> bytes:
        if self._message == "ended":
            return b""
        begun = self._begin_message()
        self._message = "ended"
        part = text_part(self._text, self._logprobs)
        item = self._response.item(part, status)
        return (
            begun
            + self._of_part("response.output_text.done", text=self._text, logprobs=part["logprobs"])
            + self._of_part("response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=self._index, item=item)
        )

    @property
    def _index(self) -> int:
        """The place of the message among all items; it stays, once the message has begun."""
        return int(self._thinking.is_begun)

    def _place_of(self, index: int) -> int:
        """The place of the call of a number among all items."""
        return self._index + 1 + index

    def _begin_call(self, index: int, call_id: str, name: str) -> bytes:
        item = call_item(call_id, name, "", "in_progress")
        return self._event(
            "response.output_item.added", output_index=self._place_of(index), item=item
        )

    def _end_call(self, index: int, call_id: str, name: str, arguments: str) -> bytes:
        item = call_item(call_id, name, arguments, "completed")
        told = self._of_call(f"{CALL}.done", index, call_id, arguments=arguments, name=name)
        return told + self._event(
            "response.output_item.done", output_index=self._place_of(index), item=item
        )

    def _of_call(self, name: str, /, index: int, call_id: str, **content: Any) -> bytes:
        """An event of the call of a number; the message stands before all calls."""
        return self._event(
            name, item_id=f"fc_{call_id}", output_index=self._place_of(index), **content
        )

    def _of_part(self, name: str, **content: Any) -> bytes:
        item = self._response.message_id
        return self._event(name, item_id=item, output_index=self._index, content_index=0, **content)

    def _event(self, name: str, /, **content: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse({"type": name, "sequence_number": number, **content}, name)
