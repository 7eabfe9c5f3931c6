"""Guesses out of the text itself: found where there are any, and never dearer than promised."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import InvalidOptionError, Llama
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.scheduling.step_costs import CostTable, StepCosts
from edgellama.generation.speculation.draft_width import CREDIT_PER_TOKEN, FIRST_CREDIT
from edgellama.generation.speculation.ngram_drafter import NGramDrafter
from edgellama.generation.speculation.ngram_index import LENGTHS, NGramIndex

AVX512 = [0, 1, 1.2, 1.35, 1.45, 1.7, 1.8, 1.9, 1.95, 2.9, 3.0, 3.1, 3.2]
"""Costs of steps by their tokens as they were measured once; AVX2's are higher."""
AVX2 = [0, 1, 1.25, 2.1, 2.3, 3.5, 3.8, 3.9, 4.1, 6, 6, 6, 6]


@dataclass
class Costs(StepCosts):
    """Costs that are known already."""

    fixed: Sequence[float] = ()

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def table(self) -> list[float]:
        """Those that are fixed."""
        return list(self.fixed)


def naive_find(tokens: Sequence[int]) -> int:
    """The longest of LENGTHS with which the text's end has stood before; 0 for none."""
    lengths = [
        size
        for size in LENGTHS
        if any(
            list(tokens[place - size : place]) == list(tokens[-size:])
            for place in range(size, len(tokens))
        )
    ]
    return max(lengths, default=0)


@pytest.mark.parametrize("most_new", [1, 5, 100])
def test_the_index_finds_the_longest_run(most_new: int) -> None:
    """However a text grows, what is found is an earlier run, but for clashes the longest one."""
    rng, num_right, num_asked = np.random.default_rng(most_new), 0, 0
    for _ in range(40):
        tokens = rng.integers(0, rng.integers(2, 5), 300).tolist()
        index, end = NGramIndex(100_000), 0
        while end < len(tokens):
            end += int(rng.integers(1, most_new + 1))
            text = tokens[:end]
            place, size = index.find(text)
            assert size <= place < max(1, len(text))
            assert text[place - size : place] == text[len(text) - size :]
            longest = naive_find(text)
            assert size <= longest
            num_asked += 1
            num_right += size == longest
    assert num_right >= 0.99 * num_asked


def test_an_index_that_is_too_small_finds_only_what_is_there() -> None:
    """Where runs share places of the tables, finds are lost and none is wrong."""
    tokens = np.random.default_rng(0).integers(0, 40, 20_000).tolist()
    index, found = NGramIndex(8), 0
    for end in range(10_000, 10_500):
        place, size = index.find(tokens[:end])
        found += size > 0
        assert size == 0 or tokens[place - size : place] == tokens[end - size : end]
    assert found > 50


def test_a_text_that_was_taken_back_is_not_quoted() -> None:
    """What was cut off a text and said otherwise is never found as it was."""
    index, first = NGramIndex(100), [1, 2, 3, 4, 5, 6, 7, 8, 9]
    index.find(first)
    second = [1, 2, 3, 40, 50, 60, 3, 4]
    assert index.find(second) == (0, 0)
    assert index.find([*second, 1, 2]) == (2, 2)


@dataclass
class Run:
    """What a text has cost with guesses, in steps of one token."""

    cost: float = 0.0
    num_tokens: int = 0
    drafted: int = 0
    accepted: int = 0


def run(
    prompt: Sequence[int],
    say: Callable[[Sequence[int], Sequence[int]], int],
    num_tokens: int,
    costs: Sequence[float],
) -> Run:
    """A text whose next token ``say`` chooses, knowing the text so far and what is guessed next."""
    drafter, text, result = NGramDrafter(4096, Costs(fixed=costs)), list(prompt), Run()
    while result.num_tokens < num_tokens:
        draft = list(drafter.draft(text, MAX_SHORT_TOKENS - 1))
        result.cost += costs[1 + len(draft)]
        result.drafted += len(draft)
        for guess in [*draft, None]:
            token = say(text, [] if guess is None else [guess])
            text.append(token)
            result.num_tokens += 1
            if token != guess:
                break
            result.accepted += 1
    return result


@pytest.mark.parametrize("costs", [AVX512, AVX2], ids=["avx512", "avx2"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), hits=st.floats(0, 1), words=st.sampled_from([2, 5, 50, 5000]))
def test_no_text_costs_more_than_promised(
    costs: Sequence[float], seed: int, hits: float, words: int
) -> None:
    """Whoever chooses the tokens, knowing the guesses: a hundredth more at most, and one step."""
    rng = random.Random(seed)

    def say(text: Sequence[int], guess: Sequence[int]) -> int:
        if guess and rng.random() >= hits:
            return (guess[0] + 1) % words
        return guess[0] if guess else rng.randrange(words)

    found = run([rng.randrange(words) for _ in range(200)], say, 600, costs)
    assert found.cost <= found.num_tokens * (1 + CREDIT_PER_TOKEN) + FIRST_CREDIT


