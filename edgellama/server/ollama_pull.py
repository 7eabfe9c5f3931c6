"""Downloads that clients ask for, with their progress; only what ``edgellama pull`` takes.

Who asks for a model that is on its way already follows the same download, which ends when the last
client has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edgellama.models import names
from edgellama.models.well_known import HUB_PREFIX, known_names, parse_hub_reference
from edgellama.quant.error_text import shown
from edgellama.server.catalogue import LATEST
from edgellama.server.downloads import Download
from edgellama.server.errors import RequestError, as_request_error, ollama_error
from edgellama.server.fields import take_own_fields
from edgellama.server.routing import read_request, state_of
from edgellama.server.wire import NDJSON_TYPE, json_response, ndjson, unless_left

POLL_S = 0.25
HUB_ADDRESSES = ("hf.co/", "huggingface.co/")


class PullFields(msgspec.Struct):
    """``/api/pull``."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False


async def pull(request: Request) -> Response:
    """Fetch a model."""
    state = state_of(request)
    body = await read_request(request)
    fields = take_own_fields(body, PullFields, ignored=())
    if fields.insecure:
        raise RequestError(400, "insecure is true; allowed: false", param="insecure")
    name = reference(fields.model or fields.name)
    state.check_running()
    download = state.downloads.start(name)
    if fields.stream:
        return StreamingResponse(_lines(download), media_type=NDJSON_TYPE)
    await unless_left(request, _whole(download))
    return json_response({"status": "success"})


async def _whole(download: Download) -> None:
    with download.waited_for():
        await asyncio.shield(download.task)


def reference(text: str) -> str:
    """The name of a model that can be fetched; RequestError (400) for anything else."""
    name = text.removesuffix(LATEST)
    for address in HUB_ADDRESSES:
        if name.startswith(address):
            name = "hf:" + name.removeprefix(address)
    if len(name) > 300 or not names.can_pull(name):
        raise RequestError(
            400,
            f"cannot pull {shown(text)}; allowed: hf:OWNER/REPO[:FILE], or one of: "
            + ", ".join(known_names()),
            param="model",
        )
    if name.startswith(HUB_PREFIX):
        parse_hub_reference(name)
    return name


async def _lines(download: Download) -> AsyncIterator[bytes]:
    with download.waited_for():
        async for line in _progress(download):
            yield line


async def _progress(download: Download) -> AsyncIterator[bytes]:
    yield ndjson({"status": "pulling manifest"})
    told: Any = None
    while True:
        finished, _ = await asyncio.wait({download.task}, timeout=POLL_S)
        now = (download.done, download.total)
        if now != told and download.total:
            told = now
            yield ndjson(
                {
                    "status": f"pulling {download.name}",
                    "digest": f"sha256:{download.name}",
                    "total": download.total,
                    "completed": min(now),
                }
            )
        if finished:
            break
    error = download.task.exception()
    if error is not None:
        yield ndjson(ollama_error(as_request_error(error)))
        return
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield ndjson({"status": status})
