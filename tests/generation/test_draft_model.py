"""Draft models: whatever they guess, the text is the model's own; none that speaks otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama
from test_speculation import AVX2, AVX512, Costs

from edgellama import InvalidOptionError, Llama
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.speculation.draft_model import ModelDrafter
from edgellama.generation.speculation.draft_width import CREDIT_PER_TOKEN, FIRST_CREDIT
from edgellama.generation.speculation.same_vocabulary import check_same_vocabulary

MODEL = TinyLlama(context_length=500)
PROMPT = list(b"a text that no one has written yet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a copy, another one of one layer, and two that speak other tokens."""
    folder = tmp_path_factory.mktemp("drafts")
    models = {
        "model": MODEL,
        "twin": MODEL,
        "small": replace(MODEL, layers=1, width=32),
        "larger": replace(MODEL, vocab_size=300),
    }
    for name, model in models.items():
        write_tiny_llama(folder / f"{name}.gguf", model)
    return folder


def opened(folder: Path, draft: str | Llama | None) -> Llama:
    """The model, exact, with known costs and a draft model, whose guesses cost a tenth."""
    path = folder / f"{draft}.gguf" if isinstance(draft, str) else draft
    llama = Llama(folder / "model.gguf", exact=True, num_threads=2, draft=path)
    llama._engine.scheduler.costs = KnownCosts(fixed=AVX512)
    return llama


class KnownCosts(Costs):
    """Known costs, and a step so long that what else takes time is nothing beside it."""

    @property
    def one_token_s(self) -> float:
        """A step."""
        return 1e6


@pytest.fixture(scope="module", params=["twin", "small"])
def llama(request: pytest.FixtureRequest, folder: Path) -> Iterator[Llama]:
    """The model with a draft model that is always right, or hardly ever."""
    with opened(folder, request.param) as llama:
        yield llama


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1.0, "seed": 7}], ids=["greedy", "sampled"]
)
def test_a_draft_model_changes_no_text(llama: Llama, options: Any) -> None:
    """Texts, and conversations that go on, are the same with and without its guesses."""
    plain = llama.generate(PROMPT, max_tokens=200, speculation=False, **options)
    guessed = llama.generate(PROMPT, max_tokens=200, **options)
    assert guessed.tokens == plain.tokens
    with llama.session() as session:
        first = session.generate(PROMPT, max_tokens=40, **options)
        longer = [*PROMPT, *first.tokens, 65, 66, 67]
        second = session.generate(longer, max_tokens=60, **options)
        other = session.fork().generate([*PROMPT[:9], 70, 71], max_tokens=60, **options)
    fresh = [
        llama.generate(prompt, max_tokens=60, speculation=False, **options).tokens
        for prompt in (longer, [*PROMPT[:9], 70, 71])
    ]
    assert [second.tokens, other.tokens] == fresh


def test_a_model_that_guesses_right_is_believed(folder: Path) -> None:
    """With the model itself as its draft, most tokens come by way of guesses."""
    with opened(folder, "twin") as llama:
        result = llama.generate(PROMPT, max_tokens=200, temperature=0)
        assert result.statistics.accepted_tokens > 120
        assert result.statistics.accepted_tokens > 0.9 * result.statistics.drafted_tokens


def test_a_draft_model_of_the_callers_stays_open(folder: Path) -> None:
    """A Llama that is given is used and not closed; closed by its owner, it ends no text."""
    with Llama(folder / "twin.gguf", exact=True) as draft:
        with opened(folder, draft) as llama:
            expected = llama.generate(PROMPT, max_tokens=60, temperature=0)
        assert draft.generate(PROMPT, max_tokens=60, temperature=0).tokens == expected.tokens
        llama = opened(folder, draft)
    with llama:
        assert llama.generate(PROMPT, max_tokens=60, temperature=0).tokens == expected.tokens
    with pytest.raises(Exception, match="closed"):
        opened(folder, draft)


