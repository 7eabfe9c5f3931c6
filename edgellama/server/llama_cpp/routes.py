"""Texts in the protocol of llama.cpp's own server: completions, and gaps in code.

Editors with its plugins (llama.vim, llama.vscode) and older programs speak it. ``state`` describes
the server itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.routing import Routes, read_for_model, state_of
from edgellama.server.answers.streaming import StreamWriter, respond
from edgellama.server.answers.text_openers import open_prompt
from edgellama.server.answers.wish import OpenText, TextStream, Wish
from edgellama.server.connections.wire import sse
from edgellama.server.errors import openai_error, refused
from edgellama.server.fields.fields import OF_LINES, WITHOUT_INFLUENCE, take_fields
from edgellama.server.fields.limits import hold_limits
from edgellama.server.fields.log_probabilities import alternatives, token_logprob
from edgellama.server.fields.presets import preset_options
from edgellama.server.llama_cpp.gaps import (
    LimitedStream,
    LineLimits,
    extra_texts,
    fitting_texts,
    with_snippets,
)
from edgellama.server.openai.completions import prompts_of
from edgellama.server.openai.usage import finish_reason

if TYPE_CHECKING:
    from contextlib import ExitStack

    from edgellama.generation.results import Chunk, Generation, TokenLogprob
    from edgellama.generation.sessions.stream import Stream
    from edgellama.llama import Llama


class LlamaCppFields(msgspec.Struct):
    """What both kinds of texts take; ``t_max_predict_ms`` and ``n_indent`` are ``LineLimits``."""

    model: str = ""
    stream: bool = False
    t_max_predict_ms: float | None = None
    n_indent: int = 0
    n_probs: int = 0
    return_tokens: bool = False
    json_schema: dict[str, Any] | None = None
    response_fields: list[str] = []


class CompletionFields(LlamaCppFields):
    """``/completion``; of several prompts each has a text of its own."""

    prompt: str | list[str | int | list[int]] = ""


class InfillFields(LlamaCppFields):
    """``/infill``: ``prompt`` goes behind the prefix; ``input_extra`` are parts of other files."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[dict[str, Any]] = []
    prompt: str = ""


async def completion(request: Request) -> Response:
    """What follows a prompt, or each of several."""
    fields, options = await _taken(request, CompletionFields)
    state = state_of(request)
    prompts = prompts_of(fields.prompt)
    limits = state.settings.limits
    if len(prompts) > limits.max_texts:
        raise refused("prompt", f"{len(prompts)} prompts; allowed: up to {limits.max_texts}")
    are_several = isinstance(fields.prompt, list) and prompts[0] != fields.prompt
    options["parse_special"] = True

    def start(llama: Llama, index: int, stack: ExitStack) -> TextStream:
        return _limited(open_prompt(prompts[index], options)(llama, 0, stack), fields)

    texts = PlainTexts(state.catalogue.find(fields.model).name, fields, are_several)
    return await _answer(request, texts, start, len(prompts))


async def infill(request: Request) -> Response:
    """What stands in a gap."""
    fields, options = await _taken(request, InfillFields)
    texts = PlainTexts(state_of(request).catalogue.find(fields.model).name, fields)
    extra, before = extra_texts(fields.input_extra), fields.input_prefix + fields.prompt
    options["suffix"] = fields.input_suffix

    def start(llama: Llama, index: int, stack: ExitStack) -> TextStream:
        wanted = options.get("max_tokens")
        # A max_tokens that is no number is refused with the other options, once the text begins.
        room = llama.context_length - (wanted if isinstance(wanted, int) else 0)
        own = (before, fields.input_suffix)
        fitting = fitting_texts(extra, llama.tokenizer, own, room)
        texts.is_truncated = len(fitting) < len(extra)
        stream = open_prompt(with_snippets(fitting, before), options)(llama, 0, stack)
        return _limited(stream, fields)

    return await _answer(request, texts, start)


def _limited(stream: Stream, fields: LlamaCppFields) -> TextStream:
    """A stream that ends as the fields say."""
    milliseconds = fields.t_max_predict_ms or 0
    seconds = milliseconds / 1000 if milliseconds > 0 else None
    limits = LineLimits(seconds, max(0, fields.n_indent))
    return stream if limits == LineLimits() else LimitedStream(stream, limits)


