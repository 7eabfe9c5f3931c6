"""Texts in the words of llama.cpp's own server: completions, gaps in code, and what is served.

Editors with its plugins (llama.vim, llama.vscode) and older programs speak it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers import Ended, Event, Piece, Wish
from edgellama.server.errors import openai_error, refused
from edgellama.server.fields import WITHOUT_INFLUENCE, take_fields
from edgellama.server.openai_common import finish_reason, hold_limits
from edgellama.server.presets import preset_options
from edgellama.server.routing import Routes, read_for_model, state_of
from edgellama.server.streaming import StreamWriter, respond
from edgellama.server.text_openers import open_prompt
from edgellama.server.wire import json_response, sse

if TYPE_CHECKING:
    from edgellama.generation.results import Generation

SNIPPET = "\n\n--- snippet ---\n\n"
"""What llama.cpp puts before text of other files, for models that have no token for it."""
INFILL_SAMPLER = "infill"
"""A sampler of llama.cpp's that ends texts early; ours end by the model's own tokens."""
LEFT_OUT = WITHOUT_INFLUENCE | {
    *("cache_prompt", "id_slot", "slot_id", "n_cache_reuse", "n_keep", "n_indent", "n_discard"),
    *("t_max_prompt_ms", "t_max_predict_ms", "timings_per_token", "return_progress"),
}
"""Fields about llama.cpp's slots and cache, and times that it keeps only roughly itself."""


class LlamaCppFields(msgspec.Struct):
    """What both kinds of texts take."""

    model: str = ""
    stream: bool = False
    n_predict: int | None = None
    json_schema: dict[str, Any] | None = None
    response_fields: list[str] = []


class CompletionFields(LlamaCppFields):
    """``/completion``."""

    prompt: str | list[int] = ""


class InfillFields(LlamaCppFields):
    """``/infill``: ``prompt`` goes behind the prefix; ``input_extra`` are parts of other files."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[dict[str, Any]] = []
    prompt: str = ""


async def completion(request: Request) -> Response:
    """What follows a prompt."""
    fields, options = await _taken(request, CompletionFields)
    return await _answer(request, fields, fields.prompt, {**options, "parse_special": True})


async def infill(request: Request) -> Response:
    """What stands in a gap."""
    fields, options = await _taken(request, InfillFields)
    before = "".join(SNIPPET + _text_of(part) for part in fields.input_extra)
    prefix = f"{before}{SNIPPET if before else ''}{fields.input_prefix}{fields.prompt}"
    return await _answer(request, fields, prefix, {**options, "suffix": fields.input_suffix})


async def props(request: Request) -> Response:
    """What the server's model is, and how many texts it makes at once."""
    from edgellama import __version__

    state = state_of(request)
    model = state.catalogue.find(request.query_params.get("model"))
    async with state.shelf.lease(model.name) as llama:
        context = llama.context_length
        template = llama.metadata.get("tokenizer.chat_template")
    return json_response(
        {
            "default_generation_settings": {"n_ctx": context},
            "total_slots": state.queue.width,
            "model_alias": model.name,
            "model_path": model.name,
            "chat_template": model.preset.template or (template or ""),
            "modalities": {"vision": False, "audio": False},
            "build_info": f"edgellama {__version__}",
        }
    )


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if isinstance(text, str):
        return text
    raise refused("input_extra", 'a part of input_extra has no text; allowed: {"text": "..."}')


async def _taken(request: Request, kind: type[Any]) -> tuple[Any, dict[str, Any]]:
    """The fields of a request, and the options of its text."""
    body, preset = await read_for_model(request)
    fields, options = take_fields(body, kind, ignored=LEFT_OUT)
    options = preset_options(preset, options)
    if fields.n_predict is not None and fields.n_predict >= 0:
        options["max_tokens"] = fields.n_predict
    if fields.json_schema is not None:
        options["schema"] = fields.json_schema
    if isinstance(options.get("samplers"), list):
        options["samplers"] = [each for each in options["samplers"] if each != INFILL_SAMPLER]
    hold_limits(options, state_of(request).settings.limits)
    return fields, options


async def _answer(
    request: Request,
    fields: LlamaCppFields,
    prompt: str | Sequence[int],
    options: Mapping[str, Any],
) -> Response:
    start = open_prompt(prompt, options)
    answer = state_of(request).answer(Wish(fields.model, start, is_stream=fields.stream))
    wanted = fields.response_fields

    def whole(results: Sequence[Generation]) -> dict[str, Any]:
        return _chosen({"content": results[0].text, **_end(results[0])}, wanted)

    return await respond(request, answer, PlainStream, whole)


class PlainStream(StreamWriter):
    """Pieces of a text."""

    error_shape = staticmethod(openai_error)

    def event(self, event: Event) -> bytes:
        """A piece, or the end with its counts."""
        if isinstance(event, Piece):
            return sse({"content": event.chunk.text, "stop": False}) if event.chunk.text else b""
        if isinstance(event, Ended):
            return sse({"content": "", **_end(event.result)})
        return b""


def _end(result: Generation) -> dict[str, Any]:
    figures = result.statistics
    return {
        "stop": True,
        "stop_type": "limit" if finish_reason(result) == "length" else "eos",
        "tokens_predicted": len(result.tokens),
        "tokens_evaluated": result.prompt_tokens,
        "tokens_cached": result.usage.cached_tokens,
        "truncated": False,
        "timings": {
            "prompt_n": figures.prefilled_tokens,
            "prompt_ms": 1e3 * figures.prefill_s,
            "predicted_n": len(result.tokens),
            "predicted_ms": 1e3 * figures.decode_s,
            "predicted_per_second": figures.decode_tokens_per_second,
        },
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
    ("/props", ("GET",), props),
)
