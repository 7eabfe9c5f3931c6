"""The endpoints of OpenAI's responses, which later requests may continue.

``responses`` reads requests and writes responses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.quant.error_text import shown
from edgellama.server.answers.routing import Routes, read_for_model, state_of
from edgellama.server.answers.streaming import respond
from edgellama.server.answers.turns import in_thread, leased, leaving_of
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError, refused
from edgellama.server.openai.response_items import items_of, page_of
from edgellama.server.openai.response_stream import ResponseStream
from edgellama.server.openai.responses import ResponseObject, ResponseRequest

if TYPE_CHECKING:
    from edgellama.generation.results import Generation


async def create(request: Request) -> Response:
    """A response, kept unless that is not wanted."""
    state = state_of(request)
    asked = await _response_request(request)
    name = state.catalogue.find(asked.fields.model).name
    response = ResponseObject(name, asked)
    if asked.fields.store:
        await state.responses.check()
    answer = state.answer(asked.wish())

    async def keep(result: Generation) -> None:
        said = asked.messages_after(result)
        await state.responses.save(response.ended(result), said)

    return await respond(
        request,
        answer,
        lambda: ResponseStream(response),
        lambda results: response.ended(results[0]),
        keep if asked.fields.store else None,
    )


async def _response_request(request: Request) -> ResponseRequest:
    """What a request asks for, with what was said before it."""
    body, preset = await read_for_model(request)
    asked = ResponseRequest(body, state_of(request).settings.limits, preset)
    previous = asked.fields.previous_response_id
    if previous is not None:
        asked.said = await _said_before(request, previous)
    return asked


async def count_input(request: Request) -> Response:
    """How many tokens the prompt of a response has."""
    state = state_of(request)
    asked = await _response_request(request)
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, asked.fields.model) as llama:
            wanted = await in_thread(llama, leaving, partial(asked.prompt_of, llama))
    return json_response({"object": "response.input_tokens", "input_tokens": len(wanted)})


async def retrieve(request: Request) -> Response:
    """A response that was kept."""
    response, _ = await _found_response(request, request.path_params["name"])
    return json_response(response)


async def input_items(request: Request) -> Response:
    """What a kept response was made from."""
    name = request.path_params["name"]
    _, (*before, _) = await _found_response(request, name)
    return json_response(page_of(items_of(name, before), request.query_params))


async def cancel(request: Request) -> Response:
    """Refused: a response is made while its client waits, and ends when that leaves."""
    await _found_response(request, request.path_params["name"])
    raise refused(None, "the response has ended; only those in the background can be cancelled")


async def delete(request: Request) -> Response:
    """Forget a response."""
    name = request.path_params["name"]
    if not await state_of(request).responses.remove(name):
        raise _unknown(name)
    return json_response({"id": name, "object": "response.deleted", "deleted": True})


async def _found_response(
    request: Request, name: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = await state_of(request).responses.find(name)
    if found is None:
        raise _unknown(name)
    return found


async def _said_before(request: Request, name: str) -> list[dict[str, Any]]:
    """What was said up to the end of a response; OpenAI's own error where there is none."""
    found = await state_of(request).responses.find(name)
    if found is None:
        raise RequestError(
            400,
            f"there is no response {shown(name)}; allowed: one that was stored",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return found[1]


def _unknown(name: str) -> RequestError:
    return RequestError(404, f"there is no response {shown(name)}", code="response_not_found")


ROUTES: Routes = (
    ("/v1/responses", ("POST",), create),
    ("/v1/responses/input_tokens", ("POST",), count_input),
    ("/v1/responses/{name}", ("GET",), retrieve),
    ("/v1/responses/{name}", ("DELETE",), delete),
    ("/v1/responses/{name}/input_items", ("GET",), input_items),
    ("/v1/responses/{name}/cancel", ("POST",), cancel),
)
