"""Replies on a terminal: what stands there in the end, and that nothing steers the terminal."""

from __future__ import annotations

from collections import Counter

import pytest
from harness.screen import Screen
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from edgellama.cli.chat.markdown import MarkdownRenderer, split_blocks
from edgellama.cli.chat.painter import Line, Painter
from edgellama.cli.chat.reply_view import PlainReply, RenderedReply, sign_of_life

MARKDOWN = """# A title

Some **bold** words and `code` that run beyond the edge of a narrow screen, and a
Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft.

\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u306f\u5e45\u304c\u4e8c\u500d\u306e\u6587\u5b57\u3067\u3067\u304d\u3066\u3044\u307e\u3059\u3002

1. one

2. two

- a list
  - within a list

```python
def f(x):
    return x  # <b>tags</b> stay
```

Roses are red,
violets are blue. [x]: http://example.org

| name | value |
|------|-------|
| one  | 1     |
"""
WORDS = st.lists(st.text(st.sampled_from("ab*`_#-1.\n |>\u65e5[]()\\~"), max_size=12), max_size=20)


def streamed(pieces: list[str], screen: Screen, *, every: bool = True) -> list[str]:
    """The screen's lines after a reply in these pieces; ``every`` piece is painted by itself."""
    view = RenderedReply(Painter(screen, screen.size), MarkdownRenderer(None))
    for piece in pieces:
        view.add(piece)
        if every:
            view.idle(0, 0)
    view.end()
    return screen.lines()


def at_once(text: str, width: int) -> list[str]:
    """The rendered blocks with an empty line between them."""
    renderer = MarkdownRenderer(None)
    lines: list[str] = []
    for block in split_blocks(text):
        rendered = [line.text for line in renderer.lines(block, width)]
        if rendered:
            lines += [""] * bool(lines) + rendered
    return lines


@pytest.mark.parametrize("columns", [20, 40, 80])
@pytest.mark.parametrize("num_characters", [1, 3, 1000])
def test_streamed_markdown_is_rendered_markdown(columns: int, num_characters: int) -> None:
    """However it is cut, the text on the screen in the end is that of the whole."""
    screen = Screen(columns, 200)
    pieces = [
        MARKDOWN[start : start + num_characters]
        for start in range(0, len(MARKDOWN), num_characters)
    ]
    assert streamed(pieces, screen) == at_once(MARKDOWN, columns - 1)
    assert all(cell_len(line) < columns for line in screen.lines())


def test_what_markdown_shows() -> None:
    """Marks go, code is indented, tags, references and line breaks stay."""
    lines = at_once(MARKDOWN, 79)
    assert lines[0] == "A title"
    assert "Some bold words and code" in lines[2]
    assert "  def f(x):" in lines
    assert "      return x  # <b>tags</b> stay" in lines
    assert "Roses are red," in lines
    assert "violets are blue. [x]: http://example.org" in lines


def test_cells_of_tables_are_never_cut() -> None:
    """A word that is longer than its column goes on in the next line."""
    words = (
        "https://example.com/a/long/way",
        "\u8868\u306e\u4e2d\u306e\u9577\u3044\u8a9e",
        "plain",
    )
    lines = at_once(f"| {' | '.join(words)} |\n|---|---|--:|\n| {' | '.join(words)} |", 39)
    assert max(map(cell_len, lines)) <= 39
    shown = Counter("".join(lines))
    assert all(shown[letter] >= 2 * count for letter, count in Counter("".join(words)).items())


@settings(deadline=None)
@given(WORDS, st.integers(12, 50))
def test_any_text_ends_as_its_lines(pieces: list[str], columns: int) -> None:
    """No text moves the cursor off the screen or makes a line too long; painted often or once.

    Empty lines may differ where a text looked like a block of its own for a moment.
    """
    often = streamed(pieces, Screen(columns, 300))
    once = streamed(["".join(pieces)], Screen(columns, 300), every=False)
    assert list(filter(None, often)) == list(filter(None, once))
    assert all(cell_len(line) < columns for line in often)


@settings(deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=9), max_size=60), st.integers(3, 8))
def test_long_replies_scroll_unharmed(pieces: list[str], rows: int) -> None:
    """Paragraphs that are taller than the screen are whole in the scrollback."""
    text = "x" + "".join(pieces)
    assert streamed(["x", *pieces], Screen(16, rows)) == at_once(text, 15)


def test_nothing_steers_the_terminal() -> None:
    """Escape sequences of a reply are shown as what they are: characters without meaning."""
    pieces = ["a\x1b[2J", "\x1b]0;title\x07", "b\r\x9b1A\u202e"]
    shown = "\n".join(streamed(pieces, Screen(60, 10)))
    assert shown.startswith("a\N{REPLACEMENT CHARACTER}[2J")
    plain = Screen(60, 10)
    view = PlainReply(plain)
    for piece in pieces:
        view.add(piece)
    view.end()
    assert plain.lines() == [shown]


def test_resizing() -> None:
    """After the width has changed, the rest is painted for the new one, and nothing twice."""
    screen = Screen(40, 50)
    painter = Painter(screen, screen.size)
    view = RenderedReply(painter, MarkdownRenderer(None))
    view.add("one two three four five six seven eight nine ten eleven twelve")
    view.idle(0, 0)
    screen.columns = 60
    view.add(" thirteen")
    view.end()
    words = " ".join(screen.lines()).split()
    assert len(words) == len(set(words)) == 13
    assert len(screen.lines()) == 2


def test_a_painter_rewrites_what_differs() -> None:
    """A line that goes on is written on; one that changes, and lines below it, are replaced."""
    screen = Screen(20, 10)
    painter = Painter(screen, screen.size)
    for lines in (["ab"], ["abc"], ["abc", "d"], ["ax", "d", "e"], ["ax"], [], ["new", "two"]):
        painter.paint([Line(line, len(line)) for line in lines])
        assert screen.lines() == lines
    painter.commit([Line("end", 3)])
    painter.paint([Line("next", 4)])
    assert screen.lines() == ["end", "next"]
    assert screen.wraps


@pytest.mark.parametrize("width", [1, 12, 30, 39, 79])
def test_sign_of_life(width: int) -> None:
    """It fits the line, moves with time, and shows how much of a prompt is read."""
    shown = sign_of_life(0.0, 512, 2048, width)
    assert len(shown) <= width
    assert shown != sign_of_life(0.5, 512, 2048, width)
    assert "512 of 2,048 tokens" in sign_of_life(0.0, 512, 2048, 79)
    assert len(sign_of_life(0.0, 0, 0, width)) == 1


def test_line_breaks_of_windows_are_line_breaks() -> None:
    """A reply that ends its lines with two characters shows neither of them."""
    assert streamed(["one\r\ntwo\r\n", "three"], Screen(40, 10)) == ["one", "two", "three"]
