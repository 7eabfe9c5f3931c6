"""Marks that stand for the text of messages while a template runs.

They show which part of the output is a message's own, even if it looks like a control token.
``chat_tokens`` chooses the marks, and notices if a template behaves differently with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

MARKS = range(0xF0000, 0x110000)
"""Planes 15 and 16 of Unicode, for private use."""


class ContentMarks:
    """Private use characters that stand for text of messages while a template runs."""

    def __init__(self, control_texts: Sequence[str], given: object, template_source: str) -> None:
        """No mark is a character of what is given to the template, or of itself."""
        characters = set(template_source).union(*_strings(given))
        free = (mark for mark in map(chr, MARKS) if mark not in characters)
        longest_first = sorted(control_texts, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._control_marks = dict(zip(longest_first, free, strict=False))
        # White space stays, so that templates trim what they always trim.
        visible = sorted(character for character in characters if not character.isspace())
        by_character = dict(zip(visible, free, strict=False))
        punctuation = {c for text in control_texts for c in text if not c.isalnum()}
        self.of_characters = str.maketrans(by_character)
        self.of_punctuation = str.maketrans(
            {character: by_character[character] for character in punctuation & by_character.keys()}
        )
        shown = {mark: text for text, mark in (self._control_marks | by_character).items()}
        self._shown = str.maketrans(shown)

    def hide_control(self, message: Mapping[str, object]) -> dict[str, object]:
        """A message, or variables, with each control token's text, in any string, as one mark."""
        return {key: self._without_control(value) for key, value in message.items()}

    def hide_content(
        self, message: Mapping[str, object], characters: Mapping[int, str]
    ) -> dict[str, object]:
        """The same, with characters of the content as marks of their own."""
        content = str(message["content"]).translate(characters)
        return self.hide_control(message) | {"content": content}

    def show(self, text: str) -> str:
        """The text with each mark as what it stands for."""
        return text.translate(self._shown)

    def _without_control(self, value: object) -> object:
        if isinstance(value, str):
            return self._control_pattern.sub(lambda found: self._control_marks[found[0]], value)
        if isinstance(value, Mapping):
            # Names of properties and of arguments are as much a stranger's as other texts.
            return {
                self._without_control(key): self._without_control(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._without_control(item) for item in value]
        return value


def _strings(value: object) -> Iterator[str]:
    """Every string inside nested mappings, names too, and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in (*value, *value.values()):
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
