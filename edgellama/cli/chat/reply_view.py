"""One reply while it comes: as text for pipes, as rendered Markdown for a terminal.

A view is told of every piece of text, and several times a second if none has come. ``markdown``
knows how a reply looks, and ``painter`` how lines are painted.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from time import monotonic
from typing import Protocol, TextIO

from edgellama.cli.chat.markdown import MarkdownRenderer, split_blocks
from edgellama.cli.chat.painter import Line, Painter
from edgellama.cli.chat.thoughts import PaintedThoughts
from edgellama.cli.output.terminal import DimText, printable, thinking_stream

PAINT_SECONDS = 0.04
PAINT_SHARE = 0.1
"""Least pause between two paintings, and what part of the time they may take of the model's."""
SIGN_OF_LIFE_SECONDS = 0.3
FRAMES = "\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f"
ASCII_FRAMES = "|/-\\"
FRAMES_PER_SECOND = 10
BAR_COLUMNS = 20


class ReplyView(Protocol):
    """Where a reply goes."""

    def add(self, text: str) -> None:
        """Take the next piece of text."""
        ...

    def think(self, text: str) -> None:
        """Take the next piece of what the model thinks before its text."""
        ...

    def wait(self, text: str) -> None:
        """Take the same where nobody wants to see it."""
        ...

    def idle(self, num_done: int, num_wanted: int) -> None:
        """Hear that nothing came; ``num_done`` tokens of ``num_wanted`` of the prompt are read."""
        ...

    def end(self) -> None:
        """End the reply with a line break."""
        ...


class PlainReply:
    """The text as it is; on a terminal, which has a painter, without what could steer it."""

    def __init__(self, stream: TextIO, painter: Painter | None = None) -> None:
        self._stream = stream
        self._sign = None if painter is None else SignOfLife(painter)
        self._is_terminal = stream.isatty()
        seen = stream if self._is_terminal else thinking_stream()
        self._thoughts = None if seen is None else DimText(seen, "thinking")

    def add(self, text: str) -> None:
        """Write the text at once."""
        if text:
            self._erase_sign()
            if self._thoughts is not None:
                self._thoughts.end()
        self._stream.write(printable(text) if self._is_terminal else text)
        self._stream.flush()

    def think(self, text: str) -> None:
        """Write it dimmed, if there is a terminal."""
        if self._thoughts is not None:
            self._erase_sign()
            self._thoughts.add(text)

    def wait(self, text: str) -> None:
        """Show a sign of life."""
        self.idle(0, 0)

    def idle(self, num_done: int, num_wanted: int) -> None:
        """Show a sign of life until the first text."""
        if self._sign is not None:
            self._sign.show(num_done, num_wanted)

    def _erase_sign(self) -> None:
        if self._sign is not None:
            self._sign.erase()
            self._sign = None

    def end(self) -> None:
        """End the line."""
        self._erase_sign()
        if self._thoughts is not None:
            self._thoughts.end()
        self._stream.write("\n")
        self._stream.flush()


