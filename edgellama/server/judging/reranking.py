"""Ranks documents by a query, in the protocol of Jina, Cohere and llama.cpp's server.

``generation.judging.reranking`` computes the ranks, ``turns`` gives them a turn among texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.leaving import Leaving
from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.turns import in_turn
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError
from edgellama.server.fields.fields import take_own_fields

if TYPE_CHECKING:
    from edgellama.generation.judging.reranking import Ranked
    from edgellama.llama import Llama

MAX_DOCUMENTS = 2048


class _Text(msgspec.Struct):
    """A document as an object."""

    text: str


class RerankFields(msgspec.Struct):
    """``/v1/rerank``; the last four are options of ``Llama.rerank``."""

    query: str
    documents: list[str | _Text]
    model: str = ""
    top_n: int | None = None
    return_documents: bool = False
    prompt: str | None = None
    answers: list[str] | None = None
    chat: bool | None = None
    truncate: bool = False


async def rerank(request: Request) -> Response:
    """Numbers of the documents and their scores from 0 to 1, the best first."""
    state = state_of(request)
    fields = take_own_fields(await read_request(request), RerankFields)
    if not 1 <= len(fields.documents) <= MAX_DOCUMENTS:
        raise RequestError(
            400,
            f"{len(fields.documents)} documents; allowed: 1 to {MAX_DOCUMENTS}",
            param="documents",
        )
    texts = [each if isinstance(each, str) else each.text for each in fields.documents]
    options: dict[str, Any] = {} if fields.answers is None else {"answers": tuple(fields.answers)}

    def work(llama: Llama, leaving: Leaving) -> tuple[Ranked, ...]:
        return llama.rerank(
            fields.query,
            texts,
            progress=lambda done, total: leaving.check(),
            prompt=fields.prompt,
            chat=fields.chat,
            truncate=fields.truncate,
            **options,
        )

    name = state.catalogue.find(fields.model).name
    if fields.top_n is not None and fields.top_n < 1:
        raise RequestError(400, f"top_n is {fields.top_n}; allowed: from 1", param="top_n")
    ranked = (await in_turn(state, request, fields.model, work)).result
    num_tokens = sum(each.num_tokens for each in ranked)
    return json_response(
        {
            "object": "list",
            "model": name,
            "results": [_result(each, fields.return_documents) for each in ranked[: fields.top_n]],
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
    )


def _result(ranked: Ranked, with_document: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
    return result | ({"document": {"text": ranked.document}} if with_document else {})


ROUTES: Routes = (
    ("/v1/rerank", ("POST",), rerank),
    ("/rerank", ("POST",), rerank),
    ("/v1/reranking", ("POST",), rerank),
    ("/reranking", ("POST",), rerank),
)
