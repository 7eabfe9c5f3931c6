"""What llama.cpp's server says about itself: its model, slots and chat template; and its vectors.

Programs that look after such a server ask for it. A slot is one of the texts that are made at once.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.sampling.options import SamplingOptions
from edgellama.server.answers.routing import Routes, read_for_model, read_request, state_of
from edgellama.server.answers.text_openers import chat_request
from edgellama.server.answers.turns import in_thread, leased, leaving_of
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import too_busy
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.fields import take_own_fields
from edgellama.server.fields.presets import preset_messages
from edgellama.server.fields.tool_fields import openai_tools
from edgellama.server.judging.embeddings import vectors_of

if TYPE_CHECKING:
    from edgellama.llama import Llama

NOT_IN_JSON = frozenset({"logit_bias"})
"""An option that has no value of its own."""


class TemplateFields(msgspec.Struct):
    """``/apply-template``."""

    messages: list[dict[str, Any]]
    model: str = ""
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class EmbeddingFields(msgspec.Struct):
    """``/embedding``."""

    content: str | list[str]
    model: str = ""


async def props(request: Request) -> Response:
    """What the server's model is, and how many texts it makes at once."""
    from edgellama import __version__

    state = state_of(request)
    model = state.catalogue.find(request.query_params.get("model"))
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, model.name) as llama:
            context = llama.context_length
            template = llama.metadata.get("tokenizer.chat_template")
            special = llama.tokenizer.special
            texts = [
                "" if token is None else llama.tokenizer.token_text(token)
                for token in (special.bos_id, special.eos_id)
            ]
    usual = {"n_predict": -1, **asdict(SamplingOptions())}
    params = {name: value for name, value in usual.items() if name not in NOT_IN_JSON}
    return json_response(
        {
            "default_generation_settings": {"n_ctx": context, "params": params},
            "total_slots": state.queue.width,
            "model_alias": model.name,
            "model_path": model.name,
            "chat_template": model.preset.template or (template or ""),
            "bos_token": texts[0],
            "eos_token": texts[1],
            "modalities": {"vision": False, "audio": False},
            "build_info": f"edgellama {__version__}",
            "is_sleeping": False,
        }
    )


async def slots(request: Request) -> Response:
    """Which of the texts that can be made at once are being made; 503 for none left, if asked."""
    state = state_of(request)
    num_busy = state.queue.num_running
    if request.query_params.get("fail_on_no_slot") and num_busy >= state.queue.width:
        raise too_busy("no slot is free", "no_slot", 503)
    model = state.catalogue.find(request.query_params.get("model"))
    context = state.shelf.context_length(model) or 0
    return json_response(
        [
            {"id": number, "n_ctx": context, "is_processing": number < num_busy}
            for number in range(state.queue.width)
        ]
    )


async def apply_template(request: Request) -> Response:
    """The prompt that messages become, as text: what ``/completion`` takes to reply to them."""
    body, preset = await read_for_model(request)
    fields = take_own_fields(body, TemplateFields)
    messages = ordered_messages(preset_messages(preset, fields.messages))
    options = openai_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls)
    if fields.chat_template_kwargs:
        options["template_variables"] = fields.chat_template_kwargs

    def write(llama: Llama) -> str:
        tokens = chat_request(llama, messages, options, preset.template).prompt
        return llama.tokenizer.decode(tokens, skip_special=False)

    state = state_of(request)
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, fields.model) as llama:
            prompt = await in_thread(llama, leaving, partial(write, llama))
    return json_response({"prompt": prompt})


async def embedding(request: Request) -> Response:
    """A vector for each text, in llama.cpp's shape."""
    fields = take_own_fields(await read_request(request), EmbeddingFields)
    vectors = await vectors_of(request, fields.model, fields.content)
    return json_response(
        [{"index": index, "embedding": [vector]} for index, vector in enumerate(vectors)]
    )


ROUTES: Routes = (
    ("/props", ("GET",), props),
    ("/slots", ("GET",), slots),
    ("/apply-template", ("POST",), apply_template),
    ("/embedding", ("POST",), embedding),
)
