"""``edgellama cluster``: commands for a model over several machines."""

from __future__ import annotations

import click

from edgellama.cli.cluster_plan import command as plan_command


@click.group("cluster", short_help="Run a model over several machines.")
def command() -> None:
    """Run a model that is too large for one machine over several.

    \b
    Examples:
      edgellama cluster plan llama-3.3-70b --machines laptop:32GB:60,desk:64GB:80
    """


command.add_command(plan_command)
