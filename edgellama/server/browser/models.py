"""What the page shows of models and of the machine: memory before and after loading, the queue.

``catalogue`` knows which models there are, and ``model_shelf`` which are loaded.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from edgellama.kernels_cpu.machine.cpu import cpu_name, default_num_threads, select_tier
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.free_memory import available_memory_bytes

if TYPE_CHECKING:
    from edgellama.llama import Llama
    from edgellama.server.answers.leaving import Leaving
    from edgellama.server.answers.state import ServerState
    from edgellama.server.models.catalogue import ServedModel
    from edgellama.server.models.loaded_model import LoadedModel


async def described_models(state: ServerState) -> dict[str, Any]:
    """All models, each with what loading it would take; the first is the default."""
    loaded = dict(state.shelf.loaded)
    described = await asyncio.to_thread(
        lambda: [_described(state, model, loaded) for model in state.catalogue.usable()]
    )
    return {
        "models": described,
        "available_bytes": available_memory_bytes(),
        "max_tokens": state.settings.limits.max_tokens,
    }


def _described(
    state: ServerState, model: ServedModel, loaded: dict[str, LoadedModel]
) -> dict[str, Any]:
    """A model; ``error`` says why it does not run here."""
    facts, entry = model.facts, loaded.get(model.name)
    told: dict[str, Any] = {
        "name": model.name,
        "type": facts.type,
        "num_parameters": facts.num_parameters,
        "file_bytes": model.num_bytes,
        "context_length": state.shelf.context_length(model),
        "is_loaded": entry is not None,
    }
    try:
        return {**told, "predicted_bytes": state.shelf.predicted_bytes(model)}
    except (EdgellamaError, OSError) as error:
        what = error.what if isinstance(error, EdgellamaError) else "it cannot be read"
        return {**told, "error": what}


def read_speed(llama: Llama, leaving: Leaving) -> float:
    """Bytes a second; work for a turn."""
    leaving.check()
    return llama.read_speed()


async def machine(state: ServerState) -> dict[str, Any]:
    """Processor, memory by model, and the texts that run or wait."""
    return {
        "processor": cpu_name(),
        "tier": select_tier().name,
        "num_threads": state.settings.engine.get("num_threads") or default_num_threads(),
        "available_bytes": available_memory_bytes(),
        "peak_bytes": peak_memory_bytes(),
        "running": state.queue.num_running,
        "waiting": state.queue.num_waiting,
        "parallel": state.queue.width,
        "max_waiting": state.queue.max_waiting,
        "answers": state.described_answers(),
        "models": [_loaded(state, entry) for entry in state.shelf.in_memory],
        "totals": dict(state.metrics.counts),
    }


def _loaded(state: ServerState, entry: LoadedModel) -> dict[str, Any]:
    return {
        **entry.described(),
        "predicted_tokens": state.shelf.predicted_tokens,
        "sessions": [
            {"num_tokens": len(session.tokens), "num_bytes": session.num_bytes}
            for session in entry.llama.sessions
        ],
    }
