"""The endpoints of Ollama's protocol.

``ollama_fields`` reads requests, ``texts`` writes answers, ``manage`` changes files.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from edgellama.server.answers.routing import Routes, read_for_model, read_request, state_of
from edgellama.server.answers.streaming import respond
from edgellama.server.answers.text_openers import open_chat, open_prompt
from edgellama.server.answers.turns import leased, leaving_of
from edgellama.server.answers.wish import OpenText, Wish
from edgellama.server.browser.files import index_response, wants_page
from edgellama.server.connections.wire import json_response, ndjson_response
from edgellama.server.errors import RequestError
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.durations import keep_alive_seconds
from edgellama.server.fields.limits import hold_limits
from edgellama.server.fields.log_probabilities import chat_logprobs, text_logprobs
from edgellama.server.fields.ollama_fields import (
    ChatFields,
    CommonFields,
    GenerateFields,
    model_name,
    take_ollama_fields,
)
from edgellama.server.fields.presets import preset_messages, preset_options
from edgellama.server.fields.thinking import thinking_wish
from edgellama.server.fields.tool_fields import openai_tools
from edgellama.server.models.catalogue import ServedModel
from edgellama.server.ollama.pull import pull
from edgellama.server.ollama.texts import (
    More,
    OllamaStream,
    Wrap,
    as_message,
    as_response,
    final,
    timestamp,
    with_calls,
    with_thinking,
    without_text,
)
from edgellama.text.reasoning.marks import tells_of_thinking

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.server.models.loaded_model import LoadedModel

PROTOCOL_VERSION = "0.12.0"
"""The version of Ollama whose protocol this is: clients refuse older ones."""
FAR_AWAY_S = 100 * 365 * 86400.0
"""For a model that stays: clients want a moment."""


async def root(request: Request) -> Response:
    """Answer that the server is there; browsers get the page."""
    if wants_page(request) and state_of(request).settings.with_page:
        return index_response()
    return PlainTextResponse("edgellama is running", headers={"vary": "Accept"})


async def version(request: Request) -> Response:
    """Numbers that clients compare."""
    from edgellama import __version__

    return json_response({"version": PROTOCOL_VERSION, "edgellama": __version__})


async def tags(request: Request) -> Response:
    """All models."""
    usable = await asyncio.to_thread(state_of(request).catalogue.usable)
    models = [_tag(model) for model in usable]
    return json_response({"models": models})


async def running(request: Request) -> Response:
    """The loaded models."""
    entries = state_of(request).shelf.in_memory
    return json_response({"models": [_process(entry) for entry in entries]})


async def show(request: Request) -> Response:
    """All that a model's file says, but its long lists."""
    state = state_of(request)
    body = await read_request(request)
    name = body.get("model") or body.get("name")
    if not isinstance(name, str):
        raise RequestError(400, "model is missing; allowed: a name", param="model")
    model = state.catalogue.find(name)
    context_length = state.shelf.context_length(model)
    return json_response(await asyncio.to_thread(_description, model, context_length))


async def chat(request: Request) -> Response:
    """A reply to messages."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    fields, options = take_ollama_fields(body, ChatFields)
    if not fields.messages:
        return await _load_or_unload(request, fields, as_message)
    options = preset_options(preset, options)
    options |= openai_tools(fields.tools, fields.tool_choice, None)
    options |= thinking_wish({**fields.options, **body}).options
    hold_limits(options, state.settings.limits)
    messages = ordered_messages(preset_messages(preset, fields.messages))
    start = open_chat(messages, options, template=preset.template)
    return await _answer(request, start, fields, as_message, lambda result: {})


async def generate(request: Request) -> Response:
    """A reply to one message, or what follows a prompt or stands in a gap."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    fields, options = take_ollama_fields(body, GenerateFields)
    if not (fields.prompt or fields.suffix):
        return await _load_or_unload(request, fields, as_response)
    options = preset_options(preset, options)
    hold_limits(options, state.settings.limits)
    prompt: list[int] = []
    if fields.suffix:
        start = open_prompt(fields.prompt, {**options, "suffix": fields.suffix})
    elif fields.raw:
        start = open_prompt(fields.prompt, {**options, "parse_special": True})
    else:
        system = [{"role": "system", "content": fields.system}] if fields.system else []
        asked = [*system, {"role": "user", "content": fields.prompt}]
        # A prompt with a context continues a text that began with the preset's messages.
        messages = asked if fields.context else ordered_messages(preset_messages(preset, asked))
        options |= thinking_wish({**fields.options, **body}).options
        start = open_chat(
            messages, options, template=preset.template, context=fields.context, prompt=prompt
        )

    def more(result: Generation) -> dict[str, Any]:
        return {"context": [*prompt, *result.tokens]} if prompt else {}

    return await _answer(request, start, fields, as_response, more)


