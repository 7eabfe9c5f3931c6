"""Anthropic's messages: reads a request's fields, writes a message or a stream of named events.

``blocks`` converts the contents of messages, ``routes`` has the paths.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.quant.error_text import shown
from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.answers.text_openers import open_chat
from edgellama.server.answers.wish import Wish
from edgellama.server.anthropic.blocks import (
    chat_messages,
    reply_blocks,
    signature,
    thinking_block,
    without_accounts,
)
from edgellama.server.connections.wire import sse
from edgellama.server.errors import RequestError, anthropic_error, refused
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.constraints import anthropic_format
from edgellama.server.fields.fields import option_value, take_fields
from edgellama.server.fields.limits import hold_limits
from edgellama.server.fields.presets import preset_messages, preset_options
from edgellama.server.fields.thinking import ThinkingWish, thinking_limit
from edgellama.server.fields.tool_fields import ToldCalls, anthropic_tools, arguments_text

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.models.made import Preset
    from edgellama.server.settings import Limits
    from edgellama.text.reasoning.expected import ReasoningWish

WITHOUT_INFLUENCE = frozenset(
    {
        *("metadata", "service_tier", "cache_control", "inference_geo", "user_profile_id"),
        *("workspace_id", "speed", "billing_policy", "diagnostics", "fallback_credit_token"),
    }
)
"""Fields about the caller, prices and a cache that is always on here."""
DISABLED = "disabled"
THINKING: Mapping[str, ReasoningWish] = {DISABLED: False, "enabled": True, "adaptive": "auto"}
NO_THREADS = MappingProxyType({"error_code": "thread_unsupported_request"})
"""By which clients know that they have to send the whole conversation each time."""
OF_THOUGHTS = "clear_thinking"
"""How edits of the context are called that take earlier thoughts away, as templates do anyway."""
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
    thinking: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


class MessageFields(CountFields):
    """``/v1/messages``."""

    max_tokens: int | None = None
    stream: bool = False
    stop_sequences: list[str] = []


class MessagesRequest:
    """A request for a message, checked. ``prompt`` has its tokens once it runs."""

    def __init__(self, body: Mapping[str, Any], limits: Limits, preset: Preset) -> None:
        """RequestError for what cannot be obeyed."""
        refuse_thread(body)
        fields, options = take_fields(body, MessageFields, ignored=WITHOUT_INFLUENCE)
        options = preset_options(preset, options)
        if fields.max_tokens is None:
            raise RequestError(
                400, "max_tokens is missing; allowed: at least 1", param="max_tokens"
            )
        options["max_tokens"] = fields.max_tokens
        options |= prompt_options(fields)
        self.thinking = asked_thinking(fields)
        options |= self.thinking.options
        hold_limits(options, limits)
        if fields.stop_sequences:
            options["stop"] = option_value("stop", fields.stop_sequences)
        self.fields = fields
        self.options = options
        self.messages = messages_of(fields, preset)
        self.template = preset.template
        self.prompt: list[int] = []

    def wish(self) -> Wish:
        """What is to be made."""
        start = open_chat(self.messages, self.options, template=self.template, prompt=self.prompt)
        return Wish(self.fields.model, start, is_stream=self.fields.stream)


def refuse_thread(body: Mapping[str, Any]) -> None:
    """RequestError for a conversation that the server would have to keep for later requests."""
    if body.get("thread") is not None:
        text = "thread is not supported here; send the whole conversation without it"
        raise RequestError(
            400, text, param="thread", code="unsupported_parameter", details=NO_THREADS
        )


def prompt_options(fields: CountFields) -> dict[str, Any]:
    """What a prompt tells beside its messages: a schema, in its field or the older one; tools."""
    config = dict(fields.output_config or {})
    if fields.output_format is not None:
        config.setdefault("format", fields.output_format)
    return {**anthropic_format(config), **anthropic_tools(fields.tools, fields.tool_choice)}


def asked_thinking(fields: CountFields) -> ThinkingWish:
    """Whether the model is to think, which it is not unless that is asked for here.

    ``is_told``: blocks have what it thought, and not its mere place. RequestError for what is no
    such wish.
    """
    given = fields.thinking or {}
    kind = given.get("type", DISABLED)
    if not isinstance(kind, str) or kind not in THINKING:
        allowed = ", ".join(THINKING)
        raise refused("thinking", f"thinking.type is {shown(kind)}; allowed: {allowed}")
    limit = thinking_limit(given.get("budget_tokens"))
    return ThinkingWish(THINKING[kind], given.get("display") != "omitted", limit)


def check_edits(fields: CountFields) -> None:
    """RequestError for edits of the context that would take more than thoughts away."""
    edits = (fields.context_management or {}).get("edits")
    for edit in edits if isinstance(edits, list) else ():
        kind = edit.get("type") if isinstance(edit, dict) else None
        if not str(kind).startswith(OF_THOUGHTS):
            raise refused(
                "context_management",
                f"context_management has an edit of the type {shown(kind)}; allowed: "
                f"{OF_THOUGHTS}_...",
            )


def messages_of(fields: CountFields, preset: Preset) -> list[dict[str, Any]]:
    """The messages with the system prompt, which has a field of its own here, in front."""
    check_edits(fields)
    said = without_accounts(fields.system)
    system = [{"role": "system", "content": said}] if said else []
    return ordered_messages(preset_messages(preset, [*system, *chat_messages(fields.messages)]))


class MessageStream(StreamWriter):
    """Events of a message: thinking if it is asked for, text, even without any, and calls."""

    error_shape = staticmethod(anthropic_error)

    def __init__(self, model: str, request: MessagesRequest) -> None:
        self._model = model
        self._request = request
        self._told = ToldCalls()
        self._num_blocks = 0
        self._open = ""
        self._thinking = request.thinking
        self._thought = ""

    async def begin(self) -> bytes:
        """The empty message; a block begins with what is in it, since clients send back all."""
        counts = {"input_tokens": len(self._request.prompt), "output_tokens": 0}
        message = {**_head(self._model), "content": [], "stop_reason": None, "usage": counts}
        return _event("message_start", message={**message, "stop_sequence": None}) + self.ping("")

    def event(self, event: Event) -> bytes:
        """A piece of text or of a call, or the end with its reason and counts."""
        told = b""
        if isinstance(event, Piece):
            if event.chunk.reasoning and self._shows_thinking:
                told = self._think(event.chunk.reasoning)
            if text := self._told.text_of(event.chunk):
                told += b"" if self._open == "text" else self._begin_text()
                told += self._delta(type="text_delta", text=text)
            for piece in event.chunk.calls:
                if self._told.begins(piece):
                    told += self._begin_call(piece.id, piece.name)
                told += self._delta(type="input_json_delta", partial_json=piece.arguments)
        if isinstance(event, Ended):
            result = event.result
            for _, call in self._told.others(result.tool_calls):
                told += self._begin_call(call.id, call.name)
                told += self._delta(type="input_json_delta", partial_json=arguments_text(call))
            if not result.tool_calls and not result.text and self._open != "text":
                told += self._begin_text()
            told += self._end_block()
            told += _event("message_delta", delta=stop_of(result), usage=usage(result))
            told += _event("message_stop")
        return told

    @property
    def _shows_thinking(self) -> bool:
        return self._thinking.reasoning is not False

    def _think(self, reasoning: str) -> bytes:
        """Some of what is thought, in a block of its own; of one that is not told the place."""
        told = b""
        if self._open != "thinking":
            told = self._begin_block(type="thinking", thinking="", signature="")
            self._thought = ""
        if self._thinking.is_told:
            told += self._delta(type="thinking_delta", thinking=reasoning)
            self._thought += reasoning
        return told

    def _begin_text(self) -> bytes:
        return self._begin_block(type="text", text="")

    def _begin_call(self, name: str, function: str) -> bytes:
        return self._begin_block(type="tool_use", id=name, name=function, input={})

    def _begin_block(self, **block: Any) -> bytes:
        ended = self._end_block()
        self._num_blocks += 1
        self._open = block["type"]
        number = self._num_blocks - 1
        return ended + _event("content_block_start", index=number, content_block=block)

    def _delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._num_blocks - 1, delta=delta)

    def _end_block(self) -> bytes:
        if not self._open:
            return b""
        signed = b""
        if self._open == "thinking":
            signed = self._delta(type="signature_delta", signature=signature(self._thought))
        self._open = ""
        return signed + _event("content_block_stop", index=self._num_blocks - 1)

    def ping(self, state: str) -> bytes:
        """Anthropic's own sign of life."""
        return _event("ping")

    def failure(self, error: RequestError) -> bytes:
        """An error as an event."""
        return sse(anthropic_error(error), "error")


def message(model: str, request: MessagesRequest, result: Generation) -> dict[str, Any]:
    """The whole message."""
    content = reply_blocks(result)
    wish = request.thinking
    if result.reasoning and wish.reasoning is not False:
        content.insert(0, thinking_block(result.reasoning if wish.is_told else ""))
    return {**_head(model), "content": content, **stop_of(result), "usage": usage(result)}


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
    thinking = {"thinking_tokens": counts.reasoning_tokens}
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.generated_tokens,
        **({"output_tokens_details": thinking} if counts.reasoning_tokens else {}),
    }


def _head(model: str) -> dict[str, Any]:
    name = f"msg_{secrets.token_hex(12)}"
    return {"id": name, "type": "message", "role": "assistant", "model": model}


def _event(name: str, **content: Any) -> bytes:
    return sse({"type": name, **content}, name)