async def _taken(request: Request, kind: type[Any]) -> tuple[Any, dict[str, Any]]:
    """The fields of a request, and the options of its text."""
    body, preset = await read_for_model(request)
    fields, options = take_fields(body, kind, ignored=WITHOUT_INFLUENCE - OF_LINES)
    options = preset_options(preset, options)
    if fields.n_probs:
        options["logprobs"] = alternatives(fields.n_probs, "n_probs")
    if fields.json_schema is not None:
        options["schema"] = fields.json_schema
    hold_limits(options, state_of(request).settings.limits)
    return fields, options


@dataclass
class PlainTexts:
    """Writes the texts of a request; ``is_truncated`` once parts before it were left out."""

    model: str
    fields: LlamaCppFields
    are_several: bool = False
    is_truncated: bool = False

    def whole(self, results: Sequence[Generation]) -> object:
        """All texts."""
        texts = [self._text(index, result) for index, result in enumerate(results)]
        return texts if self.are_several else texts[0]

    def _text(self, index: int, result: Generation) -> dict[str, Any]:
        tokens = list(result.tokens) if self.fields.return_tokens else []
        content = {"index": index, "content": result.text, "tokens": tokens, **self.end(result)}
        if result.logprobs is not None:
            content["completion_probabilities"] = list(map(_probable, result.logprobs))
        return _chosen(content, self.fields.response_fields)

    def end(self, result: Generation) -> dict[str, Any]:
        """How a text ended, and its counts."""
        return {"model": self.model, **_end(result), "truncated": self.is_truncated}


async def _answer(
    request: Request, texts: PlainTexts, start: OpenText, num_texts: int = 1
) -> Response:
    fields = texts.fields
    wish = Wish(fields.model, start, num_texts, is_stream=fields.stream)
    answer = state_of(request).answer(wish)
    return await respond(request, answer, lambda: PlainStream(texts), texts.whole)


class PlainStream(StreamWriter):
    """Pieces of texts."""

    error_shape = staticmethod(openai_error)

    def __init__(self, texts: PlainTexts) -> None:
        self._texts = texts

    def event(self, event: Event) -> bytes:
        """A piece, or the end with its counts."""
        if isinstance(event, Piece):
            return self._piece(event.index, event.chunk)
        if isinstance(event, Ended):
            end = {"index": event.index, "content": "", "tokens": []}
            return sse({**end, **self._texts.end(event.result)})
        return b""

    def _piece(self, index: int, chunk: Chunk) -> bytes:
        if not chunk.text and chunk.logprobs is None:
            return b""
        tokens = [] if chunk.token is None else [chunk.token]
        piece = {"index": index, "content": chunk.text, "tokens": tokens, "stop": False}
        if chunk.logprobs is not None:
            piece["completion_probabilities"] = [_probable(chunk.logprobs)]
        return sse(piece)


def _probable(each: TokenLogprob) -> dict[str, Any]:
    """A token with its log-probability, and those that might have stood there."""
    others = [{"id": other.token, **token_logprob(other)} for other in each.alternatives]
    return {"id": each.token, **token_logprob(each), "top_logprobs": others}


def _end(result: Generation) -> dict[str, Any]:
    figures = result.statistics
    word = result.matched_stop if isinstance(result.matched_stop, str) else ""
    ending = "word" if word else "eos"
    return {
        "stop": True,
        "stop_type": "limit" if finish_reason(result) == "length" else ending,
        "stopping_word": word,
        "tokens_predicted": len(result.tokens),
        "tokens_evaluated": result.prompt_tokens,
        "tokens_cached": result.usage.cached_tokens,
        "timings": {
            **_timings("prompt", figures.prefilled_tokens, figures.prefill_s),
            **_timings("predicted", len(result.tokens), figures.decode_s),
            "predicted_per_second": figures.decode_tokens_per_second,
        },
    }


def _timings(kind: str, number: int, seconds: float) -> dict[str, float]:
    return {
        f"{kind}_n": number,
        f"{kind}_ms": 1e3 * seconds,
        f"{kind}_per_token_ms": 1e3 * seconds / max(1, number),
        f"{kind}_per_second": number / seconds if seconds else 0.0,
    }


def _chosen(content: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The fields of these names, such as "timings/prompt_n"; all of them for none."""
    if not wanted:
        return dict(content)
    chosen: dict[str, Any] = {}
    for name in wanted:
        value: Any = content
        for key in name.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            chosen[name] = value
    return chosen


ROUTES: Routes = (
    ("/completion", ("POST",), completion),
    ("/infill", ("POST",), infill),
)
