"""The marks around a model's thinking, and which of them a model has.

A model has marks if they are in its chat template or its vocabulary. For all other models they are
ordinary text.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("Here is my thought process:", "Here is my response:"),
)
"""Opening and closing: DeepSeek's, Nous's and NVIDIA's, then Mistral's, then others', at last the
words of Granite 3.2."""
ANSWER_TAGS = ("<response>", "</response>")
"""Between these Granite 3.3 answers behind its thinking, as its template tells it to."""


@dataclass(frozen=True)
class ReasoningMarks:
    """What opens thinking, and what closes it.

    ``opening_token`` and ``closing_token`` are their ids where they are control tokens, which have
    no text of their own; else None. ``is_in_template``: the chat template has them, not the
    vocabulary alone, so the model was trained to think. ``answer``: the tags between which the
    answer stands, if the template names some.
    """

    opening: str
    closing: str
    opening_token: int | None = None
    closing_token: int | None = None
    is_in_template: bool = True
    answer: tuple[str, str] | None = None

    @cached_property
    def tokens(self) -> frozenset[int]:
        """The marks that are control tokens."""
        return frozenset(
            token for token in (self.opening_token, self.closing_token) if token is not None
        )


USUAL_MARKS = ReasoningMarks(*PAIRS[0], is_in_template=False)
"""Those that most models use, also where only their system prompt tells them to."""


def reasoning_marks(tokenizer: Tokenizer, template: str) -> ReasoningMarks | None:
    """The marks of a model: those that its template tells of, else those of its vocabulary.

    None for a model that has none.

    Example:
        >>> from edgellama import Llama
        >>> from edgellama.text.reasoning.marks import reasoning_marks
        >>> with Llama("smollm2", context_length=64) as llama:
        ...     reasoning_marks(llama.tokenizer, "{{ messages }}")
    """
    number = _pair_in(template)
    if number is not None:
        has_tags = all(tag in template for tag in ANSWER_TAGS)
        answer = ANSWER_TAGS if has_tags else None
        return _marks(tokenizer, number, is_in_template=True, answer=answer)
    return tokenizer.derived(_of_vocabulary)


def tells_of_thinking(template: str) -> bool:
    """Whether a chat template knows marks."""
    return _pair_in(template) is not None


def without_opening(prompt: str) -> str:
    """A prompt without the mark that opens thinking at its end, if it has one there."""
    end = prompt.rstrip()
    opening = next((opening for opening, _ in PAIRS if end.endswith(opening)), "")
    return end.removesuffix(opening) if opening else prompt


def _pair_in(text: str) -> int | None:
    """The number of the pair of marks that stands in a text; None for none."""
    return next((number for number, (_, end) in enumerate(PAIRS) if end in text), None)


def _of_vocabulary(tokenizer: Tokenizer) -> ReasoningMarks | None:
    for number, pair in enumerate(PAIRS):
        if all(_token(tokenizer, mark) is not None for mark in pair):
            return _marks(tokenizer, number, is_in_template=False)
    return None


def _marks(
    tokenizer: Tokenizer,
    number: int,
    *,
    is_in_template: bool,
    answer: tuple[str, str] | None = None,
) -> ReasoningMarks:
    opening, closing = PAIRS[number]
    return ReasoningMarks(
        opening,
        closing,
        _control_token(tokenizer, opening),
        _control_token(tokenizer, closing),
        is_in_template,
        answer,
    )


def _control_token(tokenizer: Tokenizer, mark: str) -> int | None:
    token = _token(tokenizer, mark)
    return token if token is not None and tokenizer.is_control(token) else None


def _token(tokenizer: Tokenizer, mark: str) -> int | None:
    """The token that is a mark; None where several make it up."""
    tokens = tokenizer.encode(mark, add_bos=False, parse_special=True)
    return tokens[0] if len(tokens) == 1 and tokenizer.token_text(tokens[0]) == mark else None