def test_a_draft_model_obeys_the_options_of_its_model(folder: Path) -> None:
    """Its cache is a part of the limit, and threads, priority and idle time hold for it, too."""
    options: Any = {"cache_limit": 40_000_000, "low_priority": True, "idle_seconds": 600}
    with Llama(
        folder / "model.gguf", draft=folder / "twin.gguf", num_threads=2, **options
    ) as llama:
        draft = llama._own_draft
        assert draft is not None
        assert (llama.cache_limit, draft.cache_limit) == (40_000_000, 10_000_000)
        assert (draft.low_priority, draft.idle_seconds) == (True, 600)
        llama._engine.scheduler.costs = KnownCosts(fixed=AVX512)
        llama.generate(PROMPT, max_tokens=200, temperature=0)
        assert 0 < draft.cached_bytes < llama.cached_bytes
        llama.num_threads, llama.low_priority, llama.idle_seconds = 1, False, None
        assert (draft.num_threads, draft.low_priority, draft.idle_seconds) == (1, False, None)
        llama.cache_limit = 0
        assert (llama.cache_limit, llama.cached_bytes) == (0, 0)


def vocabulary(tokens: Sequence[str], bos: int = 1, eos: int | None = 2) -> Any:
    """A tokenizer and its metadata, as far as they are compared."""
    special = SimpleNamespace(bos_id=bos, eos_id=eos)
    return SimpleNamespace(special=special), {"tokenizer.ggml.tokens": tokens}


def test_another_vocabulary_is_refused(folder: Path) -> None:
    """The first token, number of tokens or role that differs is named."""
    with pytest.raises(InvalidOptionError, match="it has 300 tokens, the model 288"):
        opened(folder, "larger")
    model = vocabulary(["a", "b", "c"])
    check_same_vocabulary(model, vocabulary(["a", "b", "c"]))
    for draft, complaint in (
        (vocabulary(["a", "x", "y"]), "token 1 is 'x', of the model 'b'"),
        (vocabulary(["a", "b"]), "it has 2 tokens, the model 3"),
        (vocabulary(["a", "b", "c"], bos=0), "its BOS is token 0, the model's 1"),
        (vocabulary(["a", "b", "c"], eos=None), "its EOS is token None, the model's 2"),
    ):
        with pytest.raises(InvalidOptionError, match=complaint):
            check_same_vocabulary(model, draft)


class GuessingEngine:
    """A draft model that guesses what it likes, as sure of it as it likes."""

    def __init__(self, rng: random.Random) -> None:
        self.config = SimpleNamespace(context_length=10_000)
        self.scheduler = SimpleNamespace(costs=SimpleNamespace(one_token_s=1e5))
        self.rng = rng
        self.num_steps = 0

    def new_cache(self, length: int) -> Any:
        """A cache that only counts."""
        cache = SimpleNamespace(length=0, context_length=length)

        def reuse(tokens: Sequence[int]) -> int:
            cache.length = min(cache.length, len(tokens) - 1)
            return int(cache.length)

        cache.reuse = reuse
        return cache

    def forward(self, tokens: Sequence[int], cache: Any, **options: Any) -> Any:
        """Logits of one token."""
        cache.length += len(tokens)
        if options.get("logits") == "none":
            return None
        self.num_steps += 1
        logits = np.zeros((1, 50), np.float32)
        logits[0, self.rng.randrange(50)] = self.rng.uniform(0, 12)
        return logits


@pytest.mark.parametrize("costs", [AVX512, AVX2], ids=["avx512", "avx2"])
@pytest.mark.parametrize("hits", [0.0, 0.3, 0.7, 1.0])
def test_guesses_of_a_model_cost_no_more_than_promised(costs: Sequence[float], hits: float) -> None:
    """However wrong, they cost a hundredth and a step; seven right of ten make a third faster."""
    num_tokens, whole_cost = 0, 0.0
    for seed in range(8):
        rng = random.Random(seed)
        engine: Any = GuessingEngine(rng)
        drafter = ModelDrafter(engine, KnownCosts(fixed=costs), 5000, CancelToken())
        text, cost, prompt = list(range(20)), 0.0, 20
        while len(text) < 620:
            draft = list(drafter.draft(text, 11))
            cost += costs[1 + len(draft)]
            for guess in [*draft, None]:
                is_right = guess is not None and rng.random() < hits
                text.append(guess if is_right and guess is not None else 99)
                if not is_right:
                    break
        cost += 0.1 * engine.num_steps
        count = len(text) - prompt
        assert cost <= count * (1 + CREDIT_PER_TOKEN) + FIRST_CREDIT + 0.2
        num_tokens, whole_cost = num_tokens + count, whole_cost + cost
    if hits >= 0.7 and costs is AVX512:
        assert num_tokens / whole_cost > 1.3