def test_a_text_that_turns_against_its_guesses_stays_cheap() -> None:
    """After a long text that was all right, one that is all wrong costs no more than it saved."""
    turn = 1000

    def say(text: Sequence[int], guess: Sequence[int]) -> int:
        right = text[-20] if len(text) < turn else len(text) * 7919
        return right + 1 if guess and guess[0] == right and len(text) >= turn else right

    found = run(list(range(20)), say, 3000, AVX512)
    assert found.cost < 0.85 * found.num_tokens


def edited(rng: random.Random, tokens: Sequence[int], edits: float) -> list[int]:
    """The tokens with a share of them replaced, left out, or followed by new ones."""
    text: list[int] = []
    for token in tokens:
        if rng.random() >= edits:
            text.append(token)
            continue
        kind = rng.randrange(3)
        text += {0: [rng.randrange(900)], 1: [], 2: [token, rng.randrange(900)]}[kind]
    return text


@pytest.mark.parametrize(("costs", "least"), [(AVX512, 2.0), (AVX2, 1.6)], ids=["avx512", "avx2"])
def test_an_edited_file_comes_faster(costs: Sequence[float], least: float) -> None:
    """A file that is said again with one token of thirty changed costs half, on AVX2 60 %."""
    rng = random.Random(1)
    words = [rng.randrange(900) for _ in range(40)]
    file = [rng.choice(words) if rng.random() < 0.5 else rng.randrange(900) for _ in range(1500)]
    coming = edited(rng, file, 1 / 30)
    whole = [*file, 901, 902, *coming]

    found = run(whole[:1502], lambda text, guess: whole[len(text)], len(coming) - 20, costs)
    assert found.num_tokens / found.cost >= least
    assert found.accepted > 0.8 * found.drafted


def test_a_repetition_is_found_after_a_long_text_without_one() -> None:
    """A text that was not guessed for long is searched still, so what comes again is noticed."""
    file = [7919 * token for token in range(200)]
    whole = [*file, *(token * 31 + 5 for token in range(300)), *file]

    found = run(whole[:201], lambda text, guess: whole[len(text)], len(whole) - 220, AVX512)
    assert found.accepted > 140


def test_noise_is_not_guessed() -> None:
    """A text without any repetition is computed a token at a time."""
    found = run([1, 2, 3], lambda text, guess: len(text) * 7919, 300, AVX512)
    assert (found.drafted, found.cost) == (0, found.num_tokens)


def test_costs_are_learnt_and_follow_the_machine() -> None:
    """Times of steps become multiples of a single one's; a slower machine changes none of them."""
    costs, rng = CostTable(), np.random.default_rng(0)
    assert costs.costs[1] == 1 and costs.costs == sorted(costs.costs)
    for second in (0.01, 0.03):
        for _ in range(60):
            for count in (1, 3, 8):
                outlier = 20 if rng.random() < 0.03 else 1
                costs.note(count, second * AVX512[count] * float(rng.uniform(0.95, 1.1)) * outlier)
    table = costs.costs
    assert len(table) == MAX_SHORT_TOKENS + 1
    assert table[3] == pytest.approx(AVX512[3], rel=0.2)
    assert table[8] == pytest.approx(AVX512[8], rel=0.2)
    assert table[3] < table[5] < table[8] < table[12]


def test_sequences_that_share_steps_share_their_room() -> None:
    """With two sequences each has half a short step, with a dozen none is left for guesses."""
    costs = StepCosts()
    costs.note_together([1, 1], 0.1)
    assert len(costs.table) == MAX_SHORT_TOKENS // 2 + 1 and costs.table[1] == 1
    costs.note_together([1] * MAX_SHORT_TOKENS, 0.1)
    assert costs.table == [0.0, 1.0]
    costs.note_together([1], 0.1)
    assert len(costs.table) == MAX_SHORT_TOKENS + 1


def test_nothing_is_guessed_before_kernels_are_there() -> None:
    """While they are compiled no step has room for guesses; once they are, nobody asks again."""
    answers = iter([False, False, True])
    costs = StepCosts(lambda: next(answers))
    assert costs.table == costs.table == [0.0, 1.0]
    assert len(costs.table) == len(costs.table) == MAX_SHORT_TOKENS + 1


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """An exact tiny model, which repeats itself when it is greedy; its steps have known costs."""
    path = tmp_path_factory.mktemp("speculation") / "tiny.gguf"
    write_tiny_llama(path, TinyLlama(context_length=900))
    with Llama(path, exact=True, num_threads=2, speculation="auto") as llama:
        llama._engine.scheduler.costs = Costs(fixed=AVX512)
        yield llama


