"""LM Studio's own protocol beside OpenAI's: what each model is, under ``/api/v0`` and ``/api/v1``.

Editors and agents (Zed, Cline) look there for models and their contexts. Texts go the way of
OpenAI's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes, state_of
from edgellama.server.connections.wire import json_response
from edgellama.server.judging.embeddings import openai_embeddings
from edgellama.server.ollama.routes import parameter_count
from edgellama.server.openai.routes import chat_completions, completions

if TYPE_CHECKING:
    from edgellama.server.answers.state import ServerState
    from edgellama.server.models.catalogue import ServedModel


async def models(request: Request) -> Response:
    """All models, and whether they are loaded."""
    state = state_of(request)
    usable = await asyncio.to_thread(state.catalogue.usable)
    entries = [_entry(state, model) for model in usable]
    return json_response({"object": "list", "data": entries})


async def model(request: Request) -> Response:
    """One model."""
    state = state_of(request)
    return json_response(_entry(state, state.catalogue.find(request.path_params["name"])))


def _entry(state: ServerState, model: ServedModel) -> dict[str, Any]:
    facts = model.facts
    loaded = state.shelf.loaded.get(model.name)
    entry = {
        "id": model.name,
        "object": "model",
        "type": "llm",
        "publisher": "edgellama",
        "arch": facts.architecture or "llama",
        "compatibility_type": "gguf",
        "quantization": (facts.type or "unknown").upper(),
        "state": "not-loaded" if loaded is None else "loaded",
        "max_context_length": facts.context_length or 0,
        "capabilities": ["tool_use"],
    }
    if loaded is not None:
        entry["loaded_context_length"] = loaded.llama.context_length
    return entry


async def models_with_instances(request: Request) -> Response:
    """All models, and the contexts that they are loaded with, as version 1 tells it."""
    state = state_of(request)
    usable = await asyncio.to_thread(state.catalogue.usable)
    entries = [_described(state, model) for model in usable]
    return json_response({"models": entries})


def _described(state: ServerState, model: ServedModel) -> dict[str, Any]:
    facts = model.facts
    loaded = state.shelf.loaded.get(model.name)
    config = {} if loaded is None else {"context_length": loaded.llama.context_length}
    bits = 8 * model.num_bytes / facts.num_parameters if facts.num_parameters else None
    return {
        "type": "llm",
        "publisher": "edgellama",
        "key": model.name,
        "display_name": model.name,
        "architecture": facts.architecture or "llama",
        "quantization": {
            "name": (facts.type or "unknown").upper(),
            "bits_per_weight": None if bits is None else round(bits, 2),
        },
        "size_bytes": model.num_bytes,
        "params_string": parameter_count(facts.num_parameters),
        "loaded_instances": [{"id": model.name, "config": config}] if config else [],
        "max_context_length": facts.context_length or 0,
        "format": "gguf",
        "capabilities": {"vision": False, "trained_for_tool_use": True},
        "description": None,
    }


ROUTES: Routes = (
    ("/api/v0/models", ("GET",), models),
    ("/api/v0/models/{name:path}", ("GET",), model),
    ("/api/v1/models", ("GET",), models_with_instances),
    ("/api/v0/chat/completions", ("POST",), chat_completions),
    ("/api/v0/completions", ("POST",), completions),
    ("/api/v0/embeddings", ("POST",), openai_embeddings),
)
