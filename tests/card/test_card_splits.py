"""Where keys are cut for a card, and what that must be for the kernels."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgellama.engine.card.splits import (
    FULL,
    PREFILL_SPLITS_AT_MOST,
    SMALLEST_PREFILL_SPLIT,
    count_parts,
)

BLOCKS = st.integers(1, 4096)


@given(BLOCKS, st.integers(1, 200_000), st.integers(8, 600))
def test_parts_are_worth_their_while(num_blocks: int, num_keys: int, num_places: int) -> None:
    """A full card gets no more parts, and no part is short; results fit twice the places."""
    parts = count_parts(num_blocks, num_keys, num_places)
    assert 1 <= parts <= PREFILL_SPLITS_AT_MOST
    if num_blocks >= FULL * num_places:
        assert parts == 1
    if parts > 1:
        assert num_keys // parts >= SMALLEST_PREFILL_SPLIT
        assert num_blocks * parts <= 2 * num_places


@given(BLOCKS, st.integers(8, 600))
def test_longer_texts_have_no_fewer_parts_while_places_are_empty(
    num_blocks: int, num_places: int
) -> None:
    """As long as all parts together leave a round of the card unfilled, more keys mean more."""
    lengths = [count_parts(num_blocks, keys, num_places) for keys in range(512, 40_000, 512)]
    for few, more in pairwise(lengths):
        assert more >= few or num_blocks * few > num_places


def test_a_short_piece_behind_many_keys_fills_the_card() -> None:
    """One tile of eight KV heads, as a chat's next turn has, uses most places of usual cards."""
    for num_multiprocessors in (16, 24, 46, 84, 132):
        places = 2 * num_multiprocessors
        blocks = 8 * count_parts(8, 30_000, places)
        assert blocks >= 0.8 * places
