"""``edgellama rm``: deletes models from the cache, or conversations that are kept.

``models.library`` knows a model's files, ``inputs.kept`` the conversations.
"""

from __future__ import annotations

import click

from edgellama.cli.inputs.kept import CONVERSATION
from edgellama.cli.options.completion import PULLED_MODEL, Named


class _Words(Named):
    """Names of models, or of conversations behind --chats."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        kind = CONVERSATION if ctx.params.get("chats") else PULLED_MODEL
        return kind.shell_complete(ctx, param, incomplete)


@click.command("rm", short_help="Delete models from the cache.")
@click.option("--chats", is_flag=True, is_eager=True, help="Delete conversations instead.")
@click.argument(
    "names",
    nargs=-1,
    required=True,
    type=_Words("model", PULLED_MODEL.names),
    metavar="MODEL...",
)
def command(names: tuple[str, ...], chats: bool) -> None:
    """Delete MODELs from the cache, and say how much space that frees.

    MODEL is a name from "edgellama list" or, with --chats, from "edgellama list --chats".
    Files outside the cache are left alone.

    \b
    Examples:
      edgellama rm smollm2
      edgellama rm llama3.2:1b mistral:7b
      edgellama rm --chats holidays
    """
    from edgellama.cli.output.tables import size
    from edgellama.models.library import find_stored, remove

    if chats:
        _remove_conversations(names)
        return
    found = {model.path: model for model in map(find_stored, names)}
    for model in found.values():
        click.echo(f"{model.name} deleted, {size(remove(model))} freed")


def _remove_conversations(names: tuple[str, ...]) -> None:
    """Delete conversations, all of them or, where one is not there, none."""
    from edgellama.cli.inputs.kept import KeptConversation, kept_names
    from edgellama.cli.output.tables import size

    kept = [KeptConversation(name) for name in dict.fromkeys(names)]
    missing = [conversation.name for conversation in kept if not conversation.exists]
    if missing:
        held = ", ".join(kept_names()) or "none"
        raise click.ClickException(f"no conversation called {missing[0]!r}; there are: {held}")
    for conversation in kept:
        with conversation.locked():
            num_bytes = conversation.remove()
        click.echo(f"{conversation.name} deleted, {size(num_bytes)} freed")
