"""Tokens that the last stage chooses: those of a choice in one process, without their logits."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
from cluster.stage_harness import TOKENS, MortalStage, often, spread
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import Answer, StageCall
from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.weights.adapter_set import NO_ADAPTERS
from edgellama.generation.batches.batch import Batch
from edgellama.generation.batches.batch_width import BatchWidth
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.judging.scoring import classifier
from edgellama.generation.sessions.session import Session
from edgellama.generation.text_request import Request, prompt_request
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.chance import GivenChance, SeededChance
from edgellama.sampling.choice_order import UNCHOSEN, allowed_by, as_rule
from edgellama.sampling.logprobs import TokenShare, row_width
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.presets import CHAT_SAMPLING
from edgellama.sampling.share_order import choice_of
from edgellama.text.tokenizer import load_tokenizer

pytest_plugins = ["cluster.stage_fixtures"]

PROMPT = np.random.default_rng(1).integers(0, 288, 40).tolist()
ORDERED: dict[str, Any] = {
    "greedy": {"temperature": 0},
    "hot": {"temperature": 1.5, "seed": 3, "top_k": 0, "top_p": 1, "min_p": 0},
    "chat": {**CHAT_SAMPLING, "seed": 4},
    "weakened": {"temperature": 0.8, "seed": 5, "repeat_penalty": 1.3, "dry_multiplier": 0.8,
                 "dry_allowed_length": 1},
    "own": {"temperature": 1, "seed": 5, "repeat_penalty": 1.3, "penalize_prompt": False},
    "xtc": {"temperature": 1, "seed": 6, "xtc_probability": 0.5, "xtc_threshold": 0.01},
    "odd": {"temperature": 0.9, "seed": 7, "samplers": ["temperature", "typ_p", "top_n_sigma"],
            "typical_p": 0.9, "top_n_sigma": 1.0, "dynatemp_range": 0.3},
    "single": {"temperature": 1, "seed": 8, "logit_bias": {5: 4.0, 9: -100.0}, "min_tokens": 10,
               "ignore_eos": True},
    "logprobs": {"temperature": 1, "seed": 1, "logprobs": 2},
    "own logprob": {"temperature": 1.2, "seed": 2, "logprobs": 0, "repeat_penalty": 1.2},
    "regex": {"temperature": 1, "seed": 1, "regex": "[a-z ]+"},
    "certain": {"temperature": 1, "seed": 2, "regex": "(the|an) [ab]{3} apple[^c]*"},
    "both": {"temperature": 1, "seed": 3, "regex": "(the|an) [ab]+ apple", "logprobs": 3},
    "choices": {"temperature": 0.8, "seed": 4, "choices": ["red apple", "red ape", "green"]},
    "banned": {"temperature": 1, "seed": 1, "banned": ["a", "e", "q"]},
    "banned pairs": {"temperature": 1.3, "seed": 3, "logprobs": 1,
                     "banned": [a + b for a in "aeiou st" for b in "abcdefghij t"]},
    "banned form": {"temperature": 1, "seed": 4, "regex": "[a-h]+ the [a-z ]+",
                    "banned": ["a", "he"]},
    "banned xtc": {"temperature": 1, "seed": 6, "xtc_probability": 0.5, "xtc_threshold": 0.01,
                   "banned": list("abcde"), "repeat_penalty": 1.2},
    "prompt": {"temperature": 1, "seed": 1, "prompt_logprobs": 0},
    "prompt more": {"temperature": 1, "seed": 2, "prompt_logprobs": 3, "logprobs": 1},
    "prompt less": {"temperature": 1, "seed": 3, "prompt_logprobs": 1, "logprobs": 4,
                    "banned": ["a"], "regex": "[a-z ]+"},
    "schema": {"temperature": 1, "seed": 5, "xtc_probability": 0.5, "xtc_threshold": 0.01,
               "schema": {"type": "object", "properties": {"a": {"enum": [1, 22]}},
                          "required": ["a"]}},
}  # fmt: skip
UNORDERED: dict[str, Any] = {
    "mirostat": {"temperature": 1, "seed": 1, "mirostat": 2},
    "prompt mirostat": {"temperature": 1, "seed": 1, "prompt_logprobs": 0, "mirostat": 1},
    "processor": {"temperature": 1, "seed": 1, "processors": [lambda logits, tokens: -logits]},
    "sampler": {"sampler": lambda logits, tokens: int(np.argsort(logits)[-2])},
}


def watched(engine: SpreadEngine) -> list[tuple[StageCall | NextToken, Answer]]:
    """What the last stage is asked and answers from now on."""
    last, seen = engine.stages[-1], list[tuple[StageCall | NextToken, Answer]]()
    assert isinstance(last, MortalStage)
    run, run_next = last.run, last.run_next

    def watch(calls: list[StageCall]) -> list[Answer]:
        calls = pickle.loads(pickle.dumps(calls))
        answers = run(calls)
        seen.extend(zip(calls, answers, strict=True))
        return answers

    def watch_next(given: NextToken, meanwhile: Any) -> Answer | None:
        answer = run_next(given, meanwhile)
        if answer is not None:
            seen.append((given, answer.copy()))
        return answer

    last.run, last.run_next = watch, watch_next  # type: ignore[method-assign,assignment]
    return seen


def text_of(engine: Any, file: GGUFFile, options: dict[str, Any]) -> tuple[object, ...]:
    """Two texts of a session, the second of which begins like the first one."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    session = Session(engine, tokenizer, context_length=600)
    found = [session.generate(p, max_tokens=40, **options) for p in (PROMPT, [*PROMPT[:30], 7])]
    session.close()
    return tuple((r.text, r.tokens, r.finish_reason, r.logprobs, r.prompt_logprobs) for r in found)


