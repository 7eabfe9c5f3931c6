"""Dynamic NTK scaling: transformers' logits beyond the original length, and what may be reused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.tiny_models import TinyLlama, write_llama, write_tiny_llama

from edgellama import Llama
from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.quant.gguf.file import GGUFFile

GOLDEN: dict[str, Any] = dict(np.load(DATA / "dynamic_golden.npz"))
TOKENS: list[int] = GOLDEN["tokens"].tolist()
ORIGINAL = 16
PROMPTS = (1, 16, 17, 33)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The golden model, exact, so that bits can be compared."""
    path = tmp_path_factory.mktemp("dynamic") / "dynamic.gguf"
    shape = TinyLlama(**json.loads(str(GOLDEN["shape"])))
    weights = {name: array for name, array in GOLDEN.items() if name.endswith("weight")}
    with (
        GGUFFile(write_llama(path, shape, weights)) as file,
        Engine(file, kv_type="f32", exact=True, cache_limit=1 << 24) as engine,
    ):
        yield engine


def new_cache(engine: Engine) -> KVCache:
    """Room for all tokens."""
    return engine.new_cache(len(TOKENS) + 400)


@pytest.mark.parametrize("length", PROMPTS)
def test_prompt(engine: Engine, length: int) -> None:
    """A prompt computed at once has transformers' logits, below and beyond the original length."""
    logits = engine.forward(TOKENS[:length], new_cache(engine), logits="all")
    np.testing.assert_allclose(logits, GOLDEN[f"prompt/{length}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", PROMPTS)
@pytest.mark.parametrize("at_once", [1, 3])
def test_decoding(engine: Engine, length: int, at_once: int) -> None:
    """Tokens after a prompt have them too, whether a step brings one of them or several."""
    cache = new_cache(engine)
    engine.forward(TOKENS[:length], cache)
    rows = [
        engine.forward(TOKENS[place : place + at_once], cache, logits="all")
        for place in range(length, len(TOKENS), at_once)
    ]
    expected = GOLDEN[f"decoded/{length}"]
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=TOLERANCE)


def test_scaling_matters(engine: Engine) -> None:
    """The lengths of prompts tell their logits apart, so that the tests above can fail."""
    one, other = GOLDEN["prompt/33"][16], GOLDEN["prompt/17"][16]
    assert np.abs(one - other).max() > 100 * TOLERANCE


def test_session_after_session(engine: Engine) -> None:
    """A prompt gives the same bits whatever the sequence held before: shorter, longer, decoded."""
    alone = engine.forward(TOKENS[:33], new_cache(engine))
    cache = new_cache(engine)
    for before in (TOKENS[:12], TOKENS[:20], TOKENS[:39]):
        left = before[cache.reuse(before) :]
        engine.forward(left, cache)
        engine.forward(TOKENS[-1:], cache)
        left = TOKENS[cache.reuse(TOKENS[:33]) : 33]
        np.testing.assert_array_equal(engine.forward(left, cache), alone)


def test_what_is_reused(engine: Engine) -> None:
    """Up to the original length and for the same prompt tokens are reused, else computed anew."""
    cache = new_cache(engine)
    engine.forward(TOKENS[:10], cache)
    assert cache.reuse(TOKENS[:16]) == 10
    engine.forward(TOKENS[10:16], cache)
    assert cache.reuse(TOKENS[:17]) == 0
    engine.forward(TOKENS[:17], cache)
    assert cache.fork().reuse(TOKENS[:17]) == 16
    assert cache.reuse(TOKENS[:18]) == 0


def test_pages_of_other_prompts(engine: Engine) -> None:
    """Pages are found again by prompts of the same length alone, and then give the same bits."""
    tokens = (TOKENS * 10)[:300]
    first = new_cache(engine)
    first.reuse(tokens)
    logits = engine.forward(tokens, first)
    again, longer = new_cache(engine), new_cache(engine)
    assert longer.reuse([*tokens, 1]) == 0
    assert again.reuse(tokens) == 256
    np.testing.assert_array_equal(engine.forward(tokens[256:], again), logits)


def test_prompt_in_pieces(tmp_path: Path) -> None:
    """How a prompt is cut into steps changes nothing: its length is known from the first."""
    model = TinyLlama(context_length=64, rope_dynamic_factor=40.0, layers=1)
    with GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file:
        tokens = np.arange(1500) % 256
        rows = []
        with Engine(file, kv_type="f32", exact=True) as engine:
            for step_tokens in (engine.step_tokens, 256):
                engine.scheduler.planner.step_tokens = step_tokens
                rows.append(engine.forward(tokens, engine.new_cache(1500), logits="all"))
    np.testing.assert_array_equal(*rows)


def test_saved_session(tmp_path: Path) -> None:
    """A saved session beyond the original length goes on as the one that was saved."""
    model = TinyLlama(context_length=64, rope_dynamic_factor=4.0)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    prompt = list(range(100))
    with Llama(path, exact=True, kv_type="f32") as llama, llama.session() as session:
        first = session.generate(prompt, max_tokens=8, temperature=0)
        session.save(tmp_path / "saved.session")
        with llama.load_session(tmp_path / "saved.session") as loaded:
            assert loaded.tokens == session.tokens
            again = loaded.generate(prompt, max_tokens=8, temperature=0)
        assert again.statistics.prefilled_tokens == 1
        assert again.tokens == first.tokens


def test_context_length(tmp_path: Path) -> None:
    """The model's context is as many times longer as its factor says, without being asked for."""
    model = TinyLlama(context_length=64, rope_dynamic_factor=4.0)
    with Llama(write_tiny_llama(tmp_path / "tiny.gguf", model)) as llama:
        assert llama.context_length == 256
        result = llama.generate(list(range(200)), max_tokens=5)
    assert result.prompt_tokens == 200
