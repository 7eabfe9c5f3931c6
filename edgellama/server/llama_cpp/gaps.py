"""Gaps in code as editors ask for them: the context before a gap, and when the text in it ends.

An editor shows a few lines at once and asks again at the next key. So a text ends by its lines and
by the clock, and parts of other files stand before it only as far as there is room.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgellama.server.errors import refused

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk, Generation
    from edgellama.generation.sessions.stream import Stream
    from edgellama.text.tokenizer import Tokenizer

SNIPPET = "\n\n--- snippet ---\n\n"
"""What llama.cpp puts before text of other files, for models that have no token for it."""
NUM_MARKS = 8
"""Tokens that a prompt may have beside its texts."""
_LESS_INDENTED = r"\n[ \t]{0,%d}(?=[^ \t\r\n])"


@dataclass(frozen=True)
class LineLimits:
    """When a text has enough lines.

    ``seconds`` after its first token it ends, once it has a line break. ``indentation``: a later
    line with fewer spaces or tabs is none of its own. None and 0 are no limits.
    """

    seconds: float | None = None
    indentation: int = 0

    def end_in(self, text: str, seconds: float) -> int | None:
        """Where a text ends that was begun so long ago; None if it goes on."""
        if self.indentation:
            outside = re.search(_LESS_INDENTED % (self.indentation - 1), text)
            if outside is not None:
                return outside.end()
        is_late = self.seconds is not None and seconds > self.seconds
        return len(text) if is_late and "\n" in text else None


class LimitedStream:
    """A stream whose text ends by its lines, too."""

    def __init__(self, stream: Stream, limits: LineLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._text = ""
        self._is_cut = False

    def __iter__(self) -> Iterator[Chunk]:
        first: float | None = None
        for chunk in self._stream:
            first = time.perf_counter() if first is None else first
            before, self._text = len(self._text), self._text + chunk.text
            end = self._limits.end_in(self._text, time.perf_counter() - first)
            if end is None:
                yield chunk
                continue
            self._is_cut, self._text = True, self._text[:end]
            yield replace(chunk, text=self._text[before:])
            self._stream.close()
            return

    @property
    def result(self) -> Generation:
        """What came of it."""
        result = self._stream.result
        return replace(result, text=self._text, finish_reason="length") if self._is_cut else result

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that were computed, and that are to be."""
        return self._stream.prefill_progress

    def cancel(self) -> None:
        """End it soon; from any thread."""
        self._stream.cancel()

    def close(self) -> None:
        """End it."""
        self._stream.close()


def extra_texts(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of parts of other files; RequestError if one has none."""
    texts = [part.get("text") for part in given]
    for text in texts:
        if not isinstance(text, str):
            raise refused(
                "input_extra", 'a part of input_extra has no text; allowed: {"text": "..."}'
            )
    return [text for text in texts if isinstance(text, str)]


def fitting_texts(
    texts: Sequence[str], tokenizer: Tokenizer, own: Sequence[str], room: int
) -> list[str]:
    """The last ones of the texts that ``room`` tokens have room for beside the gap's ``own``."""
    num_left = room - NUM_MARKS - sum(_num_tokens(text, tokenizer) for text in own if texts)
    kept: list[str] = []
    for text in reversed(texts):
        if tokenizer.min_tokens(text) > num_left:
            break
        num_left -= _num_tokens(SNIPPET + text, tokenizer)
        if num_left < 0:
            break
        kept.insert(0, text)
    return kept


def _num_tokens(text: str, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(text, add_bos=False))


def with_snippets(texts: Sequence[str], before: str) -> str:
    """What stands before a gap, behind parts of other files."""
    if not texts:
        return before
    return "".join(SNIPPET + text for text in (*texts, before))
