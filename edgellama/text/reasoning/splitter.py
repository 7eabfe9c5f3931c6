"""Divides a growing text into what the model thinks and what it says.

The text may come in pieces of any size, and marks may be tokens without text. The caller gives the
marks, and says whether the prompt has opened thinking already.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from edgellama.text.reasoning.answer_tags import AnswerTags
from edgellama.text.reasoning.marks import ReasoningMarks
from edgellama.text.stop_strings import num_begun

BETWEEN_THOUGHTS = "\n\n"
"""Between the thinking of several places of one text."""


class Parted(NamedTuple):
    """What a piece of text adds to the thinking and to the answer."""

    reasoning: str
    text: str

    def joined(self, later: Parted) -> Parted:
        """Both additions as one."""
        return Parted(self.reasoning + later.reasoning, self.text + later.text)


class ReasoningSplitter:
    """Takes pieces of one text, and gives thinking and answer without marks and what is around.

    Marks that are written as text count at the beginning alone, so that an answer may speak of
    them; those that are tokens count everywhere. Thinking that nothing closes goes on to the end.
    White space next to marks belongs to neither.

    Example:
        >>> from edgellama.text.reasoning.marks import ReasoningMarks
        >>> from edgellama.text.reasoning.splitter import ReasoningSplitter
        >>> splitter = ReasoningSplitter(ReasoningMarks("<think>", "</think>"))
        >>> splitter.feed("<think>Easy."), splitter.feed("</think>\\n\\nFour.")
        (Parted(reasoning='Easy.', text=''), Parted(reasoning='', text='Four.'))
    """

    def __init__(
        self, marks: ReasoningMarks, *, is_open: bool = False, is_begun: bool = False
    ) -> None:
        """``is_open``: thinking has begun before the text, ``is_begun``: and has some words."""
        self._marks = marks
        self._place: Literal["start", "thinking", "behind", "answer"] = "start"
        self._held = ""
        self._is_fresh = True
        self._has_thought = False
        self._tags: AnswerTags | None = None
        if is_open:
            self._begin()
        if is_begun:
            self._is_fresh, self._has_thought = False, True

    @property
    def is_thinking(self) -> bool:
        """Whether thinking is open."""
        return self._place == "thinking"

    @property
    def has_thought(self) -> bool:
        """Whether there are words of thinking."""
        return self._has_thought

    @property
    def is_answering(self) -> bool:
        """Whether the answer has begun, which no mark that is text ends."""
        return self._place == "answer"

    def feed(self, text: str) -> Parted:
        """What is certain after the next piece of text."""
        if self._place == "answer":
            return Parted("", self._answered(text))
        self._held += text
        reasoning = ""
        while True:
            if self._place == "thinking":
                reasoning += self._thought()
                if self._place == "thinking":
                    return Parted(reasoning, "")
            begun = self._held.lstrip()
            if begun.startswith(self._marks.opening):
                self._held = begun[len(self._marks.opening) :]
                self._begin()
            elif self._marks.opening.startswith(begun):
                return Parted(reasoning, "")
            else:
                if self._place == "behind" and self._marks.answer is not None:
                    self._tags = AnswerTags(self._marks.answer)
                text = self._held if self._place == "start" else begun
                self._place, self._held = "answer", ""
                return Parted(reasoning, self._answered(text))

    def mark(self, token: int) -> Parted | None:
        """What a token tells that is a mark and has no text; None for every other token."""
        if token not in self._marks.tokens:
            return None
        told = self.finish()
        if token == self._marks.opening_token:
            self._begin()
        elif self._place == "thinking":
            self._place = "behind"
        return told

    def finish(self) -> Parted:
        """What was held back, when no more text will come."""
        held, self._held = self._held, ""
        if self._place == "thinking":
            return Parted(self._joined(held.rstrip()), "")
        rest = "" if self._tags is None else self._tags.finish()
        return Parted("", rest + (held.lstrip() if self._place == "behind" else held))

    def _answered(self, text: str) -> str:
        return text if self._tags is None else self._tags.feed(text)

    def _begin(self) -> None:
        self._place, self._is_fresh = "thinking", True

    def _thought(self) -> str:
        """As much of what is held as is thinking; what closes it is taken away, too."""
        marks = self._marks
        if self._is_fresh:
            begun = self._held.lstrip()
            # Some models write the opening mark again that the prompt ends with.
            while begun.startswith(marks.opening):
                begun = begun[len(marks.opening) :].lstrip()
            self._held = begun
            if marks.opening.startswith(begun):
                return ""
        end = self._held.find(marks.closing)
        if end >= 0:
            thought, self._held = self._held[:end], self._held[end + len(marks.closing) :]
            self._place = "behind"
            return self._joined(thought.rstrip())
        certain = self._held[: len(self._held) - num_begun(self._held, (marks.closing,))].rstrip()
        self._held = self._held[len(certain) :]
        return self._joined(certain)

    def _joined(self, thought: str) -> str:
        """A piece of thinking, joined to what was thought before."""
        if not thought:
            return ""
        is_later = self._is_fresh and self._has_thought
        self._is_fresh, self._has_thought = False, True
        return BETWEEN_THOUGHTS + thought if is_later else thought
