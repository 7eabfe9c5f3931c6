"""DRY against its author's own loop in plain words, and where its sequences end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.dry import (
    LONGEST,
    GrowingTokens,
    repeated_lengths,
    repetition_penalties,
)
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler
from edgellama.text.sequence_breakers import SequenceBreakers
from edgellama.text.tokenizer import load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

VOCAB_SIZE = 6
HISTORIES = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40)
BREAKERS = st.frozensets(st.integers(0, VOCAB_SIZE - 1), max_size=2)


def naive_lengths(history: Sequence[int], breakers: frozenset[int]) -> dict[int, int]:
    """The loop of DRYLogitsProcessor in text-generation-webui's pull request 5677."""
    lengths: dict[int, int] = {}
    if not history or history[-1] in breakers:
        return lengths
    for i in range(len(history) - 1):
        next_token = history[i + 1]
        if history[i] != history[-1] or next_token in breakers:
            continue
        length = 1
        while i - length >= 0:
            previous = history[-(length + 1)]
            if history[i - length] != previous or previous in breakers:
                break
            length += 1
        lengths[next_token] = max(length, lengths.get(next_token, 0))
    return lengths


@settings(deadline=None)
@given(HISTORIES, BREAKERS)
def test_lengths_are_those_of_the_naive_loop(history: list[int], breakers: frozenset[int]) -> None:
    """For every token: how much of the text's end it has followed before."""
    broken = np.array([token in breakers for token in history], dtype=np.bool_)
    found = repeated_lengths(np.array(history, dtype=np.int64), broken)
    expected = naive_lengths(history, breakers)
    assert found == expected
    some = repeated_lengths(np.array(history, dtype=np.int64), broken, 2, 4)
    assert some == {token: min(n, 4) for token, n in expected.items() if n >= 2}


@settings(deadline=None)
@given(
    HISTORIES.filter(len),
    BREAKERS,
    st.sampled_from([0.0, 0.8, 3.0]),
    st.sampled_from([1.0, 1.75, 4.0]),
    st.integers(1, 4),
    st.sampled_from([-1, 0, 1, 5, 20]),
)
def test_penalties_are_the_published_ones(
    history: list[int],
    breakers: frozenset[int],
    multiplier: float,
    base: float,
    allowed_length: int,
    last_n: int,
) -> None:
    """A greedy sampler takes the best token after multiplier * base ** (length - allowed)."""
    rng = np.random.default_rng(len(history))
    logits = rng.normal(0, 3, VOCAB_SIZE).astype(np.float32)
    before = logits.copy()
    expected = logits.copy()
    window = [] if last_n == 0 else history if last_n < 0 else history[-last_n:]
    for token, length in naive_lengths(window, breakers).items():
        if length >= allowed_length:
            expected[token] -= np.float32(multiplier * base ** (length - allowed_length))
    options = SamplingOptions(
        temperature=0,
        dry_multiplier=multiplier,
        dry_base=base,
        dry_allowed_length=allowed_length,
        dry_last_n=last_n,
    )
    sampler = Sampler(options, breaks=breakers.__contains__)
    assert sampler(logits, history) == int(expected.argmax())
    np.testing.assert_array_equal(logits, before)


def test_long_repetitions_are_counted_to_a_limit() -> None:
    """With the smallest base, too, so that no prompt makes a choice slow; no token is lost."""
    history = np.zeros(100_000, np.int64)
    history[50_000] = 1
    calm = np.zeros(len(history), np.bool_)
    wanted = {"multiplier": 1.0, "base": 1.001, "allowed_length": 2}
    tokens, losses = repetition_penalties(history, calm, **wanted)  # type: ignore[arg-type]
    assert sorted(tokens.tolist()) == [0, 1]
    assert losses == pytest.approx(np.full(2, 1.001**LONGEST), rel=1e-6)


