"""A response as events with numbers, each with the name of what happened.

What the object has is known to ``openai_responses``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellama.server.answers.answers import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.connections.wire import sse
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.fields.log_probabilities import chat_logprobs
from edgellama.server.fields.tool_fields import ToldCalls, arguments_text
from edgellama.server.openai_responses import ResponseObject, call_item, status_of, text_part

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk, Generation, TokenLogprob
    from edgellama.tools.call_pieces import CallPiece

CALL = "response.function_call_arguments"


class ResponseStream(StreamWriter):
    """Events of a response: a message, even without any text, and an item for each call."""

    error_shape = staticmethod(openai_error)

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0
        self._told = ToldCalls()
        self._arguments: dict[int, str] = {}
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._is_message_open = True

    async def begin(self) -> bytes:
        """The response, its message and the part that text goes to."""
        response = self._response
        return (
            self._event("response.created", response=response.begun())
            + self._event("response.in_progress", response=response.begun())
            + self._event(
                "response.output_item.added",
                output_index=0,
                item=response.item(None, "in_progress"),
            )
            + self._of_part("response.content_part.added", part=text_part(""))
        )

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
        text = self._told.text_of(chunk)
        # What belongs to tokens of calls has no place in a message that has ended.
        found = [chunk.logprobs] if chunk.logprobs and self._is_message_open else []
        if not (text or found):
            return b""
        self._text += text
        self._logprobs += found
        logprobs = chat_logprobs(found)
        return self._of_part("response.output_text.delta", delta=text, logprobs=logprobs)

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
        if self._is_message_open:
            self._text, self._logprobs = result.text, list(result.logprobs or ())
        told = self._end_message(status)
        for index, call in self._told.others(result.tool_calls):
            text = arguments_text(call)
            told += self._begin_call(index, call.id, call.name)
            told += self._of_call(f"{CALL}.delta", index, call.id, delta=text)
            told += self._end_call(index, call.id, call.name, text)
        return told + self._event(f"response.{status}", response=self._response.ended(result))

    def _end_message(self, status: str) -> bytes:
        if not self._is_message_open:
            return b""
        self._is_message_open = False
        part = text_part(self._text, self._logprobs)
        item = self._response.item(part, status)
        return (
            self._of_part("response.output_text.done", text=self._text, logprobs=part["logprobs"])
            + self._of_part("response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _begin_call(self, index: int, call_id: str, name: str) -> bytes:
        item = call_item(call_id, name, "", "in_progress")
        return self._event("response.output_item.added", output_index=index + 1, item=item)

    def _end_call(self, index: int, call_id: str, name: str, arguments: str) -> bytes:
        item = call_item(call_id, name, arguments, "completed")
        told = self._of_call(f"{CALL}.done", index, call_id, arguments=arguments, name=name)
        return told + self._event("response.output_item.done", output_index=index + 1, item=item)

    def _of_call(self, name: str, /, index: int, call_id: str, **content: Any) -> bytes:
        """An event of the call of a number; the message stands before all calls."""
        return self._event(name, item_id=f"fc_{call_id}", output_index=index + 1, **content)

    def _of_part(self, name: str, **content: Any) -> bytes:
        item = self._response.message_id
        return self._event(name, item_id=item, output_index=0, content_index=0, **content)

    def _event(self, name: str, /, **content: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse({"type": name, "sequence_number": number, **content}, name)
