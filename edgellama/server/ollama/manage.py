"""Models that clients make from others, copy and delete, in Ollama's protocol.

A server only does this if it was started with permission, because what is deleted is gone. Names
are looked up or checked, and never used as paths.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.generation.text_request import text_request
from edgellama.models import library, made
from edgellama.models.made import Preset
from edgellama.models.names import can_pull
from edgellama.quant.error_text import shown
from edgellama.quant.errors import DownloadError
from edgellama.quant.recipes import find_recipe
from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.state import ServerState
from edgellama.server.errors import RequestError, refused
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.fields import take_own_fields
from edgellama.server.fields.ollama_fields import text_options
from edgellama.server.models.catalogue import LATEST, ServedModel
from edgellama.server.models.jobs import Job
from edgellama.server.ollama.jobs import follow
from edgellama.text.named_templates import NAMED_TEMPLATES, find_template
from edgellama.text.template_sandbox import CompiledTemplate

GO_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.|\$|if\s|range\s|end\b|else\b|template\s|block\s|with\s)")
"""What Ollama's own templates have, and Jinja has not."""


class CreateFields(msgspec.Struct, rename={"base": "from", "quantization": "quantize"}):
    """``/api/create``."""

    model: str = ""
    name: str = ""
    base: str = ""
    system: str = ""
    template: str = ""
    license: str | list[str] = ""
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    quantization: str = ""
    stream: bool = True


class CopyFields(msgspec.Struct):
    """``/api/copy``."""

    source: str
    destination: str


class DeleteFields(msgspec.Struct):
    """``/api/delete``."""

    model: str = ""
    name: str = ""


async def create(request: Request) -> Response:
    """A model made of another: with words and options of its own, perhaps in another type."""
    state = _managed(request)
    body = await read_request(request)
    for name, advice in _NOT_MADE.items():
        if body.get(name):
            raise refused(name, f"{name} is not supported here; {advice}")
    fields = take_own_fields(body, CreateFields, ignored=())
    name = _new_name(state, fields.model or fields.name)
    if not fields.base:
        raise refused("from", "from is missing; allowed: the name of a model")
    base = state.catalogue.find(fields.base)
    preset = _preset(fields, base)
    type_name = find_recipe(fields.quantization).name if fields.quantization else None

    def work(job: Job) -> None:
        def note(done: int, total: int) -> None:
            if job.is_cancelled:
                raise DownloadError(f"the making of {name} was cancelled")
            job.note(done, total)

        made.make(name, base.path, preset, type_name=type_name, progress=note)

    key = f"creating {name}"
    if key in state.jobs.running:
        raise RequestError(409, f"{name} is being made; try again when it is there", param="model")
    steps = ["reading model metadata", *(["creating system layer"] if preset.system else [])]
    job = state.jobs.start(key, work)
    # A model that is loaded by this name is the one that was made before.
    job.task.add_done_callback(lambda _: state.shelf.outdate(name))
    return await follow(request, job, fields.stream, steps, ["writing manifest"])


async def copy(request: Request) -> Response:
    """The same model by another name."""
    state = _managed(request)
    fields = take_own_fields(await read_request(request), CopyFields, ignored=())
    model = state.catalogue.find(fields.source)
    name = _new_name(state, fields.destination)
    preset = model.preset if model.preset.base else Preset(base=model.name)
    await asyncio.to_thread(made.make, name, model.path, preset)
    return Response()


async def delete(request: Request) -> Response:
    """Remove a model of the cache."""
    state = _managed(request)
    fields = take_own_fields(await read_request(request), DeleteFields, ignored=())
    name = fields.model or fields.name
    if not name:
        raise refused("model", "model is missing; allowed: a name")
    model = state.catalogue.find(name)
    if name.removesuffix(LATEST) in state.settings.aliases:
        raise refused("model", f"{shown(name)} is another name of {model.name}; delete that")
    stored = next((each for each in library.stored_models() if each.path == model.path), None)
    if stored is None or model.name in state.settings.models:
        raise RequestError(
            403,
            f"{model.name} was given to the server and is no model of the cache's; it stays",
            param="model",
        )
    entry = state.shelf.loaded.get(model.name)
    if entry is not None and entry.num_uses:
        raise RequestError(409, f"{model.name} is in use; stop its texts first", param="model")
    await state.shelf.unload(model.name)
    await asyncio.to_thread(library.remove, stored)
    return Response()


async def push(request: Request) -> Response:
    """Refused: models go nowhere from here."""
    raise RequestError(
        501, "edgellama pushes no models; upload the file to a hub with that hub's own tool"
    )


async def blob(request: Request) -> Response:
    """No file is here, and none is taken."""
    if request.method == "HEAD":
        return Response(status_code=404)
    raise RequestError(
        501, "files are not uploaded here; start the server with the file: edgellama serve FILE"
    )


_NOT_MADE = {
    "modelfile": "send its parts: from, system, template, parameters, messages, license",
    "files": "convert them (edgellama convert), and name the result",
    "adapters": "merge them (edgellama convert --lora), and name the result",
    "path": "send its parts: from, system, template, parameters, messages, license",
}


def _managed(request: Request) -> ServerState:
    """The state, if models may be made and deleted; RequestError (403) else."""
    state = state_of(request)
    state.check_running()
    if not state.settings.allow_manage:
        raise RequestError(
            403,
            "this server makes, copies and deletes no models; it does when it is started with "
            "--allow-manage",
            code="not_allowed",
        )
    return state


def _new_name(state: ServerState, text: str) -> str:
    """A name for a model, whose owner is nobody or was made, too; RequestError for others."""
    name = made.check_name(text.removesuffix(LATEST))
    known = state.catalogue.models().get(name)
    if can_pull(name) or name in state.settings.aliases or (known and not known.preset.base):
        raise RequestError(
            409, f"{name} is the name of another model already; allowed: a new name", param="model"
        )
    return name


def _preset(fields: CreateFields, base: ServedModel) -> Preset:
    """What the new model's chats begin with: what is said, else what the other's do."""
    text_request((0,), text_options(fields.parameters))
    if fields.messages:
        ordered_messages(fields.messages)
    _check_template(fields.template)
    before = base.preset
    license = fields.license
    return Preset(
        base=before.base or base.name,
        system=fields.system or before.system,
        template=fields.template or before.template,
        license=(license if isinstance(license, str) else "\n".join(license)) or before.license,
        parameters={**before.parameters, **fields.parameters},
        messages=tuple(fields.messages) or before.messages,
    )


def _check_template(text: str) -> None:
    """Refuse what no chat could be shown by."""
    if GO_TEMPLATE.search(text):
        raise refused(
            "template",
            "template is one of Ollama's; allowed: Jinja, as in tokenizer.chat_template, or the "
            "name of a chat format",
        )
    if "{" in text:
        CompiledTemplate(text)
    elif text and find_template(text) is None:
        allowed = ", ".join(NAMED_TEMPLATES)
        raise refused("template", f"template is {shown(text)}; allowed: Jinja, or {allowed}")


ROUTES: Routes = (
    ("/api/create", ("POST",), create),
    ("/api/copy", ("POST",), copy),
    ("/api/delete", ("DELETE",), delete),
    ("/api/push", ("POST",), push),
    ("/api/blobs/{digest}", ("HEAD", "POST"), blob),
)
