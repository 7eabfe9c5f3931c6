"""Cuts a segment's work on a card: its keys, so that blocks fill the card, and its launches.

In segments of a few tokens, each token's keys are cut by the token's own position. If a prompt has
too few tiles for the card's multiprocessors (a short piece behind many keys), its keys are cut too.
This depends only on the segment and the card, never on other texts in the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from edgellama.cuda.cards import Card
from edgellama.cuda.layouts import TILE_ROWS, count_tiles, row_parts
from edgellama.engine.card.attention import NO_BOUND
from edgellama.engine.steps.segments import Segment
from edgellama.kernels_cpu.layouts import ALL_KEYS, PAGE_POSITIONS, round_up
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

SMALLEST_SPLIT = 128
"""Keys of one part of a token's at least: a warp's work, of which a card wants hundreds at once."""
SPLITS_AT_MOST = 64
"""Parts of a token's from which on they are longer instead."""
SMALLEST_PREFILL_SPLIT, PREFILL_SPLITS_AT_MOST = 512, 32
"""The same of a prompt's: a block's work, beside which leaving and merging results is little."""
FULL = 0.8
"""The share of a card's places for blocks from which on nothing is gained by more of them."""
NEARLY = 0.85
"""The share of the best use of a card that is as good, if it takes fewer parts."""

LAUNCH_SECONDS = 0.5
"""Of a launch at most on a card that is watched: Windows ends it after two."""
SLOWEST: Mapping[str, float] = MappingProxyType(
    {"card_attend_many": 150e9, "card_attend_many_turing": 40e9, "card_attend_many_plain": 20e9}
)
"""Operations that a multiprocessor does in a second at least: a third of what the slowest cards
might, by kernel; those of Turing without tensor cores run its kernel, too."""


def split_keys_at(position: int) -> int:
    """Keys of one part for the token at ``position``, the next power of two for long contexts."""
    split = SMALLEST_SPLIT
    while position >= split * SPLITS_AT_MOST:
        split *= 2
    return split


@dataclass(frozen=True)
class PrefillSplits:
    """How prompts are cut for a model on a card with room for ``num_places`` blocks at once."""

    config: ModelConfig
    num_places: int

    def split_keys(self, segment: Segment) -> int:
        """Keys of one part; ALL_KEYS where they are not cut."""
        group = self.config.heads_per_group
        tiles = count_tiles(segment.num_tokens, group)
        blocks = tiles * self.config.head_count_kv * row_parts(group)
        end = segment.position + segment.num_tokens
        num_keys = min(end, segment.cache.window + segment.num_tokens)
        parts = count_parts(blocks, num_keys, self.num_places)
        if parts == 1:
            return ALL_KEYS
        return round_up(-(-num_keys // parts), PAGE_POSITIONS)


def blocks_at_once(config: ModelConfig, num_keys: int, card: Card, kernel: Kernel) -> int:
    """Blocks in a row of a launch of a kernel for many tokens, each over up to ``num_keys`` keys.

    Where the system ends what takes seconds, no launch takes so long, however slow the card.
    """
    if not card.has_time_limit:
        return NO_BOUND
    rows = TILE_ROWS * row_parts(config.heads_per_group) * config.head_count_kv
    work = 4.0 * rows * num_keys * config.head_size
    rate = SLOWEST[kernel.family] * card.num_multiprocessors
    return max(1, int(LAUNCH_SECONDS * rate / work))


def count_parts(num_blocks: int, num_keys: int, num_places: int) -> int:
    """Parts of ``num_keys`` keys for each of ``num_blocks`` blocks.

    As few as nearly the best use of the card takes, whose last blocks leave places empty.

    >>> count_parts(8, 30_000, 48), count_parts(8, 30_000, 264), count_parts(256, 30_000, 264)
    (6, 28, 1)
    """
    most = min(
        num_keys // SMALLEST_PREFILL_SPLIT, PREFILL_SPLITS_AT_MOST, 2 * num_places // num_blocks
    )
    if num_blocks >= FULL * num_places or most < 2:
        return 1
    rounds = [num_blocks * parts / num_places for parts in range(1, most + 1)]
    uses = [number / math.ceil(number) for number in rounds]
    enough = NEARLY * max(uses)
    return 1 + next(index for index, use in enumerate(uses) if use >= enough)