def test_a_loop_is_left() -> None:
    """Where the likeliest token is always that of a loop, the text leaves it soon."""
    sampler = Sampler(SamplingOptions(temperature=0, dry_multiplier=0.8))
    history = [0, 1, 2]
    for _ in range(60):
        logits = np.full(5, -1.0, np.float32)
        logits[(history[-1] + 1) % 3] = 9.0
        logits[4] = 4.0
        history.append(sampler(logits, history))
    assert 4 in history[3:16]


def test_a_very_long_repetition_does_not_overflow() -> None:
    """After thousands of equal tokens the penalty is finite and the token is not chosen."""
    options = SamplingOptions(temperature=0, dry_multiplier=1.0, dry_base=9.0)
    logits = np.array([1e4, 0.0], dtype=np.float32)
    assert Sampler(options)(logits, [0] * 5000) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("multiplier", [5e-324, 1e-300, 1e9])
@pytest.mark.parametrize("base", [1.0, 1 + 2**-52, 1.75, 1e9])
def test_every_allowed_penalty_is_a_number(multiplier: float, base: float) -> None:
    """Neither the least multiplier nor the largest base overflows."""
    options = SamplingOptions(temperature=0, dry_multiplier=multiplier, dry_base=base)
    assert Sampler(options)(np.array([1.0, 0.0], dtype=np.float32), [0] * 500) in (0, 1)


def test_end_tokens_are_never_weakened() -> None:
    """Neither penalty keeps a text from ending as earlier ones did."""
    logits = np.array([0.0, 0.9, 1.0, 0.8], dtype=np.float32)
    history = [0, 1, 2, 0, 1]
    for options in (
        SamplingOptions(temperature=0, repeat_penalty=2.0),
        SamplingOptions(temperature=0, repeat_penalty=2.0, repeat_last_n=-1),
        SamplingOptions(temperature=0, dry_multiplier=5.0),
    ):
        assert Sampler(options, end_tokens={2})(logits, history) == 2
        assert Sampler(options)(logits, history) != 2


@given(st.lists(HISTORIES, max_size=4), st.sampled_from([-1, 0, 1, 7]))
def test_a_growing_history_is_followed(parts: list[list[int]], count: int) -> None:
    """The arrays are the last tokens of the list as it grows, and after it was cut."""
    tokens = GrowingTokens(lambda token: token == 3)
    history: list[int] = []
    for part in parts:
        history += part * 9
        expected = history if count < 0 else history[len(history) - min(count, len(history)) :]
        found, broken = tokens.last(history, count)
        assert found.tolist() == expected
        assert broken.tolist() == [token == 3 for token in expected]
    assert tokens.last([3], -1)[0].tolist() == [3]


def test_breakers_are_tokens_with_such_a_text() -> None:
    """A token breaks if it holds one of the texts, is the last of one, or controls."""
    symbols = [symbol.decode() for symbol in byte_symbols()]
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*symbols, "a:b", "ab", "<end>"],
            "tokenizer.ggml.token_type": [1] * 258 + [3],
            "tokenizer.ggml.merges": [],
        }
    )
    breaks = SequenceBreakers(tokenizer, (":", "xyz", "\u00e9"))
    accent = "\u00e9".encode()
    found = {token for token in range(tokenizer.vocab_size) if breaks(token)}
    assert found == {ord(":"), ord("z"), accent[-1], 256, 258}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dry_multiplier", -1),
        ("dry_base", 0.5),
        ("dry_allowed_length", 0),
        ("dry_last_n", -2),
        ("dry_breakers", "\n"),
        ("dry_breakers", [""]),
        ("dry_breakers", [1]),
        ("dry_breakers", None),
    ],
)
def test_options_outside_their_ranges_are_refused(name: str, value: object) -> None:
    """The error names the option, the value and what is allowed."""
    with pytest.raises(InvalidOptionError, match=rf"{name} is .*allowed: "):
        SamplingOptions(**{name: value})  # type: ignore[arg-type]
