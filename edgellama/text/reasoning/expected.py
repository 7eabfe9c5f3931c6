"""How a text begins: inside thinking that its prompt has opened, or where thinking may open.

It reads and writes the ends of prompts. ``marks`` knows a model's marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.text.reasoning.marks import ReasoningMarks
from edgellama.text.surrogates import well_formed
from edgellama.text.tokenizer.added_tokens import Stretch

if TYPE_CHECKING:
    from edgellama.text.reasoning.splitter import ReasoningSplitter
    from edgellama.text.tokenizer import Tokenizer

ReasoningWish: TypeAlias = "bool | Literal['auto', 'split', 'raw']"
"""Whether a reply is to begin with thinking; "auto": as the model does; "split": the same, also
where nothing says that it does; "raw": it is not told apart.
"""


class Mark(Enum):
    """A mark of a model inside a prompt, which no text is taken for."""

    OPENING = "opening"
    CLOSING = "closing"


TAIL_TOKENS = 32
"""At the end of a prompt, among which its last mark is looked for."""


@dataclass(frozen=True)
class ExpectedReasoning:
    """The thinking that one text may have: its marks, and whether the prompt has opened it.

    ``is_closed``: the prompt ends behind it, so that none is wanted.
    ``is_begun``: the prompt has some of its words, too. ``is_raw``: it stays in the text with its
    marks. After ``max_tokens`` it is closed; None is no limit.
    """

    marks: ReasoningMarks
    is_open: bool = False
    is_closed: bool = False
    is_begun: bool = False
    is_raw: bool = False
    max_tokens: int | None = None

    def splitter(self) -> ReasoningSplitter | None:
        """A splitter for a new text; None if thinking is not separated."""
        if self.is_raw:
            return None
        from edgellama.text.reasoning.splitter import ReasoningSplitter

        return ReasoningSplitter(self.marks, is_open=self.is_open, is_begun=self.is_begun)


def checked_wish(value: Any) -> ReasoningWish:
    """What is wished for, None for "auto"; InvalidOptionError for anything else."""
    if value is None:
        return "auto"
    if isinstance(value, bool) or (isinstance(value, str) and value in ("auto", "split", "raw")):
        return cast("ReasoningWish", value)
    raise InvalidOptionError(
        f"reasoning is {shown(value)}; allowed: True, False, 'auto', 'split', 'raw' or None"
    )


def expected_behind(
    tokenizer: Tokenizer, marks: ReasoningMarks, prompt: Sequence[int]
) -> ExpectedReasoning:
    """What a text may begin with that follows a prompt."""
    is_open, is_closed = (
        ends_with(tokenizer, prompt, mark) for mark in (marks.opening, marks.closing)
    )
    return ExpectedReasoning(marks, is_open=is_open, is_closed=is_closed)


def expected_within(marks: ReasoningMarks, begun: str) -> ExpectedReasoning | None:
    """The same of a text that goes on with what is begun; None if no thinking may come."""
    splitter = ExpectedReasoning(marks).splitter()
    assert splitter is not None
    splitter.feed(begun)
    if splitter.is_answering and not marks.tokens:
        return None
    if begun.rstrip().endswith(marks.closing):
        return ExpectedReasoning(marks, is_closed=True)
    is_open = splitter.is_thinking
    return ExpectedReasoning(marks, is_open=is_open, is_begun=is_open and splitter.has_thought)


def ends_with(tokenizer: Tokenizer, prompt: Sequence[int], mark: str) -> bool:
    """Whether a mark is the last thing in a prompt, but for white space."""
    tail = tokenizer.decode(prompt[-TAIL_TOKENS:], skip_special=False, continuation=True)
    return tail.rstrip().endswith(mark)


def encoded_parts(
    tokenizer: Tokenizer, marks: ReasoningMarks, parts: Sequence[str | Mark]
) -> list[int]:
    """Tokens of what stands inside a prompt: texts, and marks as the tokens that they may be."""
    known = {
        Mark.OPENING: (marks.opening, marks.opening_token),
        Mark.CLOSING: (marks.closing, marks.closing_token),
    }
    tokens: list[int] = []
    text = ""
    for part in (*parts, None):
        written, token = known[part] if isinstance(part, Mark) else (part or "", None)
        if token is None:
            text += written
        if text and (token is not None or part is None):
            # Inside a prompt the tokenizer must put no space before the text.
            stretch = Stretch(well_formed(text), is_first=False, has_prefix=True)
            tokens += tokenizer.encode_stretch(stretch)
            text = ""
        tokens += [] if token is None else [token]
    return tokens
