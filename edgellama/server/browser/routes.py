"""The endpoints of the page: conversations, replies, models with their memory.

``chat`` and ``models`` compute the answers, ``stores.page_conversations`` keeps conversations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.streaming import AnswerStream
from edgellama.server.answers.turns import in_turn
from edgellama.server.browser import files
from edgellama.server.browser.chat import PING_S, ChatFields, ReplyWriter, new_turn
from edgellama.server.browser.imported import clean_title, keep_import, read_import
from edgellama.server.browser.models import described_models, machine, read_speed
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError
from edgellama.server.fields.fields import convert, take_fields
from edgellama.server.fields.thinking import thinking_wish
from edgellama.server.stores import page_conversations as conversations


class ChangeFields(msgspec.Struct, forbid_unknown_fields=True):
    """What may change of a conversation."""

    title: str | None = None
    leaf: str | None = None


class MeasureFields(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is measured."""

    model: str


async def list_conversations(request: Request) -> Response:
    """List the conversations that hold the words of ``search``, or all."""
    search = request.query_params.get("search", "")
    found = await state_of(request).conversations.ask(partial(conversations.listed, search=search))
    return json_response({"conversations": found})


async def retrieve(request: Request) -> Response:
    """A conversation with all messages, and what is being written now."""
    return json_response(await _found_conversation(request, request.path_params["name"]))


async def change(request: Request) -> Response:
    """Another title, or another leaf."""
    fields = convert(await read_request(request), ChangeFields)
    title = None if fields.title is None else clean_title(fields.title)
    name = request.path_params["name"]
    changing = partial(conversations.change, name=name, title=title, leaf=fields.leaf)
    if not await state_of(request).conversations.ask(changing):
        raise _unknown()
    return json_response({"id": name})


async def import_conversation(request: Request) -> Response:
    """Keep a conversation of a file that was exported."""
    found = read_import(await read_request(request))
    name = await state_of(request).conversations.ask(partial(keep_import, found=found))
    return json_response({"id": name})


async def delete(request: Request) -> Response:
    """Forget a conversation."""
    name = request.path_params["name"]
    if not await state_of(request).conversations.ask(partial(conversations.remove, name=name)):
        raise _unknown()
    return json_response({"id": name, "deleted": True})


async def chat(request: Request) -> Response:
    """A reply, as a stream."""
    state = state_of(request)
    body = await read_request(request)
    fields, options = take_fields(body, ChatFields)
    options |= thinking_wish(body).options
    model = state.catalogue.find(fields.model)
    fields.model = model.name
    kept = None
    if fields.conversation is not None:
        kept = await _found_conversation(request, fields.conversation)
    turn = new_turn(fields, options, kept)
    draft = state.drafts.get(turn.reply.id)
    if turn.goes_on and draft is not None and draft.is_open:
        raise RequestError(409, "this reply is being written", code="conflict")
    answer = state.answer(turn.wish(model, options, state.settings.limits))

    context_length = partial(state.shelf.context_length, model)
    writer = ReplyWriter(turn, state.conversations, state.drafts, context_length)
    return AnswerStream(answer, writer, PING_S, writer.keep)


async def models(request: Request) -> Response:
    """Models that can be picked, with the memory that each takes."""
    return json_response(await described_models(state_of(request)))


async def show_machine(request: Request) -> Response:
    """What the machine has, and what is made of it now."""
    return json_response(await machine(state_of(request)))


async def measure(request: Request) -> Response:
    """How fast a loaded model's weights are read."""
    fields = convert(await read_request(request), MeasureFields)
    worked = await in_turn(state_of(request), request, fields.model, read_speed)
    return json_response({"bytes_per_second": worked.result})


async def _found_conversation(request: Request, name: str) -> dict[str, Any]:
    state = state_of(request)
    before = dict(state.drafts)
    found = await state.conversations.ask(partial(conversations.whole, name=name))
    if found is None:
        raise _unknown()
    # A reply that has ended meanwhile may have been read before its end, so its draft of then
    # counts.
    drafts = {**before, **state.drafts}
    found["messages"] = [
        drafts[each["id"]].message().as_json() if each["id"] in drafts else each
        for each in found["messages"]
    ]
    return found


def _unknown() -> RequestError:
    return RequestError(404, "there is no such conversation or message", code="not_found")


ROUTES: Routes = (
    *files.ROUTES,
    ("/page/conversations", ("GET",), list_conversations),
    ("/page/conversations", ("POST",), import_conversation),
    ("/page/conversations/{name}", ("GET",), retrieve),
    ("/page/conversations/{name}", ("POST",), change),
    ("/page/conversations/{name}", ("DELETE",), delete),
    ("/page/chat", ("POST",), chat),
    ("/page/models", ("GET",), models),
    ("/page/machine", ("GET",), show_machine),
    ("/page/read-speed", ("POST",), measure),
)
