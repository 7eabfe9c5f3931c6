"""Texts with guesses that are right as often as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.results import Generation
from edgellama.generation.speculation.drafter import Drafter
from edgellama.generation.text_request import Request
from edgellama.text.tokenizer import Tokenizer


@dataclass
class Oracle:
    """Knows the text, and guesses each of its tokens right with probability ``hits``."""

    text: Sequence[int]
    hits: float
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    lengths: list[int] = field(default_factory=list)

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Some of the text's next tokens, up to ``most``."""
        count = int(self.rng.integers(0, most + 1)) if most else 0
        coming = list(self.text[len(tokens) : len(tokens) + count])
        self.lengths.append(len(coming))
        return [
            token if self.rng.random() < self.hits else int(self.rng.integers(0, 288))
            for token in coming
        ]


def decode(
    made: tuple[Engine, Tokenizer], request: Request, drafter: Drafter | None, length: int = 700
) -> tuple[Generation, list[int | None], list[int]]:
    """The result, the tokens of its chunks, and what the cache holds in the end."""
    engine, tokenizer = made
    cache = engine.new_cache(length)
    decoding = Decoding(engine, tokenizer, cache, request, CancelToken(), drafter)
    chunks = list(decoding.steps())
    result = decoding.result()
    assert "".join(chunk.text for chunk in chunks) == result.text
    return result, [chunk.token for chunk in chunks], list(cache.tokens)
