"""Embeddings: transformers' last hidden states, pooled; many texts at once; what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import DATA
from reference.family import MEMBERS
from reference.tiny_models import TinyLlama, write_llama, write_tiny_llama

from edgellama import ContextLengthError, EdgellamaError, InvalidOptionError, Llama
from edgellama.convert.model.description import describe
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.engine.engine import Engine
from edgellama.generation.judging.embedding import HowToEmbed, recommended_pooling
from edgellama.quant.errors import ModelFileError, UnsupportedModelError

HIDDEN: dict[str, Any] = dict(np.load(DATA / "embedding_golden.npz"))
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """The model's file, as arrays."""
    return dict(np.load(DATA / "golden_gqa_tied.npz"))


@pytest.fixture(scope="module")
def llama(golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """The golden model, exact."""
    shape = TinyLlama(**{**json.loads(str(golden["shape"])), "context_length": 2048})
    weights = {name: array for name, array in golden.items() if name.endswith("weight")}
    path = write_llama(tmp_path_factory.mktemp("embedding") / "golden.gguf", shape, weights)
    with Llama(path, kv_type="f32", exact=True, cache_limit=1 << 24) as llama:
        yield llama


def unit(vector: Any) -> Any:
    """A vector one long."""
    return vector / np.linalg.norm(vector)


def test_golden_vectors(llama: Llama, golden: dict[str, Any]) -> None:
    """Each pooling of last_hidden_state is what transformers' states give, for each text."""
    tokens = golden["tokens"].tolist()
    long, short = HIDDEN["hidden"], HIDDEN["short"]
    pooled = {
        "mean": [long.mean(axis=0), short.mean(axis=0)],
        "last": [long[-1], short[-1]],
        "first": [long[0], short[0]],
    }
    for pooling, expected in pooled.items():
        how: Any = {"pooling": pooling, "normalize": False}
        found = llama.embed([tokens, tokens[: len(short)]], **how)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=TOLERANCE)
        normalized = llama.embed([tokens], pooling=how["pooling"])
        np.testing.assert_allclose(normalized[0], unit(expected[0]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_long_texts(llama: Llama, pooling: Any) -> None:
    """A text of several steps, among short ones, has the vector of all its states."""
    tokens = [7 + number % 200 for number in range(1500)]
    engine: Engine = llama._engine
    rows = engine.forward(tokens, engine.new_cache(1500), logits="rows")
    squares = np.mean(rows.astype(np.float64) ** 2, axis=1, keepdims=True)
    states = rows / np.sqrt(squares + llama.config.rms_epsilon) * engine.weights.output_norm
    expected = {"mean": states.mean(axis=0), "last": states[-1], "first": states[0]}[pooling]
    found = llama.embed(["short"] * 40 + [tokens] + ["short"], pooling=pooling, normalize=False)
    np.testing.assert_allclose(found[40], expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(found[0], found[41])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.text("abc de", min_size=1, max_size=40), max_size=20),
    st.sampled_from(["mean", "last", "first"]),
)
def test_many_as_alone(llama: Llama, texts: list[str], pooling: Any) -> None:
    """Each text's vector is the one that it has alone, bit for bit where the model is exact."""
    together = llama.embed(texts, pooling=pooling)
    assert together.shape == (len(texts), llama.config.embedding_length)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(llama.embed(text, pooling=pooling)[0], row)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)


def test_beside_a_text(llama: Llama) -> None:
    """Texts that are generated meanwhile share steps with embeddings, and neither changes."""
    texts = [f"text number {number}" for number in range(60)]
    alone = llama.embed(texts)
    prompts = [[number, 1, 2] for number in range(3, 8)]
    expected = [llama.generate(prompt, max_tokens=40, temperature=0).tokens for prompt in prompts]
    found: list[tuple[int, ...]] = []

    def generate() -> None:
        results = llama.generate_batch(prompts, max_tokens=40, temperature=0)
        found.extend(result.tokens for result in sorted(results, key=lambda each: each.index))

    thread = threading.Thread(target=generate)
    thread.start()
    together = [llama.embed(texts) for _ in range(3)]
    thread.join()
    assert found == expected
    for vectors in together:
        np.testing.assert_array_equal(vectors, alone)


def test_rows_beside_logits(llama: Llama) -> None:
    """One step gives residual rows of some sequences and logits of others, to each its own."""
    engine: Engine = llama._engine
    tokens = [5, 6, 7]
    wanted = ["rows", "last", "rows"]
    works: list[Any] = [
        engine.work([number, *tokens], engine.new_cache(8), logits=each)  # type: ignore[arg-type]
        for number, each in enumerate(wanted)
    ]
    engine.scheduler.run_any(works)
    for number, each in enumerate(wanted):
        width = llama.config.embedding_length if each == "rows" else llama.config.vocab_size
        alone = engine.forward([number, *tokens], engine.new_cache(8), logits=each)  # type: ignore[arg-type]
        np.testing.assert_array_equal(works[number].result(width), alone)


def test_nothing_stays(llama: Llama) -> None:
    """Embedded texts leave no pages behind, and take no chat's place in the prompt cache."""
    llama.generate(list(range(1, 200)), max_tokens=1)
    before = llama.cached_bytes
    assert before
    llama.embed([list(range(200))] * 3)
    assert llama.cached_bytes == before
    assert llama._engine.pool().num_owned == 0


def test_early_end(llama: Llama) -> None:
    """Leaving the loop gives the memory of what was begun back."""
    embeddings = llama.embed_each(f"text {number}" for number in range(10_000))
    assert next(embeddings).num_tokens > 1
    assert llama._engine.pool().num_owned
    embeddings.close()
    assert llama._engine.pool().num_owned == 0


