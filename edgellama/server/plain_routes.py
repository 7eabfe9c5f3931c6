"""Endpoints of no protocol: tokens, health and figures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.kernels_cpu.machine.memory_use import available_memory_bytes, peak_memory_bytes
from edgellama.server.errors import RequestError
from edgellama.server.fields import take_own_fields
from edgellama.server.routing import Routes, read_request, state_of
from edgellama.server.wire import json_response

if TYPE_CHECKING:
    from edgellama.server.state import ServerState

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class TokenizeFields(msgspec.Struct):
    """``/tokenize``."""

    content: str
    model: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeFields(msgspec.Struct):
    """``/detokenize``."""

    tokens: list[int]
    model: str = ""


async def health(request: Request) -> Response:
    """Whether the server can answer."""
    state = state_of(request)
    if state.is_ending:
        return json_response({"status": "ending"}, 503)
    return json_response({"status": "ok", **_queue(state), "loaded": sorted(state.shelf.loaded)})


async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    state = state_of(request)
    gauges = {
        "texts_running": state.queue.num_running,
        "texts_waiting": state.queue.num_waiting,
        "models_loaded": len(state.shelf.loaded),
        "prompt_cache_bytes": _cached_bytes(state),
        "graphics_card_bytes": _card_bytes(state),
    }
    return Response(state.metrics.as_text(gauges), media_type=METRICS_TYPE)


async def stats(request: Request) -> Response:
    """What a page about the server shows."""
    state = state_of(request)
    models = [entry.described() for entry in state.shelf.loaded.values()]
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


async def tokenize(request: Request) -> Response:
    """The tokens of a text."""
    state = state_of(request)
    fields = take_own_fields(await read_request(request), TokenizeFields)
    async with state.shelf.lease(fields.model) as llama:
        tokenizer = llama.tokenizer
        tokens = await asyncio.to_thread(
            tokenizer.encode,
            fields.content,
            add_bos=fields.add_special and tokenizer.special.add_bos,
            parse_special=fields.parse_special,
        )
        if not fields.with_pieces:
            return json_response({"tokens": tokens})
        pieces = [{"id": token, "piece": tokenizer.token_text(token)} for token in tokens]
        return json_response({"tokens": pieces})


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    state = state_of(request)
    fields = take_own_fields(await read_request(request), DetokenizeFields)
    async with state.shelf.lease(fields.model) as llama:
        size = llama.tokenizer.vocab_size
        wrong = [token for token in fields.tokens if not 0 <= token < size]
        if wrong:
            raise RequestError(400, f"token {wrong[0]}; allowed: 0 to {size - 1}", param="tokens")
        return json_response(
            {"content": await asyncio.to_thread(llama.tokenizer.decode, fields.tokens)}
        )


def _queue(state: ServerState) -> dict[str, int]:
    return {"running": state.queue.num_running, "waiting": state.queue.num_waiting}


def _cached_bytes(state: ServerState) -> int:
    return sum(entry.llama.cached_bytes for entry in state.shelf.loaded.values())


def _card_bytes(state: ServerState) -> int:
    """What all models together take of graphics cards."""
    uses = [entry.llama.card_use for entry in state.shelf.loaded.values()]
    return sum(use.used_bytes for use in uses if use is not None)


ROUTES: Routes = (
    ("/health", ("GET",), health),
    ("/v1/health", ("GET",), health),
    ("/metrics", ("GET",), metrics),
    ("/stats", ("GET",), stats),
    ("/tokenize", ("POST",), tokenize),
    ("/detokenize", ("POST",), detokenize),
)
