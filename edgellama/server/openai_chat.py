"""OpenAI's chat completions: fields in, one JSON object or a stream of chunks out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.server.answers import Ended, Event, Piece, Wish
from edgellama.server.chat_messages import ordered_messages
from edgellama.server.constraints import openai_format
from edgellama.server.errors import openai_error
from edgellama.server.fields import take_fields
from edgellama.server.openai_common import (
    StreamOptions,
    check_num_texts,
    finish_reason,
    hold_limits,
    model_stream_end,
    usage,
)
from edgellama.server.text_openers import open_chat
from edgellama.server.wire import StreamWriter, now, sse

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.server.settings import Limits


class ChatFields(msgspec.Struct):
    """Fields of a request that are not options of the text."""

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class ChatRequest:
    """A request for chat completions, checked."""

    def __init__(self, body: Mapping[str, Any], limits: Limits) -> None:
        """RequestError for what cannot be obeyed."""
        fields, options = take_fields(body, ChatFields)
        if fields.max_completion_tokens is not None:
            options["max_tokens"] = fields.max_completion_tokens
        options |= openai_format(fields.response_format, "response_format")
        hold_limits(options, limits)
        check_num_texts(fields.n, limits)
        self.fields = fields
        self.messages = ordered_messages(fields.messages)
        self.options = options

    def wish(self) -> Wish:
        """What is to be made."""
        return Wish(self.fields.model, open_chat(self.messages, self.options), self.fields.n)


class ChatStream(StreamWriter):
    """Chunks of a chat completion."""

    error_shape = staticmethod(openai_error)

    def __init__(self, model: str, num_texts: int, with_usage: bool) -> None:
        self._head = {
            "id": completion_id(),
            "object": "chat.completion.chunk",
            "created": now(),
            "model": model,
            "system_fingerprint": None,
        }
        self._num_texts = num_texts
        self._with_usage = with_usage
        self._results: list[Generation] = []

    def begin(self) -> bytes:
        """The role, said once."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, delta) for index in range(self._num_texts))

    def event(self, event: Event) -> bytes:
        """A piece of text, the reason of its end, or the end of the stream."""
        if isinstance(event, Piece):
            if not event.chunk.text:
                return b""
            return self._chunk(event.index, {"content": event.chunk.text})
        if isinstance(event, Ended):
            self._results.append(event.result)
            return self._chunk(event.index, {}, finish_reason(event.result))
        head = {**self._head, "choices": [], "usage": usage(self._results)}
        return (sse(head) if self._with_usage else b"") + model_stream_end()

    def _chunk(self, index: int, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse({**self._head, "choices": [choice]})


def chat_completion(model: str, results: Sequence[Generation]) -> dict[str, Any]:
    """All texts as one object."""
    return {
        "id": completion_id(),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "system_fingerprint": None,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": result.text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(result),
            }
            for index, result in enumerate(results)
        ],
        "usage": usage(results),
    }


def completion_id() -> str:
    """A new id in OpenAI's form."""
    return f"chatcmpl-{secrets.token_hex(12)}"
