"""Numbers of tokens on the command line: 8192, or 8k for the same.

The commands know whether a number fits a model.
"""

from __future__ import annotations

from typing import Any

import click

from edgellama.cli.options.lists import NumberList

THOUSAND = 1024
"""What lengths of contexts are multiples of, and the names of models call k."""
MAX_DIGITS = 9


class TokenCount(click.IntRange):
    """A whole number, or one of thousands of 1,024 as in ``8k``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error for anything else."""
        try:
            number = int(_in_digits(value) if isinstance(value, str) else value)
        except ValueError:
            self.fail(f"{value!r}; allowed: whole numbers, also as 8k for 8 x {THOUSAND}", param)
        return super().convert(number, param, ctx)


class TokenCountList(NumberList):
    """``512,8k`` as a tuple of numbers of tokens."""

    def item(self, text: str, param: click.Parameter | None) -> int:
        """One number; a usage error for anything else."""
        return super().item(_in_digits(text), param)


def _in_digits(text: str) -> str:
    """``8k`` as ``8192``; any other text as it is."""
    number, is_short = text.strip()[:-1], text.strip()[-1:] in ("k", "K")
    if not is_short or not 0 < len(number) <= MAX_DIGITS:
        return text
    return str(int(number) * THOUSAND) if number.isascii() and number.isdigit() else text
