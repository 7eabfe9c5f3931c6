"""The endpoints of OpenAI's protocol, except for responses.

``chat`` and ``completions`` read requests and write answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes, read_for_model, state_of
from edgellama.server.answers.streaming import respond
from edgellama.server.anthropic.models import is_anthropic, model_info, model_page
from edgellama.server.connections.wire import json_response
from edgellama.server.models.catalogue import ServedModel
from edgellama.server.openai.chat import ChatRequest, ChatStream, chat_completion
from edgellama.server.openai.completions import (
    CompletionRequest,
    CompletionStream,
    completion,
)


async def models(request: Request) -> Response:
    """All models that a request may name; for Anthropic's clients in their shape."""
    usable = await asyncio.to_thread(state_of(request).catalogue.usable)
    data = [_info(request, model) for model in usable]
    if is_anthropic(request):
        return json_response(model_page(data))
    return json_response({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """One model."""
    found = state_of(request).catalogue.find(request.path_params["name"])
    return json_response(_info(request, found))


def _info(request: Request, model: ServedModel) -> dict[str, Any]:
    """One model as the client knows models."""
    context_length = state_of(request).shelf.context_length(model)
    told = model_info if is_anthropic(request) else _entry
    return told(model, context_length)


def _entry(model: ServedModel, context_length: int | None) -> dict[str, Any]:
    facts = model.facts
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.modified),
        "owned_by": "edgellama",
        "meta": {
            "title": facts.title,
            "type": facts.type,
            "num_parameters": facts.num_parameters,
            "context_length": context_length,
            "size_bytes": model.num_bytes,
        },
    }


async def chat_completions(request: Request) -> Response:
    """A reply, or several, to messages."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    asked = ChatRequest(body, state.settings.limits, preset)
    name = state.catalogue.find(asked.fields.model).name
    answer = state.answer(asked.wish())
    return await respond(
        request,
        answer,
        lambda: ChatStream(name, asked),
        lambda results: chat_completion(name, asked, results),
    )


async def completions(request: Request) -> Response:
    """What follows prompts."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    asked = CompletionRequest(body, state.settings.limits, preset)
    name = state.catalogue.find(asked.fields.model).name
    answer = state.answer(asked.wish())
    return await respond(
        request,
        answer,
        lambda: CompletionStream(name, asked),
        lambda results: completion(name, asked, results),
    )


ROUTES: Routes = (
    ("/v1/models", ("GET",), models),
    ("/v1/models/{name:path}", ("GET",), model),
    ("/v1/chat/completions", ("POST",), chat_completions),
    ("/v1/completions", ("POST",), completions),
    # llama.cpp answers these paths, too, for clients whose base URL has no /v1.
    ("/models", ("GET",), models),
    ("/chat/completions", ("POST",), chat_completions),
    ("/completions", ("POST",), completions),
)