@pytest.mark.parametrize("options", ORDERED.values(), ids=ORDERED)
def test_the_last_stage_chooses_the_same_tokens(
    file: GGUFFile, exact: Engine, options: dict[str, Any]
) -> None:
    """Every seeded text is that of one process, and no row of logits is sent for it."""
    with spread(file, 2) as engine:
        seen = watched(engine)
        assert text_of(engine, file, options) == text_of(exact, file, options)
    widths = {answer.shape[1] for _, answer in seen if len(answer)}  # type: ignore[arg-type,union-attr]
    told = [options.get(name) for name in ("logprobs", "prompt_logprobs")]
    allowed = [row_width(number, 288) for number in told]
    assert widths <= {allowed[0], max(allowed)}
    num_next = sum(isinstance(call, NextToken) for call, _ in seen)
    assert num_next > len(seen) / 2 or options.keys() & {"regex", "choices", "schema", "banned"}
    orders = [choice_of(call.order) for call, _ in seen if isinstance(call, StageCall)]
    has_rules = any(order is not None and order.rules for order in orders)
    assert has_rules == bool(options.keys() & {"regex", "choices", "schema", "banned"})


@pytest.mark.parametrize("options", UNORDERED.values(), ids=UNORDERED)
def test_what_needs_logits_here_has_them(
    file: GGUFFile, exact: Engine, options: dict[str, Any]
) -> None:
    """Functions and samplers that learn get logits, for the prompt's log-probabilities, too."""
    with spread(file, 2) as engine:
        seen = watched(engine)
        assert text_of(engine, file, options) == text_of(exact, file, options)
    assert all(
        (call.chances if isinstance(call, NextToken) else call.order) is None for call, _ in seen
    )


@pytest.mark.parametrize("first", [0, 1, 300])
def test_a_long_prompt_is_told_in_chunks(file: GGUFFile, exact: Engine, first: int) -> None:
    """Each of its tokens has the log-probability of one process, also where stages are lost."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    request = Request(
        TOKENS, SamplingOptions(seed=2), max_tokens=5, logprobs=0, prompt_logprobs=2,
        first_logprob=first,
    )  # fmt: skip

    def text(engine: Any) -> tuple[object, ...]:
        cache = engine.new_cache(1000)
        decoding = Decoding(engine, tokenizer, cache, request, CancelToken())
        list(decoding.steps())
        result = decoding.result()
        return result.tokens, result.logprobs, result.prompt_logprobs

    expected = text(exact)
    assert len(expected[2]) == len(TOKENS) - first  # type: ignore[arg-type]
    for is_dying in (lambda: False, often(4, 0.02)):
        with spread(file, 2, is_dying=is_dying) as engine:
            seen = watched(engine)
            assert text(engine) == expected
        rows = [answer for _, answer in seen if isinstance(answer, np.ndarray) and len(answer)]
        assert {row.shape[1] for row in rows} == {row_width(2, 288), row_width(0, 288)}


def test_choices_are_rated_without_logits(file: GGUFFile, exact: Engine) -> None:
    """As in one process, each behind a prompt that is shared."""
    tokenizer = load_tokenizer(file.metadata, file.path)

    def found(engine: Any) -> list[tuple[float, int]]:
        rated = classifier(
            engine, tokenizer, TOKENS[:300], [" a cat", " the dog", "z"], normalization="sum",
            parse_special=False, adapters=NO_ADAPTERS, line=WaitingLine(4),
        )  # fmt: skip
        return list(rated.logprobs())

    with spread(file, 2) as engine:
        seen = watched(engine)
        assert found(engine) == found(exact)
    rows = [answer for _, answer in seen if isinstance(answer, np.ndarray) and len(answer)]
    assert {row.shape[1] for row in rows} == {row_width(0, 288)}


class Oracle:
    """Guesses the text to come, wrongly now and then."""

    def __init__(self, text: list[int], hits: float) -> None:
        self._text, self._hits, self._dice = text, hits, random.Random(2)

    def draft(self, tokens: list[int], room: int) -> list[int]:
        """The next tokens."""
        coming = self._text[len(tokens) : len(tokens) + min(room, 5)]
        return [t if self._dice.random() < self._hits else (t + 1) % 288 for t in coming]


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("hits", [0.0, 0.7, 1.0])
def test_guesses_are_judged_by_the_last_stage(
    file: GGUFFile, exact: Engine, name: str, hits: float
) -> None:
    """Chance is used up as far as guesses were right, so that a text is what it is without any."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    request = prompt_request(tokenizer, PROMPT, {"max_tokens": 60, **ORDERED[name]})

    def text(engine: Any, drafter: Any) -> tuple[Any, ...]:
        cache = engine.new_cache(600)
        decoding = Decoding(engine, tokenizer, cache, request, CancelToken(), drafter)
        for _ in decoding.steps():
            pass
        return decoding.result().tokens, decoding.result().logprobs

    expected = text(exact, None)
    with spread(file, 2) as engine:
        seen = watched(engine)
        assert text(engine, Oracle([*PROMPT, *expected[0]], hits)) == expected
    if hits == 1 and "banned" not in name:
        assert len(seen) <= max(2, len(expected[0]) / 2)


