"""Options that take several values in one word, separated by commas.

Each option's own type knows what the values may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.completion import Named

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class TextList(click.ParamType[Any]):
    """``a,b,c`` as a tuple of names; a shell completes the last of them like ``kind``."""

    name = "list"

    def __init__(self, kind: Named | None = None) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[Any]:
        """The items; a usage error for an empty one."""
        if not isinstance(value, str):
            items: Sequence[Any] = value
            return items
        names = [item.strip() for item in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} has an empty item; allowed: values with commas between", param)
        return tuple(self.item(name, param) for name in names)

    def item(self, text: str, param: click.Parameter | None) -> Any:
        """One value."""
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """Completions of the last item, with those before it."""
        from click.shell_completion import CompletionItem

        before, comma, last = incomplete.rpartition(",")
        found = self.kind.shell_complete(ctx, param, last) if self.kind else []
        return [CompletionItem(f"{before}{comma}{item.value}") for item in found]


class NumberList(TextList):
    """``1,2,3`` as a tuple of whole numbers from ``smallest`` on."""

    def __init__(self, smallest: int = 1) -> None:
        super().__init__()
        self.smallest = smallest

    def item(self, text: str, param: click.Parameter | None) -> int:
        """One number; a usage error for anything else."""
        if not text.isascii() or not text.isdigit() or int(text) < self.smallest:
            self.fail(f"{text!r}; allowed: whole numbers from {self.smallest} on", param)
        return int(text)
