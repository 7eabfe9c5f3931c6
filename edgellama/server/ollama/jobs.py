"""Long work as Ollama's clients follow it: a line of JSON for each step, and for some of the bytes.

``manage`` and ``pull`` know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edgellama.server.connections.wire import NDJSON_TYPE, json_response, ndjson, unless_left
from edgellama.server.errors import as_request_error, ollama_error
from edgellama.server.models.jobs import Job

POLL_S = 0.25


async def follow(
    request: Request, job: Job, is_stream: bool, first: Sequence[str], last: Sequence[str]
) -> Response:
    """The answer to the client of a job: its lines as they come, or how it ended.

    ``first`` and ``last`` are steps before its bytes and behind them.
    """
    if is_stream:
        return StreamingResponse(_lines(job, first, last), media_type=NDJSON_TYPE)
    await unless_left(request, _ended(job))
    return json_response({"status": "success"})


async def _ended(job: Job) -> None:
    with job.waited_for():
        await asyncio.shield(job.task)


async def _lines(job: Job, first: Sequence[str], last: Sequence[str]) -> AsyncIterator[bytes]:
    with job.waited_for():
        for status in first:
            yield ndjson({"status": status})
        async for line in _bytes(job):
            yield line
    error = job.task.exception()
    if error is not None:
        yield ndjson(ollama_error(as_request_error(error)))
        return
    for status in (*last, "success"):
        yield ndjson({"status": status})


async def _bytes(job: Job) -> AsyncIterator[bytes]:
    """Lines while it works."""
    told: Any = None
    while True:
        finished, _ = await asyncio.wait({job.task}, timeout=POLL_S)
        now = (job.done, job.total)
        if now != told and job.total:
            told = now
            subject = job.name.partition(" ")[2]
            counts = {"total": job.total, "completed": min(now)}
            yield ndjson({"status": job.name, "digest": f"sha256:{subject}", **counts})
        if finished:
            return
