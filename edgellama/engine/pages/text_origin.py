"""Everything besides its tokens that decides the keys and values of a text.

That is the hooks of its tokens, its adapters, and the length of a prompt whose positions are scaled
by it. The holders of keys and values decide what to forget when one of these changes.
"""

from __future__ import annotations

from edgellama.engine.weights.adapter_set import AdapterSet

SEVERAL_ORIGINS = b"several origins"
"""What a text was begun with whose tokens were computed with different hooks: like no other."""


class TextOrigin:
    """What the tokens of one text are computed with.

    ``begun_with`` stands for the hooks at its first token. ``dynamic_from``: prompts of more tokens
    are turned by their own length; None: no prompt is. ``prompt_length`` is that of its prompt.
    """

    __slots__ = ("_dynamic_from", "adapters", "begun_with", "prompt_length")

    def __init__(self, begun_with: bytes, adapters: AdapterSet, dynamic_from: int | None) -> None:
        self.begun_with = begun_with
        self.adapters = adapters
        self.prompt_length = 0
        self._dynamic_from = dynamic_from

    def copy(self) -> TextOrigin:
        """Another text's, which has been computed with the same so far."""
        other = TextOrigin(self.begun_with, self.adapters, self._dynamic_from)
        other.prompt_length = self.prompt_length
        return other

    def keeps_turn(self, prompt_length: int) -> bool:
        """Whether a prompt of this length is turned as the one here is."""
        return self._turned_for(prompt_length) == self._turned_for(self.prompt_length)

    def go_on(self, now: bytes, *, has_tokens: bool) -> None:
        """Count tokens that were computed under the hooks ``now``."""
        is_another = has_tokens and self.begun_with != now
        self.begun_with = SEVERAL_ORIGINS if is_another else now

    @property
    def first_key(self) -> bytes:
        """All of it, as it stands before the key of the text's first page."""
        turned_for = self._turned_for(self.prompt_length)
        turn = turned_for.to_bytes(8, "little") if turned_for else b""
        return self.begun_with + self.adapters.origin + turn

    def _turned_for(self, prompt_length: int) -> int:
        """The length that a prompt's keys are turned by; 0 if it does not matter."""
        is_beyond = self._dynamic_from is not None and prompt_length > self._dynamic_from
        return prompt_length if is_beyond else 0
