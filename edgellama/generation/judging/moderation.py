"""Llama Guard's judgement of a conversation: safe or not, what it violates, and how sure it is.

``guard_prompts`` knows how to ask a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.arguments import check_fits
from edgellama.generation.chat.messages import checked_messages, is_role
from edgellama.generation.concurrency.waiting_line import Turn
from edgellama.generation.decoding.logprobs import share
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.given_values import is_number
from edgellama.quant.records import dataclass
from edgellama.sampling.filters import Logits
from edgellama.text.guard_prompts import (
    ROLES,
    GuardPrompt,
    SafetyCategory,
    checked_categories,
)

if TYPE_CHECKING:
    from edgellama.engine.pages.text_cache import TextCache
    from edgellama.engine.text_engine import TextEngine
    from edgellama.generation.concurrency.waiting_line import WaitingLine
    from edgellama.text.tokenizer import Tokenizer

SAFE: Literal["safe"] = "safe"
UNSAFE: Literal["unsafe"] = "unsafe"
MAX_LINE_BREAKS = 4
"""Tokens of white space that a model may write before its verdict."""
MAX_CATEGORY_TOKENS = 64
_CODE = re.compile(r"[A-Z]{1,3}\d{1,3}")


@dataclass(frozen=True)
class Moderation:
    """Llama Guard's verdict on a message.

    ``verdict`` is "safe" or "unsafe". ``categories`` are the categories that the message violates.
    ``unsafe_probability``, from 0 to 1, is the probability that the model's answer begins with
    "unsafe" rather than "safe".

    Example:
        >>> from edgellama import Moderation
        >>> Moderation("safe", (), 0.02).is_safe
        True
    """

    verdict: Literal["safe", "unsafe"]
    categories: tuple[SafetyCategory, ...]
    unsafe_probability: float

    @property
    def is_safe(self) -> bool:
        """Whether the verdict is "safe"."""
        return self.verdict == SAFE


@dataclass(frozen=True)
class ModerationRequest:
    """A checked question: messages up to the one that is judged, whose it is, and by what."""

    messages: Sequence[Mapping[str, object]]
    judged: str
    categories: tuple[SafetyCategory, ...] | None
    threshold: float

    @classmethod
    def of(
        cls, conversation: object, role: object, categories: object, threshold: Any
    ) -> ModerationRequest:
        """What a caller gave; InvalidOptionError for anything malformed."""
        if isinstance(conversation, str):
            conversation = [{"role": "user", "content": conversation}]
        messages = [
            message
            for message in checked_messages(conversation)  # type: ignore[arg-type]
            if message["role"] in ROLES
        ]
        if role is not None and not (isinstance(role, str) and role in ROLES):
            raise InvalidOptionError(
                f"role is {role!r:.80}; allowed: {', '.join(ROLES)}, or None for the last message's"
            )
        while role is not None and messages and not is_role(messages[-1], str(role)):
            messages.pop()
        if not messages:
            whose = "a user or an assistant" if role is None else f"the {role}"
            raise InvalidOptionError(f"the conversation has no message of {whose} to judge")
        if not is_number(threshold) or not 0 <= threshold <= 1:
            raise InvalidOptionError(f"threshold is {shown(threshold)}; allowed: 0 to 1")
        return cls(
            messages,
            messages[-1]["role"],
            checked_categories(categories),
            float(threshold),
        )


class Judging(Iterator[Moderation]):
    """One judgement, computed when it is asked for; any thread may cancel it."""

    def __init__(
        self,
        engine: TextEngine,
        tokenizer: Tokenizer,
        prompt: GuardPrompt,
        threshold: float,
        context_length: int,
        line: WaitingLine,
    ) -> None:
        """ContextLengthError for a prompt that does not fit. It waits for its turn in ``line``."""
        check_fits(prompt.tokens, context_length)
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._threshold = threshold
        room = MAX_LINE_BREAKS + MAX_CATEGORY_TOKENS
        self._context_length = min(context_length, len(prompt.tokens) + room)
        self._cancel = CancelToken()
        self._turn = Turn(line)
        self.gives_way = engine.low_priority
        self._is_over = False

    def __next__(self) -> Moderation:
        if self._is_over:
            raise StopIteration
        self._is_over = True
        with (
            self._turn.taken(self._cancel),
            closing(self._engine.new_cache(self._context_length)) as cache,
        ):
            answer = _Answer(self._engine, self._tokenizer, cache, self._cancel)
            probability, first = answer.verdict(self._prompt)
            if probability < self._threshold:
                return Moderation(SAFE, (), probability)
            return Moderation(UNSAFE, answer.categories(self._prompt, first), probability)

    def cancel(self) -> None:
        """Ask for the end; the waiting call then raises GenerationCancelled."""
        self._cancel.cancel()

    def close(self) -> None:
        """Nothing is held between calls."""


@dataclass
class _Answer:
    """An answer that is computed token by token."""

    engine: TextEngine
    tokenizer: Tokenizer
    cache: TextCache
    cancel: CancelToken

    def verdict(self, prompt: GuardPrompt) -> tuple[float, int]:
        """The probability of "unsafe", and the token that begins it most probably."""
        begins = self.tokenizer.derived(beginnings)
        logits = self._after(prompt.tokens[self.cache.reuse(prompt.tokens) :])
        for _ in range(MAX_LINE_BREAKS):
            best = int(logits.argmax())
            if not self._is_blank(best) or self.cache.length >= self.cache.context_length:
                break
            logits = self._after([best])
        safe, unsafe = begins
        return share(logits, unsafe, safe), unsafe[int(logits[unsafe].argmax())]

    def categories(self, prompt: GuardPrompt, first: int) -> tuple[SafetyCategory, ...]:
        """What the model names behind the verdict that begins with the token ``first``."""
        tokens = [first]
        while len(tokens) < MAX_CATEGORY_TOKENS and self.cache.length < self.cache.context_length:
            best = int(self._after(tokens[-1:]).argmax())
            if best in self.tokenizer.special.end_of_generation:
                break
            tokens.append(best)
        codes = _CODE.findall(self.tokenizer.decode(tokens, continuation=True))
        known = {category.code: category for category in prompt.categories}
        return tuple(known[code] for code in dict.fromkeys(codes) if code in known)

    def _after(self, tokens: Sequence[int]) -> Logits:
        logits: Logits = self.engine.forward(tokens, self.cache, cancelled=self.cancel)[0]
        return logits

    def _is_blank(self, token: int) -> bool:
        data = self.tokenizer.token_bytes(token)
        return bool(data) and not data.strip()


def beginnings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens that begin "safe", and those that begin "unsafe", behind a space or none.

    UnsupportedModelError for a vocabulary that cannot write them.
    """
    rows: tuple[list[int], list[int]] = ([], [])
    for token in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token).removeprefix(b" ")
        for row, word in zip(rows, (SAFE, UNSAFE), strict=True):
            if data and word.encode().startswith(data):
                row.append(token)
    if not all(rows):
        raise UnsupportedModelError('the vocabulary has no token that begins "safe" or "unsafe"')
    return rows
