"""Options of commands whose model may lie on several machines.

``inputs.cluster_stages`` opens such a model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

MACHINES_HELP = (
    "NAME:MEMORY:BANDWIDTH[:NETWORK] in GB, GB/s and Gbit/s (1 by default); NAME*4 for four."
)


def machines_option(*, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the option for the machines that a model's layers are spread over."""
    return click.option(
        "--machines", "machines_text", required=required, metavar="FILE|M,...", help=MACHINES_HELP
    )


address_option = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Address of the Ray cluster's head.  [default: on this machine]",
)


def machines_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options for several machines to a command that also runs on one.

    A UsageError for an address that no machines need.
    """

    @wraps(command)
    def checked(*arguments: Any, **options: Any) -> None:
        if options["address"] is not None and options["machines_text"] is None:
            raise click.UsageError("--address needs --machines")
        command(*arguments, **options)

    return machines_option(required=False)(address_option(checked))
