"""Perplexity and divergence: against NumPy, by their laws, and through the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import CliRunner
from reference.numpy_llama import NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.measure import perplexity
from edgellama.measure.perplexity import compare_models, measure_perplexity
from edgellama.measure.text_chunks import cut_text
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

TEXT = "A llama is no camel, and an alpaca is no sheep. " * 8
CHUNK = 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GGUFFile]]:
    """Two tiny models of one shape with different weights."""
    folder = tmp_path_factory.mktemp("models")
    models = [TinyLlama(heads=3, kv_heads=1, head_size=16, seed=seed) for seed in (0, 1)]
    paths = [write_tiny_llama(folder / f"{model.seed}.gguf", model) for model in models]
    opened = [GGUFFile(path) for path in paths]
    yield opened
    for file in opened:
        file.close()


def reference_scores(file: GGUFFile, chunk: np.ndarray) -> np.ndarray:
    """Log-probabilities over the vocabulary at the scored positions, by NumPy."""
    logits = NumpyLlama(file).forward(chunk)[CHUNK // 2 : -1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return scores


def test_too_short_chunks_are_refused(files: list[GGUFFile]) -> None:
    """Chunks without a scored token are refused before anything is computed."""
    with (
        Engine(files[0], num_threads=1) as engine,
        pytest.raises(InvalidOptionError, match="of 4 tokens"),
    ):
        measure_perplexity(engine, np.ones((1, 4), np.int32))


def test_perplexity_is_that_of_numpy(files: list[GGUFFile]) -> None:
    """Value, error and count follow from the second halves' log-probabilities."""
    chunks = cut_text(load_tokenizer(files[0].metadata), TEXT, CHUNK)
    losses = np.concatenate(
        [
            -reference_scores(files[0], chunk)[np.arange(CHUNK // 2 - 1), chunk[CHUNK // 2 + 1 :]]
            for chunk in chunks
        ]
    )
    seen: list[tuple[int, int]] = []
    with Engine(files[0], num_threads=1) as engine:
        result = measure_perplexity(engine, chunks, progress=lambda *step: seen.append(step))
    assert result.value == pytest.approx(np.exp(losses.mean()), rel=1e-3)
    expected = np.exp(losses.mean()) * losses.std(ddof=1) / np.sqrt(len(losses))
    assert result.uncertainty == pytest.approx(expected, rel=1e-2)
    assert (result.num_tokens, result.num_chunks) == (len(losses), len(chunks))
    assert seen == [(number, len(chunks)) for number in range(1, len(chunks) + 1)]


def test_divergence_is_that_of_numpy(files: list[GGUFFile]) -> None:
    """Mean KL and agreement of two models; a model is no distance from itself."""
    chunks = cut_text(load_tokenizer(files[0].metadata), TEXT, CHUNK)[:2]
    with Engine(files[0], num_threads=1) as engine, Engine(files[1], num_threads=1) as base:
        _, _, divergence = compare_models(engine, base, chunks)
        own, other, none = compare_models(engine, engine, chunks)
    own_scores, base_scores = (
        np.concatenate([reference_scores(file, chunk) for chunk in chunks]) for file in files
    )
    expected = (np.exp(base_scores) * (base_scores - own_scores)).sum(axis=1).mean()
    assert divergence.kl == pytest.approx(expected, rel=1e-2)
    agreement = (own_scores.argmax(axis=1) == base_scores.argmax(axis=1)).mean()
    assert divergence.top_agreement == pytest.approx(agreement, abs=0.07)
    assert (none.kl, none.top_agreement) == (0.0, 1.0)
    assert own == other


def test_other_vocabularies_do_not_compare(files: list[GGUFFile], tmp_path: Path) -> None:
    """Models of different vocabularies are refused with both sizes."""
    path = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(vocab_size=320))
    with (
        GGUFFile(path) as file,
        Engine(files[0], num_threads=1) as engine,
        Engine(file, num_threads=1) as base,
        pytest.raises(InvalidOptionError, match="288 and 320"),
    ):
        compare_models(engine, base, np.ones((1, CHUNK), np.int32))


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1e4])
def test_losses_without_a_perplexity_are_an_error(
    files: list[GGUFFile], monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    """What a damaged model computes is no figure, in JSON least of all."""
    monkeypatch.setattr(perplexity, "_losses", lambda scores, chunk: np.full(4, loss))
    with (
        Engine(files[0], num_threads=1) as engine,
        pytest.raises(EdgellamaError, match="its weights are damaged"),
    ):
        measure_perplexity(engine, np.ones((1, CHUNK), np.int32))


def test_the_command_prints_figures(
    run_cli: CliRunner, files: list[GGUFFile], tmp_path: Path
) -> None:
    """Text for people and JSON hold the perplexity; a base adds the comparison."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    own, base = (file.path for file in files)
    result = run_cli("perplexity", own, "-f", text, "-c", str(CHUNK), "--chunks", "2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("perplexity")
    result = run_cli("perplexity", own, "-f", text, "-c", "32", "--kl-base", base, "--json")
    figures = json.loads(result.stdout)
    assert figures["perplexity"] > 1
    assert figures["base"]["perplexity"] > 1
    assert figures["kl"] > 0
    arguments = ("-f", text, "-c", "32", "--chunks", "2", "--kv", "q8_0", "--kl-base", own)
    figures = json.loads(run_cli("perplexity", own, *arguments, "--json").stdout)
    # Of the base, keys and values have 16 bits, whatever is asked of the model.
    assert figures["kv_type"] == "q8_0"
    assert 0 < figures["kl"] < 0.01
    result = run_cli("perplexity", own, "-f", text, "-c", "100000")
    assert result.returncode == 1
    assert "less than a chunk of 100000; give a longer text" in result.stderr
