"""Texts as tokens and back, as llama.cpp's server does it.

A giant text takes seconds. A thread finds its tokens and writes its answer, one text at a time, so
that other clients' streams go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.turns import in_thread, leased, leaving_of
from edgellama.server.connections.wire import encode_json, json_bytes_response
from edgellama.server.errors import RequestError
from edgellama.server.fields.fields import take_own_fields

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

TOKENS_AT_ONCE = 1 << 14
"""How many are written by one call of a library, which holds Python's lock meanwhile."""


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


async def tokenize(request: Request) -> Response:
    """The tokens of a text."""
    fields = take_own_fields(await read_request(request), TokenizeFields)

    def work(tokenizer: Tokenizer) -> bytes:
        tokens = tokenizer.encode(
            fields.content,
            add_bos=fields.add_special and tokenizer.special.add_bos,
            parse_special=fields.parse_special,
        )
        return b'{"tokens":' + _array(tokens, tokenizer, fields.with_pieces) + b"}"

    return await _answered(request, fields.model, work)


async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    fields = take_own_fields(await read_request(request), DetokenizeFields)

    def work(tokenizer: Tokenizer) -> bytes:
        size = tokenizer.vocab_size
        wrong = next((token for token in fields.tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise RequestError(400, f"token {wrong}; allowed: 0 to {size - 1}", param="tokens")
        return encode_json({"content": tokenizer.decode(fields.tokens)})

    return await _answered(request, fields.model, work)


async def _answered(request: Request, model: str, work: Callable[[Tokenizer], bytes]) -> Response:
    state = state_of(request)
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, model) as llama, state.token_work:
            state.check_running()
            answer = await in_thread(llama, leaving, partial(work, llama.tokenizer))
    return json_bytes_response(answer)


def _array(tokens: Sequence[int], tokenizer: Tokenizer, with_pieces: bool) -> bytes:
    """The tokens as a JSON array, each with its text if wanted."""
    parts: list[bytes] = []
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        some = tokens[start : start + TOKENS_AT_ONCE]
        told = [_with_piece(token, tokenizer) for token in some] if with_pieces else some
        parts.append(encode_json(told)[1:-1])
    return b"[" + b",".join(parts) + b"]"


def _with_piece(token: int, tokenizer: Tokenizer) -> dict[str, object]:
    """A token and its text; its bytes as numbers where they are no text alone."""
    piece = tokenizer.token_bytes(token, skip_special=False)
    try:
        return {"id": token, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(piece)}


ROUTES: Routes = (
    ("/tokenize", ("POST",), tokenize),
    ("/detokenize", ("POST",), detokenize),
)
