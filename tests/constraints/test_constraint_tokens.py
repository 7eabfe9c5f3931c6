"""Which tokens may come next in a constrained text, drawn, forced, taken back and ended."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.constraint_texts import END, byte_tokenizer, form
from reference.sentencepiece_models import CASES, both_ways

from edgellama.constraints.answer_form import AnswerForm
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.constraints.guidance_vocabulary import GuidanceVocabulary
from edgellama.constraints.token_constraint import TokenConstraint
from edgellama.sampling.constraint import allowed_token
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler
from edgellama.text.tokenizer import Tokenizer


def drawn_tokens(
    tokenizer: Tokenizer, asked: AnswerForm, rng: np.random.Generator, *, continuation: bool
) -> tuple[list[int], bool]:
    """Tokens by chance as ``allowed_token`` chooses them, and whether the text came to its end."""
    constraint = tokenizer.derived(ConstraintCompiler).constraint(asked, continuation=continuation)
    sampler = Sampler(SamplingOptions(seed=int(rng.integers(2**31)), top_k=0, top_p=1, min_p=0))
    tokens: list[int] = []
    while not constraint.is_finished and len(tokens) < 60:
        logits = rng.standard_normal(tokenizer.vocab_size + 7).astype(np.float32)
        token = allowed_token(sampler, logits, tokens, constraint)
        assert token is not None and constraint.allows(token)
        if token in tokenizer.special.end_of_generation:
            return tokens, True
        constraint.advance(token)
        tokens.append(token)
    return tokens, constraint.is_finished


@pytest.mark.parametrize("continuation", [False, True])
@pytest.mark.parametrize("case", CASES[:2], ids=str)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_text_is_what_counts(case: Any, continuation: bool, seed: int) -> None:
    """Where a text loses its first space, what is left of it follows the form."""
    tokenizer, _ = both_ways(case)
    rng = np.random.default_rng(seed)
    for pattern in (r" ?[a-z]{2,6}[ ,] ?the", r"[^a]{3,9}"):
        asked = form(regex=pattern)
        tokens, is_whole = drawn_tokens(tokenizer, asked, rng, continuation=continuation)
        text = tokenizer.decode(tokens, continuation=continuation)
        assert not is_whole or re.fullmatch(pattern, text)


@pytest.mark.parametrize("continuation", [False, True])
def test_forced_tokens_are_those_of_the_tokenizer(continuation: bool) -> None:
    """What must come is cut as the tokenizer cuts it, with the space before a first word."""
    tokenizer, _ = both_ways(CASES[0])
    text = "the other people "
    asked = form(regex=re.escape(text) + "[ab]")
    constraint = tokenizer.derived(ConstraintCompiler).constraint(asked, continuation=continuation)
    forced = constraint.forced()
    assert text.startswith(tokenizer.decode(forced, continuation=continuation))
    assert len(forced) > 2
    if not continuation:
        own = tokenizer.encode(text, add_bos=False)
        assert forced == own[: len(forced)]
    for token in forced:
        assert constraint.allows(token)
        constraint.advance(token)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1.0},
        {"top_k": 4, "top_p": 1, "min_p": 0, "temperature": 1.0},
        {"top_k": 0, "top_p": 0.7, "min_p": 0, "temperature": 0.8},
        {"top_k": 0, "top_p": 1, "min_p": 0.3, "temperature": 1.5},
    ],
)
def test_the_distribution_is_that_of_masking(options: dict[str, Any]) -> None:
    """Tokens come as often as where all others had no probability from the beginning."""
    tokenizer = byte_tokenizer()
    asked = form(regex="[a-jA-C]")
    logits = np.random.default_rng(3).standard_normal(257).astype(np.float32) * 2
    logits[[10, 20, 30, ord("z")]] = 9  # likely and refused
    constraint = tokenizer.derived(ConstraintCompiler).constraint(asked, continuation=True)
    allowed = constraint.mask()
    masked = np.where(allowed, logits, -np.inf).astype(np.float32)
    expected = Sampler(SamplingOptions(seed=1, **options)).chances(masked, [])
    sampler = Sampler(SamplingOptions(seed=1, **options))
    num_draws = 4000
    tokens = [allowed_token(sampler, logits, [], constraint) for _ in range(num_draws)]
    counts = np.bincount(np.array(tokens, dtype=np.intp), minlength=257)
    possible = expected > 0
    assert not counts[~possible].any()
    errors = counts[possible] / num_draws - expected[possible]
    deviation = np.sqrt(expected[possible] * (1 - expected[possible]) / num_draws)
    assert np.all(np.abs(errors) <= 5 * deviation + 1e-9)


def test_a_text_without_an_end_token_ends_where_nothing_may_follow() -> None:
    """A vocabulary without end tokens takes constraints, too."""
    from reference.tiny_vocabulary import byte_characters

    from edgellama.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": byte_characters(),
            "tokenizer.ggml.merges": [],
        }
    )
    compiler = tokenizer.derived(ConstraintCompiler)
    constraint = compiler.constraint(form(regex="ab?"), continuation=True)
    constraint.advance(ord("a"))
    assert constraint.is_complete and not constraint.is_finished
    assert np.flatnonzero(constraint.mask()).tolist() == [ord("b")]
    constraint.advance(ord("b"))
    assert constraint.is_finished
    assert len(constraint.mask()) == tokenizer.vocab_size


@pytest.mark.parametrize("case", [None, CASES[0]], ids=str)
@given(seed=st.integers(0, 2**32), back=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_what_is_taken_back_was_never_there(case: Any, seed: int, back: int) -> None:
    """After a rollback the same tokens may come as before, from the first token on."""
    tokenizer = byte_tokenizer() if case is None else both_ways(case)[0]
    asked = form(schema={"enum": ["the other", {"a": [1, 2]}], "title": str(case)})
    rng = np.random.default_rng(seed)
    tokens, _ = drawn_tokens(tokenizer, asked, rng, continuation=False)
    compiler = tokenizer.derived(ConstraintCompiler)
    constraint = compiler.constraint(asked, continuation=False)
    masks = []
    for token in tokens:
        masks.append(constraint.mask().copy())
        constraint.advance(token)
    count = min(back, len(tokens))
    constraint.rollback(count)
    assert np.array_equal(constraint.mask(), masks[len(tokens) - count])
    for token in tokens[len(tokens) - count :]:
        assert constraint.allows(token)
        constraint.advance(token)
    assert constraint.is_finished


def test_what_texts_have_found_out_does_not_stop_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A form whose automaton grows with every text stays usable, and does not grow for ever."""
    monkeypatch.setattr("edgellama.constraints.compiler.MAX_STATES", 3000)
    asked = form(regex="(a|b)*a(a|b){30}c")
    compiler = ConstraintCompiler(byte_tokenizer())
    rng = np.random.default_rng(0)
    first = None
    for _ in range(8):
        constraint = compiler.constraint(asked, continuation=True)
        for _ in range(300):
            mask = constraint.mask()
            assert mask[ord("a")] and mask[ord("b")]
            constraint.advance(int(rng.choice([ord("a"), ord("b")])))
        first = first or compiler._kept[asked.grammar]
    assert compiler._kept[asked.grammar] is not first
    for byte in b"a" * 31:
        constraint.advance(byte)
    assert constraint.mask()[ord("c")]