async def _answer(
    request: Request, start: OpenText, fields: CommonFields, wrap: Wrap, more: More
) -> Response:
    state = state_of(request)
    name = model_name(fields) or state.catalogue.find(None).name
    keep_alive_s = keep_alive_seconds(fields.keep_alive)
    answer = state.answer(
        Wish(model_name(fields), start, keep_alive_s=keep_alive_s, is_stream=fields.stream)
    )

    def whole(results: Sequence[Generation]) -> dict[str, Any]:
        (result,) = results
        said = with_thinking(wrap(result.text), result.reasoning)
        content = {**with_calls(said, result.tool_calls), **more(result)}
        found = text_logprobs(result)
        if found is not None:
            content["logprobs"] = chat_logprobs(found)
        return final(name, content, result, answer.times)

    return await respond(request, answer, lambda: OllamaStream(name, wrap, answer, more), whole)


async def _load_or_unload(request: Request, fields: CommonFields, wrap: Wrap) -> Response:
    """What a request without a prompt is for."""
    state = state_of(request)
    name, keep_alive_s = model_name(fields), keep_alive_seconds(fields.keep_alive)
    if keep_alive_s == 0:
        await state.shelf.unload(name)
        return ndjson_response([without_text(name, wrap(""), "unload")])
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, name, keep_alive_s):
            pass
    return ndjson_response([without_text(name, wrap(""), "load")])


def _tag(model: ServedModel) -> dict[str, Any]:
    name = _tagged(model.name)
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(model.modified),
        "size": model.num_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _details(model: ServedModel) -> dict[str, Any]:
    facts = model.facts
    family = facts.architecture or "llama"
    return {
        "parent_model": model.preset.base,
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": parameter_count(facts.num_parameters),
        "quantization_level": (facts.type or "unknown").upper(),
    }


def parameter_count(number: int) -> str:
    """A number of parameters as people say it."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.2f}M"


def _process(entry: LoadedModel) -> dict[str, Any]:
    left = entry.seconds_left
    stays = entry.num_uses or not math.isfinite(left)
    return {
        **_tag(entry.model),
        "expires_at": timestamp(time.time() + (FAR_AWAY_S if stays else left)),
        "size": entry.num_bytes,
        "size_vram": 0,
        "context_length": entry.llama.context_length,
    }


def _description(model: ServedModel, context_length: int | None) -> dict[str, Any]:
    from edgellama.quant.gguf.file import GGUFFile

    with GGUFFile(model.path) as file:
        metadata = dict(file.metadata)
    preset = model.preset
    own = metadata.get("tokenizer.chat_template")
    template = preset.template or (own if isinstance(own, str) else "")
    parameters = _parameters(preset.parameters)
    modelfile = [f"FROM {preset.base or model.name}"]
    modelfile += [f'SYSTEM """{preset.system}"""'] if preset.system else []
    modelfile += [f"PARAMETER {line}" for line in parameters]
    return {
        "modelfile": "\n".join(modelfile) + "\n",
        "parameters": "\n".join(parameters),
        "template": template,
        **({"system": preset.system} if preset.system else {}),
        **({"messages": list(preset.messages)} if preset.messages else {}),
        "license": preset.license or model.facts.license or "",
        "details": _details(model),
        "model_info": _public_metadata(model, metadata, context_length),
        "capabilities": _capabilities(metadata, template),
        "modified_at": timestamp(model.modified),
    }


def _parameters(given: Mapping[str, Any]) -> list[str]:
    """Options of a preset, a line for each value."""
    return [
        f"{name:<30} {json.dumps(value, ensure_ascii=False)}"
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _public_metadata(
    model: ServedModel, metadata: Mapping[str, Any], context_length: int | None
) -> dict[str, Any]:
    """What is no list, with what editors take: a name to show, and the context that there is."""
    scalars = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, (str, int, float, bool)) and key != "tokenizer.chat_template"
    }
    key = f"{model.facts.architecture}.context_length"
    served = {key: context_length} if context_length and key in metadata else {}
    return {"general.basename": model.name, **scalars, **served}


def _capabilities(metadata: Mapping[str, Any], template: str) -> list[str]:
    found = ["completion"]
    if template:
        found.append("tools")  # Templates that know none are told of them in the system prompt.
    if any(key.startswith("tokenizer.ggml.fim_mid") for key in metadata):
        found.append("insert")
    if tells_of_thinking(template):
        found.append("thinking")
    return found


ROUTES: Routes = (
    ("/", ("GET", "HEAD"), root),
    ("/api/version", ("GET",), version),
    ("/api/tags", ("GET",), tags),
    ("/api/ps", ("GET",), running),
    ("/api/show", ("POST",), show),
    ("/api/chat", ("POST",), chat),
    ("/api/generate", ("POST",), generate),
    ("/api/pull", ("POST",), pull),
)