@pytest.mark.parametrize("name", ["chat", "xtc"])
def test_lost_stages_choose_the_same_again(file: GGUFFile, exact: Engine, name: str) -> None:
    """An order that is carried out again, by another stage, gives the token that it gave."""
    with spread(file, 2, is_dying=often(3, 0.02)) as engine:
        assert text_of(engine, file, ORDERED[name]) == text_of(exact, file, ORDERED[name])
        assert sum(stage.num_deaths for stage in engine.stages) > 1  # type: ignore[attr-defined]


def test_texts_of_a_batch_have_orders_of_their_own(file: GGUFFile, exact: Engine) -> None:
    """Texts with different options side by side are the same as each alone."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    kinds = [*ORDERED.values(), *UNORDERED.values()]

    def texts(engine: Any) -> dict[int, tuple[int, ...]]:
        requests = [
            lambda o=o: prompt_request(tokenizer, PROMPT, {"max_tokens": 20, **o}) for o in kinds
        ]
        batch = Batch(engine, tokenizer, requests, width=BatchWidth(20, 20), context_length=600)
        return {result.index: result.tokens for result in batch}

    with spread(file, 2) as engine:
        assert texts(engine) == texts(exact)


def test_an_order_holds_for_one_step(file: GGUFFile, exact: Engine) -> None:
    """Whoever asks for logits of the same sequence later gets them."""
    tokenizer = load_tokenizer(file.metadata, file.path)
    request = Request(PROMPT, SamplingOptions(temperature=0), max_tokens=3)
    with spread(file, 2) as engine:
        cache = engine.new_cache(600)
        decoding = Decoding(engine, tokenizer, cache, request, CancelToken())
        list(decoding.steps())
        decoding.next_tokens()
        engine.work([1], cache)
        assert engine.forward([1], cache).shape == (1, 288)
        for _ in range(3):
            assert engine.forward([1], cache).shape == (1, 288)
    with pytest.raises(EdgellamaError, match="are chosen where this engine's logits are"):
        exact.order_choice(exact.new_cache(8), object())


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5)))
def test_numbers_that_were_looked_at_come_again(seed: int, looks: list[int]) -> None:
    """However far somebody looks ahead, the numbers of a seed come in their order."""
    plain, chance = np.random.default_rng(seed), SeededChance(seed)
    for look in looks:
        ahead = chance.ahead(look)
        assert len(ahead) == look
        number = chance.random()
        assert number == plain.random()
        assert not ahead or GivenChance(ahead).random() == number


@given(
    st.integers(0, 1 << 20),
    st.floats(max_value=0),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(max_value=0, allow_nan=False))),
)
def test_a_row_keeps_every_bit(token: int, logprob: float, others: Any) -> None:
    """Log-probabilities go through rows of f32 as they are."""
    share = TokenShare(token, logprob, tuple(others))
    row = share.row()
    assert TokenShare.from_row(row) == share
    assert len(row) == row_width(len(others), 1 << 20) and row[0] != UNCHOSEN


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(1, 60))
def test_a_rule_is_its_mask(bits: list[bool], vocab_size: int) -> None:
    """Tokens that a mask does not name are not allowed; no token at all is a rule of its own."""
    mask = np.array(bits)
    rule = as_rule(mask, vocab_size)
    expected = [number < len(bits) and bits[number] for number in range(vocab_size)]
    if isinstance(rule, bytes):
        assert allowed_by(rule, vocab_size).tolist() == expected
    else:
        assert rule == UNCHOSEN and not any(expected)
