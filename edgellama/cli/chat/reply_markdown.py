"""How the Markdown of a reply looks: as rich's, with plainer headings, code and tables.

Importing this imports rich, so it is imported where a reply is shown. ``markdown`` parses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.markdown import CodeBlock, Heading, Markdown, TableDataElement
from rich.padding import Padding
from rich.syntax import Syntax

if TYPE_CHECKING:
    from markdown_it.token import Token
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult

CODE_COLUMNS = 2
"""How far code is indented."""


class PlainHeading(Heading):
    """A heading at the left edge."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class PlainCode(CodeBlock):
    """Code in colours, without a background, so that it can be copied as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = Syntax(
            str(self.text).rstrip(),
            self.lexer_name,
            theme="ansi_dark",
            word_wrap=True,
            background_color="default",
        )
        yield Padding(code, (0, 0, 0, CODE_COLUMNS))


class WholeCell(TableDataElement):
    """A cell whose long words go on in the next line, where rich would cut them off."""

    def __init__(self, justify: JustifyMethod) -> None:
        super().__init__(justify)
        self.content.overflow = "fold"


class ReplyMarkdown(Markdown):
    """A reply's text and its ``tokens``; links show their address, since a reply is untrusted."""

    elements: ClassVar[dict[str, Any]] = {
        **Markdown.elements,
        "heading_open": PlainHeading,
        "fence": PlainCode,
        "code_block": PlainCode,
        "td_open": WholeCell,
        "th_open": WholeCell,
    }

    def __init__(self, text: str, tokens: list[Token]) -> None:
        super().__init__(text, hyperlinks=False)
        self.parsed = tokens
