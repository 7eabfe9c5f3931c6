"""A response as events with numbers, each with the name of what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellama.server.answers import Ended, Event, Piece
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.log_probabilities import chat_logprobs
from edgellama.server.openai_responses import ResponseObject, call_item, status_of, text_part
from edgellama.server.streaming import StreamWriter
from edgellama.server.wire import sse

if TYPE_CHECKING:
    from edgellama.generation.results import Generation


class ResponseStream(StreamWriter):
    """Events of a response with one message."""

    error_shape = staticmethod(openai_error)

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0

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
        """A piece of text, or the end of everything."""
        if isinstance(event, Piece):
            chunk = event.chunk
            if not (chunk.text or chunk.logprobs):
                return b""
            logprobs = chat_logprobs([chunk.logprobs] if chunk.logprobs else ())
            return self._of_part("response.output_text.delta", delta=chunk.text, logprobs=logprobs)
        return self._end(event.result) if isinstance(event, Ended) else b""

    def failure(self, error: RequestError) -> bytes:
        """A response that has failed."""
        return self._event("response.failed", response=self._response.failed(error))

    def _end(self, result: Generation) -> bytes:
        status = status_of(result)
        part = text_part(result.text, result.logprobs)
        told = {"text": result.text, "logprobs": part["logprobs"]}
        return (
            self._of_part("response.output_text.done", **told)
            + self._of_part("response.content_part.done", part=part)
            + self._event(
                "response.output_item.done",
                output_index=0,
                item=self._response.item(part, status),
            )
            + self._calls(result, status)
            + self._event(f"response.{status}", response=self._response.ended(result))
        )

    def _calls(self, result: Generation, status: str) -> bytes:
        """An item of the output for each call, behind the text."""
        events = b""
        for index, call in enumerate(result.tool_calls, start=1):
            whole = call_item(call, status)
            place = {"item_id": whole["id"], "output_index": index}
            text = whole["arguments"]
            begun = call_item(call, "in_progress", "")
            kind = "response.function_call_arguments"
            events += self._event("response.output_item.added", output_index=index, item=begun)
            events += self._event(f"{kind}.delta", delta=text, **place)
            events += self._event(f"{kind}.done", arguments=text, name=call.name, **place)
            events += self._event("response.output_item.done", output_index=index, item=whole)
        return events

    def _of_part(self, name: str, **content: Any) -> bytes:
        item = self._response.message_id
        return self._event(name, item_id=item, output_index=0, content_index=0, **content)

    def _event(self, name: str, /, **content: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse({"type": name, "sequence_number": number, **content}, name)
