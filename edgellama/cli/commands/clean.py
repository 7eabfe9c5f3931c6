"""``edgellama clean``: deletes what can be made again from the cache.

``models.cleaning`` and the cache of compiled code know what that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgellama.cli.output import tables
from edgellama.cli.output.tables import Column

if TYPE_CHECKING:
    from edgellama.models.cleaning import Leftover

KINDS = ("kernels", "converted", "downloads", "chats")
COLUMNS = (
    Column("kind", is_number=False),
    Column("size_bytes", tables.size),
    Column("path", is_number=False),
)


@click.command("clean", short_help="Free space: old kernels, conversions, leftovers.")
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS), metavar="[WHAT]...")
@click.option("--dry-run", is_flag=True, help="Show what would go; delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(kinds: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete what the cache can make again; pulled models stay.

    WHAT is kernels (compiled by other versions of edgellama or Numba), converted (models
    made from a checkpoint), downloads (left by broken downloads) or chats (what
    conversations of chat --resume have computed; their messages stay). Without WHAT, all of
    these are deleted. To delete a pulled model, use "edgellama rm".

    \b
    Examples:
      edgellama clean --dry-run
      edgellama clean kernels --yes
    """
    from edgellama.cli.output.terminal import is_interactive
    from edgellama.models.cleaning import find_leftovers

    leftovers = find_leftovers(kinds or KINDS, _current_keys())
    if not leftovers:
        click.echo("nothing to clean")
        return
    rows = [
        {"kind": leftover.kind, "size_bytes": leftover.num_bytes, "path": str(leftover.path)}
        for leftover in leftovers
    ]
    total = tables.size(sum(leftover.num_bytes for leftover in leftovers))
    click.echo(tables.to_read(rows, COLUMNS))
    if dry_run:
        click.echo(f"\n{total} would be freed")
        return
    if not yes:
        if not is_interactive():
            raise click.UsageError("nobody can be asked here; give --yes to delete this")
        click.echo()
        if not click.confirm(f"Delete all of this and free {total}?", err=True):
            raise click.Abort
    _delete(leftovers)
    click.echo(f"{total} freed")


def _current_keys() -> set[str]:
    """Names of the folders with the code of this version, for every instruction set."""
    from edgellama.kernels_cpu.compiling.code_cache import code_key
    from edgellama.kernels_cpu.machine.cpu import TIERS

    return {code_key(tier) for tier in TIERS}


def _delete(leftovers: Sequence[Leftover]) -> None:
    from edgellama.models.cleaning import remove_leftover

    for leftover in leftovers:
        try:
            remove_leftover(leftover)
        except OSError as error:
            reason = error.strerror or str(error)
            raise click.ClickException(f"{leftover.path} cannot be deleted: {reason}") from error
