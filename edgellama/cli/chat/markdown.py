"""Markdown as lines for a terminal, block by block while the text still grows.

markdown-it parses, and rich renders. This module decides where a block ends. ``reply_markdown``
decides how a reply looks, ``reply_view`` when it is painted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from edgellama.cli.chat.painter import Line

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_TRAILING = re.compile(r"\s+((?:\x1b\[0m)?)$")
_MARK = re.compile(r"\W*\d{0,9}\W*")
"""What stands for itself, or begins something that is not known yet."""


def split_blocks(text: str) -> list[str]:
    """The text cut at its blocks (paragraphs, lists, code ...), of which the last may go on."""
    lines = text.split("\n")
    starts = [token.map[0] for token in _parser().parse(text) if _opens_block(token) and token.map]
    cuts = [0, *starts[1:], len(lines)]
    parts = ["\n".join(lines[start:end]) for start, end in pairwise(cuts)]
    blocks = [part for part in parts if part.strip()]
    if len(blocks) > 1 and _MARK.fullmatch(blocks[-1]):
        # A mark alone may yet carry on the block before it, such as the 2 of a list's second item.
        blocks[-2:] = ["\n".join(blocks[-2:])]
    return blocks


class MarkdownRenderer:
    """Blocks of Markdown to lines; ``colour_system`` as rich calls it, None for no styles."""

    def __init__(self, colour_system: str | None) -> None:
        self._colour_system = colour_system

    def lines(self, block: str, width: int) -> list[Line]:
        """One block in lines of at most ``width`` columns."""
        from edgellama.cli.chat.reply_markdown import ReplyMarkdown

        return _without_margins(self._printed(ReplyMarkdown(block, list(_tokens(block))), width))

    def dim_lines(self, text: str, width: int) -> list[Line]:
        """A text as it stands in such lines, dimmed."""
        from rich.text import Text

        return self._printed(Text(text, style="dim"), width)

    def _printed(self, what: Markdown | Text, width: int) -> list[Line]:
        from rich.cells import cell_len

        console = self._console(width)
        console.print(what, end="")
        output = console.file
        assert isinstance(output, io.StringIO)
        texts = [_TRAILING.sub(r"\1", line) for line in output.getvalue().split("\n")]
        return [Line(text, cell_len(_ESCAPES.sub("", text))) for text in texts]

    def _console(self, width: int) -> Console:
        from rich.console import Console
        from rich.theme import Theme

        styles = {"markdown.code": "cyan", "markdown.item.number": "none"}
        return Console(
            file=io.StringIO(),
            width=width,
            force_terminal=True,
            color_system=self._colour_system,  # type: ignore[arg-type]
            theme=Theme(styles),
            legacy_windows=False,
        )


def _without_margins(lines: Sequence[Line]) -> list[Line]:
    """The lines from the first to the last that is not empty."""
    filled = [index for index, line in enumerate(lines) if line.num_columns]
    return list(lines[filled[0] : filled[-1] + 1]) if filled else []


def _opens_block(token: Token) -> bool:
    return token.level == 0 and token.nesting >= 0


@cache
def _parser() -> MarkdownIt:
    """Without what would take text away: a reply's tags are text, and so are its references."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False})
    return parser.enable(["strikethrough", "table"]).disable("reference")


def _tokens(text: str) -> Iterator[Token]:
    """The parsed text, whose line breaks stay where they are: a poem is no paragraph."""
    for token in _parser().parse(text):
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
        yield token
