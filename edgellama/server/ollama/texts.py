"""Texts as Ollama's clients read them: a line of JSON for each piece, the figures in the last one.

``fields.ollama_fields`` reads the requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edgellama.server.answers.answers import Answer, Times
from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.connections.wire import NDJSON_TYPE, ndjson
from edgellama.server.errors import RequestError, ollama_error
from edgellama.server.fields.log_probabilities import chat_logprobs
from edgellama.server.fields.tool_fields import ollama_calls

if TYPE_CHECKING:
    from edgellama.generation.results import Generation, TokenLogprob
    from edgellama.tools.tool import ToolCall

DONE_REASONS = {"stop": "stop", "tool_calls": "stop", "cancelled": "stop"}
Wrap = Callable[[str], "dict[str, Any]"]
"""How a kind of text holds what was written."""
More = Callable[["Generation"], "dict[str, Any]"]


def as_message(text: str) -> dict[str, Any]:
    """The object of ``/api/chat``."""
    return {"message": {"role": "assistant", "content": text}}


def as_response(text: str) -> dict[str, Any]:
    """The object of ``/api/generate``."""
    return {"response": text}


def with_thinking(content: dict[str, Any], reasoning: str) -> dict[str, Any]:
    """The same with what was thought, beside the text in a message."""
    if not reasoning:
        return content
    if "message" not in content:
        return {**content, "thinking": reasoning}
    return {**content, "message": {**content["message"], "thinking": reasoning}}


def with_calls(content: dict[str, Any], calls: Sequence[ToolCall]) -> dict[str, Any]:
    """A message with calls; what is no message has none."""
    if not calls or "message" not in content:
        return content
    return {**content, "message": {**content["message"], "tool_calls": ollama_calls(calls)}}


class OllamaStream(StreamWriter):
    """Lines of one text."""

    media_type = NDJSON_TYPE
    error_shape = staticmethod(ollama_error)

    def __init__(self, model: str, wrap: Wrap, answer: Answer, more: More) -> None:
        """``more``: what the last line has of a result beside its figures."""
        self._model = model
        self._wrap = wrap
        self._times = answer.times
        self._more = more

    def event(self, event: Event) -> bytes:
        """A piece, or the end with its figures."""
        if isinstance(event, Piece):
            chunk = event.chunk
            logprobs = None if chunk.is_reasoning else chunk.logprobs
            if not (chunk.text or logprobs or chunk.reasoning):
                return b""
            return self._line(chunk.text, logprobs, reasoning=chunk.reasoning)
        if isinstance(event, Ended):
            calls = event.result.tool_calls
            told = self._line("", calls=calls) if calls else b""
            content = {**self._wrap(""), **self._more(event.result)}
            return told + ndjson(final(self._model, content, event.result, self._times))
        return b""

    def ping(self, state: str) -> bytes:
        """An empty piece: a line that is no JSON would break clients."""
        return self._line("")

    def failure(self, error: RequestError) -> bytes:
        """An error as a line."""
        return ndjson(ollama_error(error))

    def _line(
        self,
        text: str,
        logprobs: TokenLogprob | None = None,
        calls: Sequence[ToolCall] = (),
        reasoning: str = "",
    ) -> bytes:
        content = with_thinking(with_calls(self._wrap(text), calls), reasoning)
        if logprobs is not None:
            content["logprobs"] = chat_logprobs([logprobs])
        head = {"model": self._model, "created_at": timestamp(), **content}
        return ndjson({**head, "done": False})


def final(
    model: str,
    content: Mapping[str, Any],
    result: Generation,
    times: Times,
) -> dict[str, Any]:
    """The last line, or the only one: what was written, and counts and nanoseconds."""
    figures = result.statistics
    return {
        "model": model,
        "created_at": timestamp(),
        **content,
        "done": True,
        "done_reason": DONE_REASONS.get(result.finish_reason, "length"),
        "total_duration": nanoseconds(time.perf_counter() - times.asked),
        "load_duration": nanoseconds(times.load_s),
        "prompt_eval_count": result.prompt_tokens,
        "prompt_eval_duration": nanoseconds(figures.prefill_s),
        "eval_count": len(result.tokens),
        "eval_duration": nanoseconds(figures.decode_s),
    }


def without_text(model: str, content: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The answer to a request that only loads or unloads a model."""
    head = {"model": model, "created_at": timestamp(), **content}
    return {**head, "done": True, "done_reason": reason}


def timestamp(seconds: float | None = None) -> str:
    """A moment, now by default, as Ollama writes it."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def nanoseconds(seconds: float) -> int:
    """Seconds as Ollama counts."""
    return round(seconds * 1e9)
