"""Where the keys of one token are cut into parts, which threads attend at the same time.

That depends only on the token's position, so results depend on nothing else in a step.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, count_splits

SMALLEST_SPLIT = 512
"""Keys of one part where a token's keys are split: enough to be worth handing out."""
SPLITS_AT_MOST = 64
"""Parts from which on they are longer instead."""
MAX_TOKEN_SPLITS = PAGE_POSITIONS * (SPLITS_AT_MOST + 1)
"""Parts of the keys of all tokens of a step together: what there is room for, those of a page of
any text at least."""


def split_keys_at(position: int) -> int:
    """Keys of one part for the token at ``position``, the next power of two for long contexts."""
    split = SMALLEST_SPLIT
    while position >= split * SPLITS_AT_MOST:
        split *= 2
    return split


def most_split_tokens(position: int, num_tokens: int, window: int, room: int) -> int:
    """How many of ``num_tokens`` from ``position`` on have ``room`` for the parts of their keys."""
    splits = count_splits(position, num_tokens, split_keys_at(position), window)
    return num_tokens if splits <= 1 else min(num_tokens, room // splits)
