"""OpenAI's chat completions: reads a request's fields, writes one JSON object or a stream.

``usage`` has what completions share with them, ``routes`` the path.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.generation.chat.messages import content_text
from edgellama.quant.errors import InvalidOptionError
from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.answers.text_openers import open_chat
from edgellama.server.answers.wish import Wish
from edgellama.server.connections.wire import encode_json, now, sse
from edgellama.server.errors import RequestError, openai_error
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.constraints import openai_format
from edgellama.server.fields.durations import keep_alive_seconds
from edgellama.server.fields.fields import take_fields
from edgellama.server.fields.limits import check_num_texts, hold_limits
from edgellama.server.fields.log_probabilities import chat_logprobs, text_logprobs, wanted_logprobs
from edgellama.server.fields.ollama_fields import text_options
from edgellama.server.fields.presets import preset_messages, preset_options
from edgellama.server.fields.thinking import reasoning_fields, thinking_wish
from edgellama.server.fields.tool_fields import (
    ToldCalls,
    openai_call,
    openai_calls,
    openai_piece,
    openai_tools,
)
from edgellama.server.openai.usage import (
    StreamOptions,
    finish_reason,
    model_stream_end,
    usage,
    wants_usage,
)

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk, Generation, TokenLogprob
    from edgellama.models.made import Preset
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
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    prediction: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] = {}  # Ollama's, as goose sends them.


class ChatRequest:
    """A request for chat completions, checked."""

    def __init__(self, body: Mapping[str, Any], limits: Limits, preset: Preset) -> None:
        """RequestError for what cannot be obeyed."""
        fields, options = take_fields(body, ChatFields)
        options = preset_options(preset, {**text_options(fields.options), **options})
        if fields.max_completion_tokens is not None:
            options["max_tokens"] = fields.max_completion_tokens
        options |= openai_format(fields.response_format, "response_format")
        options |= openai_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls)
        options |= wanted_logprobs(fields.logprobs, fields.top_logprobs)
        if fields.prediction:
            options["prediction"] = predicted_text(fields.prediction)
        if fields.chat_template_kwargs:
            options["template_variables"] = fields.chat_template_kwargs
        thinking = thinking_wish({**fields.options, **body})
        options |= thinking.options
        hold_limits(options, limits)
        check_num_texts(fields.n, limits)
        self.fields = fields
        self.messages = ordered_messages(preset_messages(preset, fields.messages))
        self.options = options
        self.template = preset.template
        self.tells_thinking = thinking.is_told

    def wish(self) -> Wish:
        """What is to be made."""
        fields = self.fields
        start = open_chat(self.messages, self.options, template=self.template)
        return Wish(
            fields.model, start, fields.n, keep_alive_seconds(fields.keep_alive), fields.stream
        )


class ChatStream(StreamWriter):
    """Chunks of a chat completion."""

    error_shape = staticmethod(openai_error)

    def __init__(self, model: str, request: ChatRequest) -> None:
        fields = request.fields
        self._tells_thinking = request.tells_thinking
        self._head: dict[str, Any] = {
            "id": completion_id(),
            "object": "chat.completion.chunk",
            "created": now(),
            "model": model,
            "system_fingerprint": None,
        }
        self._num_texts = fields.n
        self._with_usage = wants_usage(fields.stream_options)
        if self._with_usage:
            self._head["usage"] = None  # Of every chunk but the last.
        self._is_predicted = bool(fields.prediction)
        self._results: list[Generation] = []
        self._told: dict[int, ToldCalls] = defaultdict(ToldCalls)
        self._around: dict[int, tuple[bytes, bytes]] = {}

    async def begin(self) -> bytes:
        """The role, said once."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, delta) for index in range(self._num_texts))

    def event(self, event: Event) -> bytes:
        """A piece of text, the reason of its end, or the end of the stream."""
        if isinstance(event, Piece):
            return self._piece(event.index, event.chunk)
        if isinstance(event, Ended):
            self._results.append(event.result)
            others = self._told[event.index].others(event.result.tool_calls)
            calls = [{"index": index, **openai_call(call)} for index, call in others]
            rest = self._chunk(event.index, {"tool_calls": calls}) if calls else b""
            return rest + self._chunk(event.index, {}, finish_reason(event.result))
        counts = usage(self._results, is_predicted=self._is_predicted)
        head = {**self._head, "choices": [], "usage": counts}
        return (sse(head) if self._with_usage else b"") + model_stream_end()

    def _piece(self, index: int, chunk: Chunk) -> bytes:
        told = self._told[index]
        text = told.text_of(chunk)
        if not (chunk.calls or chunk.logprobs or chunk.is_reasoning):
            return self._text(index, text) if text else b""
        thought = chunk.reasoning if self._tells_thinking else ""
        # Clients expect log-probabilities of the content alone, not of thinking.
        found = [chunk.logprobs] if chunk.logprobs and not chunk.is_reasoning else None
        if not (text or thought or chunk.calls or found):
            return b""
        delta = reasoning_fields(thought)
        if text or not (chunk.calls or thought):
            delta["content"] = text
        if chunk.calls:
            delta["tool_calls"] = [openai_piece(each, told.begins(each)) for each in chunk.calls]
        return self._chunk(index, delta, logprobs=found)

    def _text(self, index: int, text: str) -> bytes:
        """A chunk of text alone: what stands around it is the same for all of them."""
        around = self._around.get(index)
        if around is None:
            before, _, behind = self._chunk(index, {"content": "\0"}).rpartition(rb'"\u0000"')
            around = self._around[index] = (before, behind)
        return around[0] + encode_json(text) + around[1]

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        logprobs: Sequence[TokenLogprob] | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(logprobs),
            "finish_reason": reason,
        }
        return sse({**self._head, "choices": [choice]})


def chat_completion(
    model: str, request: ChatRequest, results: Sequence[Generation]
) -> dict[str, Any]:
    """All texts as one object."""
    tells_thinking = request.tells_thinking
    return {
        "id": completion_id(),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "system_fingerprint": None,
        "choices": [
            {
                "index": index,
                "message": _message(result, tells_thinking),
                "logprobs": _logprobs(text_logprobs(result)),
                "finish_reason": finish_reason(result),
            }
            for index, result in enumerate(results)
        ],
        "usage": usage(results, is_predicted=bool(request.fields.prediction)),
    }


def predicted_text(given: Mapping[str, Any]) -> str:
    """The text of ``prediction``, which decides how fast a text comes, never what it says."""
    try:
        return content_text(given.get("content"))
    except InvalidOptionError as error:
        raise RequestError(400, f"prediction: {error.what}", param="prediction") from None


def _message(result: Generation, tells_thinking: bool) -> dict[str, Any]:
    """A reply; beside calls its text may be missing."""
    calls = openai_calls(result.tool_calls)
    content = None if calls and not result.text else result.text
    message = {"role": "assistant", "content": content, "refusal": None}
    if tells_thinking:
        message |= reasoning_fields(result.reasoning)
    return {**message, "tool_calls": calls} if calls else message


def _logprobs(found: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    return None if found is None else {"content": chat_logprobs(found), "refusal": None}


def completion_id() -> str:
    """A new id in OpenAI's form."""
    return f"chatcmpl-{secrets.token_hex(12)}"
