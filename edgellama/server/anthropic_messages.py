"""Anthropic's messages: fields in, one message or a stream of named events out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.server.answers import Ended, Event, Piece, Wish
from edgellama.server.anthropic_blocks import chat_messages, reply_blocks
from edgellama.server.chat_messages import ordered_messages
from edgellama.server.constraints import anthropic_format
from edgellama.server.errors import RequestError, anthropic_error
from edgellama.server.fields import take_fields
from edgellama.server.openai_common import hold_limits
from edgellama.server.streaming import StreamWriter
from edgellama.server.text_openers import open_chat
from edgellama.server.tool_fields import anthropic_tools, arguments_text
from edgellama.server.wire import sse

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.server.settings import Limits

WITHOUT_INFLUENCE = frozenset(
    {
        *("metadata", "service_tier", "cache_control", "inference_geo", "user_profile_id"),
        *("workspace_id", "speed"),
    }
)
"""Fields about the caller, prices and a cache that is always on here."""
STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "context": "model_context_window_exceeded",
    "cancelled": "end_turn",
}


class CountFields(msgspec.Struct):
    """``/v1/messages/count_tokens``."""

    messages: list[dict[str, Any]]
    model: str = ""
    system: str | list[dict[str, Any]] = ""
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None


class MessageFields(CountFields):
    """``/v1/messages``."""

    max_tokens: int | None = None
    stream: bool = False
    stop_sequences: list[str] = []
    output_config: dict[str, Any] | None = None


class MessagesRequest:
    """A request for a message, checked. ``prompt`` has its tokens once it runs."""

    def __init__(self, body: Mapping[str, Any], limits: Limits) -> None:
        """RequestError for what cannot be obeyed."""
        fields, options = take_fields(body, MessageFields, ignored=WITHOUT_INFLUENCE)
        if fields.max_tokens is None:
            raise RequestError(
                400, "max_tokens is missing; allowed: at least 1", param="max_tokens"
            )
        options["max_tokens"] = fields.max_tokens
        options |= anthropic_format(fields.output_config)
        options |= anthropic_tools(fields.tools, fields.tool_choice)
        hold_limits(options, limits)
        if fields.stop_sequences:
            options["stop"] = fields.stop_sequences
        self.fields = fields
        self.options = options
        self.messages = messages_of(fields)
        self.prompt: list[int] = []

    def wish(self) -> Wish:
        """What is to be made."""
        start = open_chat(self.messages, self.options, prompt=self.prompt)
        return Wish(self.fields.model, start, is_stream=self.fields.stream)


def messages_of(fields: CountFields) -> list[dict[str, Any]]:
    """The messages with the system prompt, which has a field of its own here, in front."""
    system = [{"role": "system", "content": fields.system}] if fields.system else []
    return ordered_messages([*system, *chat_messages(fields.messages)])


class MessageStream(StreamWriter):
    """Events of a message with one block of text."""

    error_shape = staticmethod(anthropic_error)

    def __init__(self, model: str, request: MessagesRequest) -> None:
        self._model = model
        self._request = request

    async def begin(self) -> bytes:
        """The empty message and the empty block."""
        counts = {"input_tokens": len(self._request.prompt), "output_tokens": 0}
        message = {**_head(self._model), "content": [], "stop_reason": None, "usage": counts}
        block = {"type": "text", "text": ""}
        return (
            _event("message_start", message={**message, "stop_sequence": None})
            + _event("content_block_start", index=0, content_block=block)
            + self.ping("")
        )

    def event(self, event: Event) -> bytes:
        """A piece of text, or the end with its reason and counts."""
        if isinstance(event, Piece):
            if not event.chunk.text:
                return b""
            delta = {"type": "text_delta", "text": event.chunk.text}
            return _event("content_block_delta", index=0, delta=delta)
        if isinstance(event, Ended):
            return (
                _event("content_block_stop", index=0)
                + _call_events(event.result)
                + _event("message_delta", delta=stop_of(event.result), usage=usage(event.result))
                + _event("message_stop")
            )
        return b""

    def ping(self, state: str) -> bytes:
        """Anthropic's own sign of life."""
        return _event("ping")

    def failure(self, error: RequestError) -> bytes:
        """An error as an event."""
        return sse(anthropic_error(error), "error")


def message(model: str, result: Generation) -> dict[str, Any]:
    """The whole message."""
    content = reply_blocks(result)
    return {**_head(model), "content": content, **stop_of(result), "usage": usage(result)}


def _call_events(result: Generation) -> bytes:
    """A block for each call, behind that of the text."""
    events = b""
    for index, call in enumerate(result.tool_calls, start=1):
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments_text(call)}
        events += _event("content_block_start", index=index, content_block=block)
        events += _event("content_block_delta", index=index, delta=delta)
        events += _event("content_block_stop", index=index)
    return events


def stop_of(result: Generation) -> dict[str, Any]:
    """Why the message ended."""
    if isinstance(result.matched_stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": result.matched_stop}
    return {
        "stop_reason": STOP_REASONS.get(result.finish_reason, "max_tokens"),
        "stop_sequence": None,
    }


def usage(result: Generation) -> dict[str, Any]:
    """Counts; what was found in the cache is counted apart here."""
    counts = result.usage
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.generated_tokens,
    }


def _head(model: str) -> dict[str, Any]:
    name = f"msg_{secrets.token_hex(12)}"
    return {"id": name, "type": "message", "role": "assistant", "model": model}


def _event(name: str, **content: Any) -> bytes:
    return sse({"type": name, **content}, name)
