"""Downloads that clients ask for, with their progress: the same models as ``edgellama pull`` takes.

If several clients ask for the same model, they follow one download, which ends early when the last
of them has left.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.models import names, pulling
from edgellama.models.well_known import (
    HUB_PREFIX,
    known_names,
    meant_name,
    parse_hub_reference,
)
from edgellama.quant.error_text import did_you_mean, shown
from edgellama.server.answers.routing import read_request, state_of
from edgellama.server.errors import refused
from edgellama.server.fields.fields import take_own_fields
from edgellama.server.models.catalogue import LATEST
from edgellama.server.models.jobs import Job
from edgellama.server.ollama.jobs import follow

OF_CONNECTION = frozenset({"insecure"})
"""Allows not to check the other end's certificate. It is ignored; Open WebUI always sends it."""
HUB_ADDRESSES = ("hf.co/", "huggingface.co/")
LAST_WORDS = ("verifying sha256 digest", "writing manifest")


class PullFields(msgspec.Struct):
    """``/api/pull``."""

    model: str = ""
    name: str = ""
    stream: bool = True


async def pull(request: Request) -> Response:
    """Fetch a model."""
    state = state_of(request)
    body = await read_request(request)
    fields = take_own_fields(body, PullFields, ignored=OF_CONNECTION)
    name = reference(fields.model or fields.name)
    state.check_running()

    def fetch(job: Job) -> object:
        return pulling.pull(name, progress=job.note, cancelled=lambda: job.is_cancelled)

    job = state.jobs.start(f"pulling {name}", fetch)
    return await follow(request, job, fields.stream, ["pulling manifest"], LAST_WORDS)


def reference(text: str) -> str:
    """The name of a model that can be fetched; RequestError (400) for anything else."""
    name = text.removesuffix(LATEST)
    for address in HUB_ADDRESSES:
        if name.startswith(address):
            name = "hf:" + name.removeprefix(address)
    if len(name) > 300 or not names.can_pull(name):
        known = known_names()
        meant = meant_name(name, known)
        raise refused(
            "model",
            f"cannot pull {shown(text)}; {did_you_mean(meant)}allowed: hf:OWNER/REPO[:FILE], "
            f"or one of: {', '.join(known)}",
        )
    if name.startswith(HUB_PREFIX):
        parse_hub_reference(name)
    return name
