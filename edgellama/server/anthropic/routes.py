"""The endpoints of Anthropic's protocol.

``messages`` reads requests and writes answers.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from edgellama.server.answers.routing import Routes, read_for_model, state_of
from edgellama.server.answers.streaming import respond
from edgellama.server.answers.text_openers import chat_request
from edgellama.server.answers.turns import in_thread, leased, leaving_of
from edgellama.server.anthropic.messages import (
    WITHOUT_INFLUENCE,
    CountFields,
    MessagesRequest,
    MessageStream,
    asked_thinking,
    message,
    messages_of,
    prompt_options,
)
from edgellama.server.connections.wire import json_response
from edgellama.server.fields.fields import take_own_fields


async def messages(request: Request) -> Response:
    """A message in reply to others."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    asked = MessagesRequest(body, state.settings.limits, preset)
    name = state.catalogue.find(asked.fields.model).name
    answer = state.answer(asked.wish())
    return await respond(
        request,
        answer,
        lambda: MessageStream(name, asked),
        lambda results: message(name, asked, results[0]),
    )


async def count_tokens(request: Request) -> Response:
    """How many tokens a prompt has."""
    state = state_of(request)
    body, preset = await read_for_model(request)
    fields = take_own_fields(body, CountFields, ignored=WITHOUT_INFLUENCE)
    said = messages_of(fields, preset)
    options = {**prompt_options(fields), **asked_thinking(fields).options}
    with leaving_of(state, request) as leaving:
        async with leased(state, leaving, fields.model) as llama:
            work = partial(chat_request, llama, said, options, preset.template)
            wanted = await in_thread(llama, leaving, work)
    return json_response({"input_tokens": len(wanted.prompt)})


ROUTES: Routes = (
    ("/v1/messages", ("POST",), messages),
    ("/v1/messages/count_tokens", ("POST",), count_tokens),
)
