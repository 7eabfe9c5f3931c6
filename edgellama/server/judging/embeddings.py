"""Embeddings in OpenAI's and in Ollama's protocol.

``generation.judging.embedding`` computes the vectors, ``turns`` gives them a turn among texts.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from edgellama.generation.judging.embedding import Embedding
from edgellama.server.answers.leaving import Leaving
from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.turns import TimedResult, in_turn
from edgellama.server.connections.wire import encode_json, json_response
from edgellama.server.errors import refused
from edgellama.server.fields.durations import keep_alive_seconds
from edgellama.server.fields.fields import take_own_fields
from edgellama.server.fields.ollama_fields import text_options
from edgellama.server.ollama.texts import nanoseconds

if TYPE_CHECKING:
    from edgellama.llama import Llama

MAX_TEXTS = 2048
Written: TypeAlias = "str | msgspec.Raw"
"""A vector in an answer: base64, or numbers that are JSON already."""


class OpenAIFields(msgspec.Struct):
    """``/v1/embeddings``."""

    input: str | list[Any]
    model: str = ""
    encoding_format: str = "float"
    dimensions: int | None = None


class OllamaFields(msgspec.Struct):
    """``/api/embed``, and ``/api/embeddings`` with ``prompt``."""

    input: str | list[str] = []
    prompt: str = ""
    model: str = ""
    name: str = ""
    truncate: bool = True
    dimensions: int | None = None
    options: dict[str, Any] = {}
    keep_alive: float | str | None = None


async def openai_embeddings(request: Request) -> Response:
    """A vector for each text, as numbers or as base64 of little-endian float32."""
    state = state_of(request)
    fields = take_own_fields(await read_request(request), OpenAIFields)
    if fields.encoding_format not in ("float", "base64"):
        raise refused(
            "encoding_format",
            f"encoding_format is {fields.encoding_format[:80]!a}; allowed: float, base64",
        )
    texts = _texts(fields.input)
    name = state.catalogue.find(fields.model).name
    worked = await _embed(request, fields.model, texts, fields.dimensions)
    as_text = fields.encoding_format == "base64"
    num_tokens = sum(found.num_tokens for found in worked.result)
    vectors = await _all_written(worked.result, as_text)
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json_response({"object": "list", "data": data, "model": name, "usage": usage})


async def vectors_of(request: Request, model: str, texts: str | list[str]) -> list[Written]:
    """The vectors of texts, each of the length one, as JSON."""
    worked = await _embed(request, model, _texts(texts), None)
    return await _all_written(worked.result)


async def ollama_embed(request: Request) -> Response:
    """A vector for each text."""
    fields = _ollama_fields(await read_request(request))
    texts = _or_none(fields.input) if isinstance(fields.input, str) else fields.input
    worked = await _embed_for_ollama(request, fields, texts, normalize=True)
    return json_response(
        {
            "model": fields.model or fields.name,
            "embeddings": await _all_written(worked.result),
            "total_duration": nanoseconds(worked.total_s),
            "load_duration": nanoseconds(worked.load_s),
            "prompt_eval_count": sum(found.num_tokens for found in worked.result),
        }
    )


async def ollama_embeddings(request: Request) -> Response:
    """The vector of one text, in Ollama's older way: its length is not one."""
    fields = _ollama_fields(await read_request(request))
    worked = await _embed_for_ollama(request, fields, _or_none(fields.prompt), normalize=False)
    vectors = await _all_written(worked.result)
    return json_response({"embedding": vectors[0] if vectors else []})


def _or_none(text: str) -> list[str]:
    """A text, or none if it is empty: then the model is to be loaded."""
    return [text] if text else []


def _ollama_fields(body: dict[str, Any]) -> OllamaFields:
    fields = take_own_fields(body, OllamaFields, ignored=())
    text_options(fields.options)  # They choose no vector, but a slip among them is told.
    return fields


async def _embed_for_ollama(
    request: Request, fields: OllamaFields, texts: Sequence[str], *, normalize: bool
) -> TimedResult[list[Embedding]]:
    keep_alive_s = keep_alive_seconds(fields.keep_alive)
    return await _embed(
        request,
        fields.model or fields.name,
        texts,
        fields.dimensions,
        keep_alive_s,
        truncate=fields.truncate,
        normalize=normalize,
    )


async def _embed(
    request: Request,
    model: str,
    texts: Sequence[str],
    dimensions: int | None,
    keep_alive_s: float | None = None,
    *,
    truncate: bool = False,
    normalize: bool = True,
) -> TimedResult[list[Embedding]]:
    if len(texts) > MAX_TEXTS:
        raise refused("input", f"{len(texts)} texts; allowed: up to {MAX_TEXTS}")

    def work(llama: Llama, leaving: Leaving) -> list[Embedding]:
        width = llama.config.embedding_length
        if dimensions not in (None, width):
            raise refused("dimensions", f"dimensions is {dimensions}; allowed: {width}")
        found = []
        for embedding in llama.embed_each(texts, truncate=truncate, normalize=normalize):
            leaving.check()
            found.append(embedding)
        return found

    return await in_turn(state_of(request), request, model, work, keep_alive_s)


def _texts(given: str | Sequence[Any]) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if texts and all(isinstance(text, str) and text for text in texts):
        return texts
    has_ids = any(isinstance(item, (int, list)) for item in texts)
    advice = (
        "; token ids of another model's vocabulary would give wrong vectors (LangChain: "
        "check_embedding_ctx_length=False)"
    )
    raise refused(
        "input",
        f"input is {'token ids' if has_ids else 'empty, or has an empty text'}; allowed: a text "
        f"or texts{advice if has_ids else ''}",
    )


async def _all_written(found: Sequence[Embedding], as_text: bool = False) -> list[Written]:
    """Vectors as answers have them; written in a thread, since many take longer than a moment."""
    return await asyncio.to_thread(lambda: [_written(each, as_text) for each in found])


def _written(embedding: Embedding, as_text: bool) -> Written:
    vector = embedding.vector
    if as_text:
        return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
    return msgspec.Raw(encode_json(vector.tolist()))


ROUTES: Routes = (
    ("/v1/embeddings", ("POST",), openai_embeddings),
    ("/embeddings", ("POST",), openai_embeddings),
    ("/api/embed", ("POST",), ollama_embed),
    ("/api/embeddings", ("POST",), ollama_embeddings),
)