def test_an_interruption_goes_through() -> None:
    """Ctrl-C while llguidance asks the tokenizer is not taken for a grammar without a way on."""

    class Interrupted(type(byte_tokenizer())):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(vars(byte_tokenizer()), _derived={})

        def encode_stretch(self, stretch: object) -> list[int]:
            raise KeyboardInterrupt

    tokenizer = Interrupted()
    vocabulary = GuidanceVocabulary(tokenizer)
    matcher = llguidance.LLMatcher(vocabulary.tokenizer, form(regex="hello world").grammar)
    with pytest.raises(KeyboardInterrupt):
        TokenConstraint(matcher, vocabulary, opens_text=False).forced()


def test_nothing_outlives_the_tokenizer() -> None:
    """The compiler, its vocabulary and its constraints are freed with the tokenizer."""
    tokenizer, _ = both_ways.__wrapped__(CASES[1])
    compiler = tokenizer.derived(ConstraintCompiler)
    constraint = compiler.constraint(form(regex="abc[de]"), continuation=False)
    constraint.forced()
    alive = weakref.ref(tokenizer), weakref.ref(compiler)
    del tokenizer, compiler, constraint
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_end_tokens_come_where_the_text_is_complete() -> None:
    """The end is allowed exactly there."""
    compiler = byte_tokenizer().derived(ConstraintCompiler)
    constraint = compiler.constraint(form(regex="ab?"), continuation=True)
    seen = [constraint.allows(END)]
    for byte in b"ab":
        constraint.advance(byte)
        seen.append(constraint.allows(END))
    assert seen == [False, True, True]


def test_a_giant_repetition_behind_a_choice_is_not_written_ahead() -> None:
    """What must follow is tokens at once up to a length, and beyond it one token after another."""
    tokenizer = byte_tokenizer()
    compiler = tokenizer.derived(ConstraintCompiler)
    for repeats, is_short in ((5, True), (1000, False)):
        asked = form(regex=f"[bc](a{{1000}}){{{repeats}}}")
        constraint = compiler.constraint(asked, continuation=True)
        constraint.advance(tokenizer.encode("b", add_bos=False)[-1])
        assert bool(constraint.forced()) == is_short
        assert constraint.mask().any()