class RenderedReply:
    """Markdown, rendered while it comes: blocks that are finished stay, the last is repainted."""

    def __init__(self, painter: Painter, renderer: MarkdownRenderer) -> None:
        self._painter = painter
        self._renderer = renderer
        self._open = ""
        self._is_first = True
        self._is_painted = True
        self._painted = monotonic()
        self._pause = PAINT_SECONDS
        self._sign = SignOfLife(painter)
        self._thoughts = PaintedThoughts(painter, renderer.dim_lines)

    def add(self, text: str) -> None:
        """Paint the text, unless the last time is only just past."""
        if not text:
            return  # Nothing but thinking came, whose last line is painted where this would be.
        if self._thoughts.end():
            self._is_first = False
        self._open += printable(text)
        self._is_painted = False
        if monotonic() - self._painted >= self._pause:
            self._paint()

    def think(self, text: str) -> None:
        """Paint it dimmed, above the text."""
        self._thoughts.add(text)

    def wait(self, text: str) -> None:
        """Show a sign of life."""
        self._sign.show(0, 0)

    def idle(self, num_done: int, num_wanted: int) -> None:
        """Paint what was left, or a sign of life until the first text."""
        if self._thoughts.is_begun:
            self._thoughts.paint()
        elif not self._is_painted:
            self._paint()
        elif self._is_first and not self._open.strip():
            self._sign.show(num_done, num_wanted)

    def end(self) -> None:
        """Paint the rest; a reply without text leaves nothing."""
        self._thoughts.end()
        self._paint()
        self._painter.commit(self._lines(self._open))

    def _paint(self) -> None:
        started = monotonic()
        *finished, last = split_blocks(self._open) or [self._open]
        for block in finished:
            self._painter.commit(self._lines(block))
            self._is_first = False
        self._open = last
        self._painter.paint(self._lines(last))
        self._is_painted = True
        self._painted = monotonic()
        self._pause = max(PAINT_SECONDS, (self._painted - started) / PAINT_SHARE)

    def _lines(self, block: str) -> list[Line]:
        """The lines of a block, an empty one before it if it is not the first."""
        if not block.strip():
            return []
        lines = self._renderer.lines(block, self._painter.width)
        return lines if self._is_first else [Line("", 0), *lines]


class SignOfLife:
    """A line that moves, once a reply has been waited for."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._started = monotonic()

    def show(self, num_done: int, num_wanted: int) -> None:
        """Paint it anew; ``num_done`` tokens of ``num_wanted`` of the prompt are read."""
        seconds = monotonic() - self._started
        if seconds >= SIGN_OF_LIFE_SECONDS:
            sign = sign_of_life(seconds, num_done, num_wanted, self._painter.width)
            self._painter.paint([Line(sign, len(sign))])

    def erase(self) -> None:
        """Leave nothing of it."""
        self._painter.paint([])


def sign_of_life(seconds: float, num_done: int, num_wanted: int, width: int) -> str:
    """A line that moves, with a bar where a long prompt is read piece by piece."""
    frames, full, empty = FRAMES, "\u2501", "\u2500"
    if not _can_encode(frames + full + empty):
        frames, full, empty = ASCII_FRAMES, "#", "-"
    frame = frames[int(seconds * FRAMES_PER_SECOND) % len(frames)]
    if num_wanted == 0 or num_done >= num_wanted:
        return frame
    filled = BAR_COLUMNS * num_done // num_wanted
    bar = full * filled + empty * (BAR_COLUMNS - filled)
    texts = (
        f"{frame} reading the prompt {bar} {num_done:,} of {num_wanted:,} tokens",
        f"{frame} {bar} {num_done * 100 // num_wanted} %",
        frame,
    )
    return next(text for text in texts if len(text) <= width or text == frame)


def make_reply_view(stream: TextIO, *, plain: bool) -> Callable[[], ReplyView]:
    """What makes the view of each reply on ``stream``: rendered on a terminal unless ``plain``."""
    from edgellama.cli.output.terminal import may_colour

    if not stream.isatty() or _is_dumb():
        return lambda: PlainReply(stream)
    size = _size_of(stream)
    if plain:
        return lambda: PlainReply(stream, Painter(stream, size))
    from rich.console import Console

    colour_system = Console(file=stream).color_system if may_colour(stream) else None
    renderer = MarkdownRenderer(colour_system)
    return lambda: RenderedReply(Painter(stream, size), renderer)


def _size_of(stream: TextIO) -> Callable[[], os.terminal_size]:
    def size() -> os.terminal_size:
        try:
            return os.get_terminal_size(stream.fileno())
        except OSError:
            return shutil.get_terminal_size()

    return size


def _is_dumb() -> bool:
    return os.environ.get("TERM") == "dumb"


def _can_encode(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
