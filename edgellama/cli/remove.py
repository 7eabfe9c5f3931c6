"""``edgellama rm``: deletes models of the cache."""

from __future__ import annotations

import click

from edgellama.cli.completion import PULLED_MODEL


@click.command("rm", short_help="Delete models from the cache.")
@click.argument("models", nargs=-1, required=True, type=PULLED_MODEL, metavar="MODEL...")
def command(models: tuple[str, ...]) -> None:
    """Delete MODELs from the cache and say what that gives back.

    MODEL is a name from "edgellama list". Files elsewhere are left alone.

    \b
    Examples:
      edgellama rm smollm2
      edgellama rm llama3.2:1b mistral:7b
    """
    from edgellama.cli.tables import size
    from edgellama.models.library import find_stored, remove

    found = {model.path: model for model in map(find_stored, models)}
    for model in found.values():
        click.echo(f"{model.name} deleted, {size(remove(model))} freed")