def test_texts_are_read_as_there_is_room(llama: Llama) -> None:
    """Of endless texts only some are read before the first vector comes."""
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "some text"

    for _, embedding in zip(range(300), llama.embed_each(texts()), strict=False):
        assert embedding.num_dropped == 0
    assert 300 <= read < 500


def test_truncation(tmp_path: Path) -> None:
    """A text that is too long is refused with both counts, or cut and told; an EOS stays last."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    with Llama(path, context_length=8, kv_type="f32", exact=True) as llama:
        tokens = list(range(3, 15))
        with pytest.raises(ContextLengthError, match="text 1 has 12 tokens, the context 8") as info:
            llama.embed(["ab", tokens])
        assert (info.value.prompt_tokens, info.value.context_length) == (12, 8)
        assert "truncate=True" in str(info.value)
        assert "--truncate" in info.value.in_terminal
        (cut,) = llama.embed_each([tokens], truncate=True)
        assert (cut.num_tokens, cut.num_dropped) == (8, 4)
        np.testing.assert_array_equal(cut.vector, llama.embed([tokens[:8]])[0])
        ended = [*tokens, llama.tokenizer.special.eos_id or 0]
        expected = llama.embed([[*tokens[:7], ended[-1]]])
        np.testing.assert_array_equal(llama.embed([ended], truncate=True), expected)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "empty": (["a", ""], {}, "text 1 is empty; allowed: at least one token"),
    "no ids": ([[]], {}, "text 0 is empty"),
    "bytes": (b"text", {}, "texts is b'text'; allowed: a text, or several"),
    "a number": (5, {}, "texts is 5"),
    "mapping": ({"text": "a"}, {}, "texts is {'text': 'a'}"),
    "ids of one text": ([1, 2], {}, "text 0: the prompt is 1; allowed: text, or token ids"),
    "unknown id": ([[100_000]], {}, "token ids from 100000 to 100000; allowed: 0 to 287"),
    "pooling": ("a", {"pooling": "max"}, "pooling is 'max'; allowed: mean, last, first, or None"),
    "name": ("a", {"poling": "mean"}, "no option 'poling'; did you mean pooling"),
    "normalize": ("a", {"normalize": "yes"}, "normalize is 'yes'; allowed: True or False"),
    "adapter": ("a", {"adapters": {"french": 1.0}}, "french"),
}


@pytest.mark.parametrize(("texts", "options", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(llama: Llama, texts: Any, options: Any, message: str) -> None:
    """What cannot be embedded is refused with its number, the value, and what is allowed."""
    with pytest.raises(InvalidOptionError) as info:
        llama.embed(texts, **options)
    assert message in str(info.value)


def test_no_texts(llama: Llama) -> None:
    """Of no texts there are no rows, as wide as others."""
    assert llama.embed([]).shape == (0, llama.config.embedding_length)


def test_progress(llama: Llama) -> None:
    """Progress hears of each text."""
    told: list[tuple[int, int]] = []
    llama.embed(["a", "b", "c"], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_unloaded_model(llama: Llama) -> None:
    """A model that was unloaded, even between two vectors, is loaded again and gives the same."""
    texts = ["one", "two", "three"]
    expected = llama.embed(texts, pooling="last")
    llama.unload()
    each = llama.embed_each(texts, pooling="last")
    first = next(each).vector
    llama.unload()
    found = np.stack([first, *(embedding.vector for embedding in each)])
    np.testing.assert_array_equal(found, expected)


def test_closed_model(tmp_path: Path) -> None:
    """A closed model says so at once."""
    llama = Llama(write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama()))
    llama.close()
    with pytest.raises(EdgellamaError, match="this model is closed"):
        llama.embed("a")


@pytest.mark.parametrize(
    ("value", "pooling"), [(0, "mean"), (1, "mean"), (2, "first"), (3, "last")]
)
def test_recommended_pooling(value: int, pooling: str) -> None:
    """The file's pooling holds where the caller names none; the caller's where it does."""
    metadata = {"llama.pooling_type": value}
    assert HowToEmbed.of({}, metadata).pooling == pooling
    assert HowToEmbed.of({"pooling": "first"}, metadata).pooling == "first"
    assert HowToEmbed.of({}, {}).pooling == "mean"
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": value}
    assert HowToEmbed.of({}, metadata).pooling == pooling


MODES: dict[str, tuple[dict[str, bool], int | None]] = {
    "mean": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
    "first": ({"pooling_mode_cls_token": True}, 2),
    "last": ({"pooling_mode_lasttoken": True}, 3),
    "several": ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}, None),
    "none": ({}, None),
}


@pytest.mark.parametrize(("modes", "value"), MODES.values(), ids=MODES.keys())
def test_pooling_of_checkpoints(modes: dict[str, bool], value: int | None, tmp_path: Path) -> None:
    """What sentence-transformers' file says of pooling goes into the converted file."""
    folder = next(m for m in MEMBERS if m.name == "llama-2").write(tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with open_checkpoint(folder) as checkpoint:
        item = describe(checkpoint).metadata.get("llama.pooling_type")
    assert (None if item is None else item.value) == value


def test_other_pooling() -> None:
    """A ranking head is refused unless the caller chooses, a number of no meaning always."""
    with pytest.raises(UnsupportedModelError, match="ranks texts by a head of its own"):
        recommended_pooling({"llama.pooling_type": 4})
    assert HowToEmbed.of({"pooling": "last"}, {"llama.pooling_type": 4}).pooling == "last"
    for value in (9, "mean", None, 1.5):
        with pytest.raises(ModelFileError, match="pooling_type is"):
            recommended_pooling({"llama.pooling_type": value})
