"""How many connections there is room for: each is an open file, and systems limit their number.

``connections`` decides what happens to connections beyond that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

logger = logging.getLogger(__name__)

BACKLOG = 256
"""Connections that may come before the first of them is looked at."""
OWN_FILES = 512
"""Models, databases and sockets of the server's own, and streams, which open theirs twice."""
NO_ROOM = "socket.accept() out of system resource"
"""What an event loop says, with a traceback, at each connection that it can open no file for."""
SILENCE_S = 60.0


def room_for_connections(wanted: int) -> int:
    """How many connections can be served at once: ``wanted`` where the system allows it.

    The process's own limit of open files is raised as far as that needs and may be.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    needed = wanted + BACKLOG + OWN_FILES
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_below(limit, needed):
        raised = most if _is_below(most, needed) else needed
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))
            limit = raised
    if not _is_below(limit, needed):
        return wanted
    room = max(1, min(wanted, limit // 4))
    logger.warning("%d files may be open, so %d connections are served at once", limit, room)
    return room


def _is_below(limit: int, needed: int) -> bool:
    is_limited = limit >= 0  # Infinity is -1, or a number that no count reaches.
    return is_limited and limit < needed


def tell_seldom_of_no_room(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop say once a minute, in a line, that it can open no more connections."""
    told = -SILENCE_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        if context.get("message") != NO_ROOM:
            loop.default_exception_handler(context)
        elif loop.time() - told >= SILENCE_S:
            told = loop.time()
            logger.warning("no connection can be opened: %s", context.get("exception"))

    loop.set_exception_handler(handle)
