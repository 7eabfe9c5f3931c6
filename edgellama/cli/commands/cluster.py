"""``edgellama cluster``: the group of commands for a model over several machines.

Each command of the group has a file of its own.
"""

from __future__ import annotations

import click

from edgellama.cli.commands.cluster_plan import command as plan_command
from edgellama.cli.commands.cluster_run import command as run_command


@click.group("cluster", short_help="Run a model over several machines.")
def command() -> None:
    """Run a model that is too large for one machine over several.

    \b
    Examples:
      edgellama cluster plan llama-3.3-70b --machines laptop:32GB:60,desk:64GB:80
      edgellama cluster run model.gguf --machines machines.txt --chat -p "Hello"
    """


command.add_command(plan_command)
command.add_command(run_command)
