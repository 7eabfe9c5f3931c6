"""Words of millions of characters: merged window by window, into what all at once would give."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from harness.traced_memory import traced_peak
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.text.tokenizer import byte_pair_merge, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import BytePairMerger, byte_symbols

LETTERS = b"abcd"
TABLE = byte_symbols()


def letters_merger(merges: list[bytes]) -> BytePairMerger:
    """A merger of these merges, whose joins are all tokens."""
    joins = dict.fromkeys(merge.replace(b" ", b"") for merge in merges)
    return BytePairMerger(joins, lambda: merges)


def merges_of(seed: int, number: int, shuffle: bool) -> list[bytes]:
    """Random merges, each of two symbols that there are before it; shuffled, they are no order."""
    generator = random.Random(seed)
    known = [bytes([letter]) for letter in LETTERS]
    merges: list[bytes] = []
    for _ in range(number):
        left, right = generator.choice(known), generator.choice(known)
        if left + b" " + right not in merges:
            merges.append(left + b" " + right)
            known.append(left + right)
    if shuffle:
        generator.shuffle(merges)
    return merges


@pytest.mark.parametrize("width", [1, 2, 5, 16])
@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.booleans(),
    st.lists(st.sampled_from(LETTERS), max_size=120).map(bytes),
)
def test_windows_give_what_all_at_once_gives(
    width: int, seed: int, number: int, shuffle: bool, text: bytes
) -> None:
    """For any merges and any text, however narrow the windows are."""
    merger = letters_merger(merges_of(seed, number, shuffle))
    expected = merger.merge([TABLE[byte] for byte in text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_pair_merge, "MAX_SYMBOLS_AT_ONCE", width)
        assert merger.merge_giant(text, TABLE) == expected


@pytest.mark.parametrize("length", [50, 400])
def test_what_comes_last_may_decide_what_comes_first(length: int) -> None:
    """Where each merge comes before the one to its left, the last pair decides all others."""
    chain = bytes(range(33, 33 + 90))
    merges = [b"%c %c" % pair for pair in pairwise(chain)][::-1]
    merger = letters_merger(merges)
    for text in (chain, chain[:-1], (chain + chain[:-1]) * (length // 50)):
        expected = merger.merge([TABLE[byte] for byte in text])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(byte_pair_merge, "MAX_SYMBOLS_AT_ONCE", 8)
            assert merger.merge_giant(text, TABLE) == expected


def test_a_giant_word_takes_little_memory() -> None:
    """Of 300,000 letters the memory is that of the result and of some thousands."""
    merger = letters_merger(merges_of(1, 60, False))
    text = bytes(random.Random(1).choices(LETTERS, k=300_000))
    merger.merge_giant(text[:50_000], TABLE)
    with traced_peak() as peak:
        merged = merger.merge_giant(text, TABLE)
    assert b"".join(merged) == text
    assert peak.num_bytes < 16 * len(merged) + 5_000_000


def test_what_nobody_wants_any_more_is_given_up() -> None:
    """The check is called before each window; what it raises ends all, and the next text begins."""
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": ["a", "b", "ab"],
            "tokenizer.ggml.token_type": [1] * 3,
            "tokenizer.ggml.merges": ["a b"],
        }
    )
    text = "ab" * byte_pair_merge.MAX_SYMBOLS_AT_ONCE
    num_checks = 0

    def check() -> None:
        nonlocal num_checks
        num_checks += 1
        if num_checks == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError), tokenizer.checked_by(check):
        tokenizer.encode(text)
    assert tokenizer.encode(text) == [2] * byte_pair_merge.MAX_SYMBOLS_AT_ONCE
    assert num_checks == 3
