"""Ray itself, an optional package that is imported late, and the cluster of this process.

``ray_stages``, ``ray_batch`` and ``ray_serve`` start programs there.
"""

from __future__ import annotations

import socket
from importlib import import_module
from typing import Any

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.ways import Way, install_command

EXTRA = "edgellama[ray]"
TOKEN_WAY = "set RAY_AUTH_MODE=token where it wants Ray's token"
REACH_S = 5.0
"""How long Ray's head, or a stage's line, may take to be reached."""


def connect(address: str | None, *, starts: bool = False) -> None:
    """Join the Ray cluster at ``address``, or the one that runs on this machine.

    ``starts``: one of this machine alone, where none runs. Nothing is done where this process is
    connected already. EdgellamaError for what fails.
    """
    ray = import_ray()
    if ray.is_initialized():
        return
    try:
        if address is not None:
            _check_reachable(address)
        where = address or (None if starts else "auto")
        ray.init(where, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise EdgellamaError(
            f"no Ray cluster at {address or 'this machine'}: {error}",
            way=Way(
                f"one must run there, with every machine that is to have a stage; {TOKEN_WAY}",
                "start one: ray start --head, then ray start --address=... on the other machines; "
                + TOKEN_WAY,
            ),
        ) from None


def _check_reachable(address: str) -> None:
    """OSError or ValueError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


def import_ray(part: str | None = None) -> Any:
    """Ray, or a part of it such as "data"; EdgellamaError if that is not installed."""
    try:
        import ray

        return ray if part is None else import_module(f"ray.{part}")
    except ImportError:
        what = "Ray" if part is None else f"Ray {part.title()}"
        way = install_command(EXTRA)
        raise EdgellamaError(f"{what} is needed, which is not installed; run: {way}") from None
