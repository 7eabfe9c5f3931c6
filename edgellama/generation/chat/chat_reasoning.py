"""Thinking in chats: what the template is told, how prompts end, how replies begin.

``edgellama.text.reasoning`` knows the marks, and separates thinking from text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from edgellama.generation.chat.messages import REASONING, Message, is_role
from edgellama.text.reasoning.expected import (
    ExpectedReasoning,
    Mark,
    ReasoningWish,
    encoded_parts,
    ends_with,
    expected_behind,
    expected_within,
)
from edgellama.text.reasoning.marks import USUAL_MARKS, ReasoningMarks, reasoning_marks

if TYPE_CHECKING:
    from edgellama.text.chat_template import ChatTemplate
    from edgellama.text.tokenizer import Tokenizer

TEMPLATE_NAMES = ("reasoning_content", "reasoning", "thinking")
"""What templates call the thinking of a message."""


BegunReply: TypeAlias = "tuple[str, Sequence[str | Mark]]"


class ChatReasoning:
    """What a tokenizer and a template make of thinking."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template

    @property
    def reserved(self) -> str:
        """What no text of an answer begins with; nothing where marks are tokens of their own."""
        marks = self.marks("auto")
        return marks.opening if marks is not None and marks.opening_token is None else ""

    def marks(self, wish: ReasoningWish) -> ReasoningMarks | None:
        """The marks of the model; None for a model that has none, unless they are wished for."""
        found = reasoning_marks(self._tokenizer, self._template.source)
        return USUAL_MARKS if found is None and wish == "split" else found

    def variables(self, wish: ReasoningWish, given: Mapping[str, object]) -> dict[str, object]:
        """The template's variables about thinking, beside those of the user."""
        if not isinstance(wish, bool):
            return dict(given)
        return {**dict.fromkeys(self._template.thinking_variables, wish), **given}

    def for_template(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with earlier thinking as the template takes it: most leave it out."""
        if not any(REASONING in message for message in messages):
            return messages
        source = self._template.source
        names = [name for name in TEMPLATE_NAMES if re.search(rf"""[.'"]{name}\b""", source)]
        return [_renamed(message, names) for message in messages]

    def ended(
        self, prompt: list[int], marks: ReasoningMarks | None, wish: ReasoningWish
    ) -> list[int]:
        """The prompt with its end as it is wished for: inside thinking, or behind it."""
        if marks is None or not isinstance(wish, bool):
            return prompt
        is_open = ends_with(self._tokenizer, prompt, marks.opening)
        # A template with a variable for thinking writes the mark itself; a token of the vocabulary
        # alone does not show that the model thinks.
        is_ours = marks.is_in_template and not self._template.thinking_variables
        parts: Sequence[str | Mark] = ()
        if wish and is_ours and not is_open:
            parts = (Mark.OPENING, "\n")
        elif not wish and is_open:
            parts = ("\n", Mark.CLOSING, "\n\n")
        elif not wish and is_ours and not ends_with(self._tokenizer, prompt, marks.closing):
            parts = (Mark.OPENING, "\n\n", Mark.CLOSING, "\n\n")
        return [*prompt, *encoded_parts(self._tokenizer, marks, parts)]

    def carried_on(self, prompt: list[int], marks: ReasoningMarks, begun: BegunReply) -> list[int]:
        """The prompt of a reply with all that it has thought and said already.

        It is written behind ``prompt``, as templates cut thinking out of a message's text.
        """
        thought, behind = begun
        parts: Sequence[str | Mark] = (Mark.OPENING, "\n", thought, *behind)
        if ends_with(self._tokenizer, prompt, marks.opening):
            parts = (thought, *behind)
        elif behind and ends_with(self._tokenizer, prompt, marks.closing):
            parts = (str(behind[-1]).lstrip("\n"),)
        return [*prompt, *encoded_parts(self._tokenizer, marks, parts)]

    def expected(
        self,
        messages: Sequence[Message],
        prompt: Sequence[int],
        wish: ReasoningWish,
        *,
        goes_on: bool,
    ) -> ExpectedReasoning | None:
        """The thinking that a reply may have; ``goes_on``: it carries on the last message."""
        marks = self.marks(wish)
        if marks is None:
            return None
        if wish == "raw":
            return ExpectedReasoning(marks, is_raw=True)
        last = messages[-1]
        if not goes_on:
            return expected_behind(self._tokenizer, marks, prompt)
        if not is_role(last, "assistant"):
            return None
        if REASONING in last and not last["content"]:
            return ExpectedReasoning(marks, is_open=True, is_begun=True)
        return expected_within(marks, last["content"])


def begun_reply(marks: ReasoningMarks, message: Message) -> BegunReply | None:
    """The thought of a reply, and what follows it; None for one that does not begin with any."""
    content = message["content"]
    if REASONING in message:
        return message["reasoning"], ("\n", Mark.CLOSING, "\n\n", content) if content else ()
    text = content.lstrip()
    if marks.opening_token is not None or not text.startswith(marks.opening):
        return None
    thought, closing, said = text.removeprefix(marks.opening).partition(marks.closing)
    return thought.removeprefix("\n"), (Mark.CLOSING, said) if closing else ()


def _renamed(message: Message, names: Sequence[str]) -> Message:
    own: dict[str, Any] = {key: value for key, value in message.items() if key != REASONING}
    if REASONING in message:
        own |= dict.fromkeys(names, message["reasoning"])
    return cast("Message", own)
