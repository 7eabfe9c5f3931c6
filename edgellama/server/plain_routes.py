"""Endpoints of no protocol: health and metrics.

``metrics`` and ``state`` do the counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.quant.free_memory import available_memory_bytes
from edgellama.server.answers.routing import Routes, state_of
from edgellama.server.connections.wire import json_response

if TYPE_CHECKING:
    from edgellama.server.answers.state import ServerState

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def health(request: Request) -> Response:
    """Whether the server can answer; where keys are needed, strangers hear no names of models."""
    state = state_of(request)
    if state.is_ending:
        return json_response({"status": "ending"}, 503)
    loaded = {} if state.settings.api_keys else {"loaded": sorted(state.shelf.loaded)}
    return json_response({"status": "ok", **_queue(state), **loaded})


async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    state = state_of(request)
    gauges = {
        "texts_running": state.queue.num_running,
        "texts_waiting": state.queue.num_waiting,
        "models_loaded": len(state.shelf.in_memory),
        "prompt_cache_bytes": _cached_bytes(state),
        "graphics_card_bytes": _card_bytes(state),
    }
    return Response(state.metrics.as_text(gauges), media_type=METRICS_TYPE)


async def stats(request: Request) -> Response:
    """What a page about the server shows."""
    state = state_of(request)
    models = [entry.described() for entry in state.shelf.in_memory]
    return json_response(
        {
            **_queue(state),
            "parallel": state.queue.width,
            "max_waiting": state.queue.max_waiting,
            "models": models,
            "totals": dict(state.metrics.counts),
            "available_bytes": available_memory_bytes(),
            "peak_bytes": peak_memory_bytes(),
        }
    )


def _queue(state: ServerState) -> dict[str, int]:
    return {"running": state.queue.num_running, "waiting": state.queue.num_waiting}


def _cached_bytes(state: ServerState) -> int:
    return sum(entry.llama.cached_bytes for entry in state.shelf.in_memory)


def _card_bytes(state: ServerState) -> int:
    """What all models together take of graphics cards."""
    uses = [entry.llama.card_use for entry in state.shelf.in_memory]
    return sum(use.used_bytes for use in uses if use is not None)


ROUTES: Routes = (
    ("/health", ("GET",), health),
    ("/v1/health", ("GET",), health),
    ("/metrics", ("GET",), metrics),
    ("/stats", ("GET",), stats),
)
