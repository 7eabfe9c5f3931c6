"""The tokens of one text as it grows: appended, forced by what came before, taken back.

The text's words, choice and end are told of each. ``decoding`` chooses tokens and computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgellama.generation.decoding.text_assembly import TextAssembly
from edgellama.generation.decoding.text_end import TextEnd
from edgellama.generation.decoding.token_choice import TokenChoice
from edgellama.generation.results import Chunk

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.text.tokenizer import Tokenizer


class GrowingText:
    """``history`` is the prompt and the text so far; ``words`` is the text as strings.

    ``end`` knows whether it is reached. ``room``: tokens that prompt and text may have together.
    """

    def __init__(
        self, tokenizer: Tokenizer, request: Request, choice: TokenChoice, end: TextEnd, room: int
    ) -> None:
        self.history = list(request.prompt)
        self.end = end
        self.words = TextAssembly(
            tokenizer,
            request.stop,
            continuation=request.continuation,
            min_tokens=request.sampling.min_tokens,
            banned=request.banned,
            calls=request.calls,
            reasoning=request.reasoning,
        )
        self._choice = choice
        self._num_prompt_tokens = len(request.prompt)
        self._max_tokens = request.max_tokens
        self._room = room
        self._opening: list[Chunk] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of the text so far."""
        return len(self.history) - self._num_prompt_tokens

    def is_over(self) -> bool:
        """Whether the last token was the last one."""
        return self.end.check(self.num_tokens, len(self.history))

    def append(self, token: int) -> Sequence[Chunk]:
        """Let a token, chosen or certain anyway, be the text's next one.

        If a banned string is complete then, the text goes back to the token at which it begins,
        which cannot be chosen there again.
        """
        history = self.history
        history.append(token)
        self._choice.note(token)
        added = self.words.add(token)
        if added.is_stopped:
            self.end.reach("stop")
        elif added.num_dropped:
            place = len(history) - added.num_dropped
            self._choice.refuse(place, history[place])
        if added.num_dropped:
            self._drop(added.num_dropped)
        return self._choice.with_logprobs(added.chunks)

    def append_opening(self) -> None:
        """Let the prompt go on with what must follow it anyway, but for what may end the text."""
        certain = self._choice.certain()[:-1]
        if not certain:
            return
        room = self._room - len(self.history)
        if self._max_tokens is not None:
            room = min(room, self._max_tokens - 1)
        for token in certain[: max(0, room)]:
            length = len(self.history)
            self._opening += self.append(token)
            if self.end.is_reached or len(self.history) <= length:
                break

    def take_opening(self) -> list[Chunk]:
        """Chunks of what the prompt went on with, once."""
        opening, self._opening = self._opening, []
        return opening

    def append_forced(self) -> Iterator[Chunk]:
        """Append what must follow the last token, as far as there is room for it."""
        for token in self._choice.certain():
            length = len(self.history)
            if self.is_over() or self._choice.is_refused(length, token):
                return
            yield from self.append(token)
            if len(self.history) <= length:
                return
        if not self.end.is_reached and self._choice.is_finished:
            self.end.reach("stop")

    def finish(self) -> list[Chunk]:
        """What was still held back, at the end."""
        added = self.words.finish()
        if added.is_stopped:
            self.end.reach("stop")
        self._drop(added.num_dropped)
        return [*self.take_opening(), *self._choice.with_logprobs(added.chunks)]

    def _drop(self, num_tokens: int) -> None:
        del self.history[len(self.history) - num_tokens :]
        self._choice.take_back(num_tokens)