PROMPT = list(b"do re mi fa so la ti do re mi fa so la ti do re mi fa so")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.3, "seed": 1},
        {"temperature": 1.0, "seed": 2, "top_k": 3},
    ],
    ids=["greedy", "cool", "warm"],
)
def test_texts_are_the_same_with_and_without(llama: Llama, options: Any) -> None:
    """One text, a stream and a batch say the same whatever is guessed; figures say how much was."""
    plain = llama.generate(PROMPT, max_tokens=400, speculation=False, **options)
    guessed = llama.generate(PROMPT, max_tokens=400, speculation=True, **options)
    assert guessed.tokens == plain.tokens and guessed.text == plain.text
    chunks = list(llama.stream(PROMPT, max_tokens=400, **options))
    assert tuple(chunk.token for chunk in chunks if chunk.token is not None) == plain.tokens
    prompts = [PROMPT[:length] for length in (10, 20, 30, 40)]
    batches = [
        {
            result.index: result
            for result in llama.generate_batch(
                prompts, max_tokens=200, width=2, speculation=mode, **options
            )
        }
        for mode in (False, True)
    ]
    for index in range(4):
        assert batches[0][index].tokens == batches[1][index].tokens
    assert plain.statistics.drafted_tokens == 0
    figures = guessed.statistics
    assert 0 <= figures.accepted_tokens <= figures.drafted_tokens
    if not options["temperature"]:
        assert figures.accepted_tokens > 50
        assert sum(batches[1][index].statistics.accepted_tokens for index in range(4)) > 20


GREEDY, DRAWN = {"temperature": 0}, {"temperature": 0.8, "seed": 5}
COUNT, STORY = "Count: one, two, three, one, two, three,", "Once upon a time"


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (COUNT, GREEDY),
        pytest.param(COUNT, DRAWN, marks=pytest.mark.slow),
        pytest.param(STORY, GREEDY, marks=pytest.mark.slow),
        (STORY, DRAWN),
    ],
)
def test_texts_of_the_starter_model_are_the_same(
    smollm2_path: Path, prompt: str, options: Any
) -> None:
    """Also where steps are not exact, each token of a step has the bits that it has alone."""
    with Llama(smollm2_path, context_length=512) as llama:
        llama._engine.scheduler.costs = Costs(fixed=AVX512)
        plain = llama.generate(prompt, max_tokens=120, speculation=False, **options)
        guessed = llama.generate(prompt, max_tokens=120, **options)
        assert guessed.tokens == plain.tokens
        assert guessed.statistics.drafted_tokens > 0


def test_hooks_see_no_guesses_unless_they_are_asked_for(llama: Llama) -> None:
    """With a hook there is one token a step, as long as nobody says speculation=True."""
    sizes: list[int] = []
    hook = llama.add_hook(lambda rows, step: sizes.append(len(rows)), "logits")
    try:
        quiet = llama.generate(PROMPT, max_tokens=200, temperature=0)
        assert quiet.statistics.drafted_tokens == 0 and set(sizes) == {1}
        asked = llama.generate(PROMPT, max_tokens=200, temperature=0, speculation=True)
        assert asked.statistics.drafted_tokens > 0 and max(sizes) > 1
        assert asked.tokens == quiet.tokens
    finally:
        llama.remove_hook(hook)


@pytest.mark.parametrize("value", ["yes", 1, "on", ("auto",)])
def test_other_values_are_refused(llama: Llama, tmp_path: Path, value: Any) -> None:
    """Only True, False and "auto" say what speculation does, of a text and of a model."""
    with pytest.raises(InvalidOptionError, match='allowed: True, False or "auto"'):
        llama.generate(PROMPT, max_tokens=1, speculation=value)
    with pytest.raises(InvalidOptionError, match='allowed: True, False or "auto"'):
        Llama(tmp_path / "none.gguf", speculation=value)


PEOPLE = (
    'List: {"name": "Bob", "age": 3}, {"name": "Ann", "age": 4}, {"name": "Tom", "age": 5}. JSON:'
)


def test_constraints_and_guesses_agree(smollm2_path: Path) -> None:
    """Where a schema forces tokens between those that are chosen, guesses change no text."""
    pytest.importorskip("llguidance")
    properties = {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}}
    person = {"type": "object", "properties": properties, "required": ["name", "age"]}
    schema = {"type": "array", "items": person, "minItems": 6, "maxItems": 8}
    with Llama(smollm2_path, context_length=512) as llama:
        llama._engine.scheduler.costs = Costs(fixed=AVX512)
        results = [
            llama.generate(
                PEOPLE, schema=schema, max_tokens=120, temperature=0.5, seed=2, speculation=mode
            )
            for mode in (False, True)
        ]
    assert results[0].tokens == results[1].tokens
    assert results[1].statistics.accepted_tokens > 0


def test_guesses_come_back_with_the_room_for_them() -> None:
    """While many sequences share steps nothing is guessed; afterwards all of the text is known."""
    costs = Costs(fixed=[0.0, 1.0])
    drafter, text = NGramDrafter(4096, costs), list(range(50))
    for token in [*range(60), *range(20)]:
        assert list(drafter.draft(text, 11)) == []
        text.append(token)
    costs.fixed = AVX512
    assert list(drafter.draft(text, 3)) == [20, 21, 22]
