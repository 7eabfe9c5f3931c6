"""The whole way of a real model: GGUF file, Hugging Face folder, GGUF file again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import pytest
from places import DATA
from reference.hugging_face_folder import expand, half_split_rows

from edgellama import Llama
from edgellama.convert import convert
from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile

Matrix: TypeAlias = "np.ndarray[Any, np.dtype[np.float32 | np.float16]]"

ENGLISH = DATA / "english.txt"
SCORED_TOKENS = 384
MAX_LOSS = {"q8_0": 0.02, "q4_k_m": 0.1}
"""How far a type's perplexity on so few tokens may be above F16's, int8 activations included.

The weights have been through Q4_1 before: a second grid of four bits costs more than a first.
"""
SAME_METADATA = (
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.chat_template",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.freq_base",
    "llama.rope.dimension_count",
    "llama.vocab_size",
)
SAME_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type")


@pytest.fixture(scope="module")
def converted(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The real model's folder, and what becomes of it in two types."""
    folder = tmp_path_factory.mktemp("round_trip")
    expand(smollm2_path, folder / "checkpoint")
    paths = {name: folder / f"{name}.gguf" for name in ("f16", "q8_0")}
    for name, path in paths.items():
        convert(folder / "checkpoint", path, type=name)
    return {"checkpoint": folder / "checkpoint", **paths}


def perplexity(path: Path) -> float:
    """Of the beginning of an English text."""
    with Llama(path, context_length=SCORED_TOKENS) as llama, GGUFFile(path) as file:
        tokens = llama.tokenizer.encode(ENGLISH.read_text("utf-8"))[:SCORED_TOKENS]
        with Engine(file) as engine:
            cache = engine.new_cache(SCORED_TOKENS)
            rows = engine.forward(tokens, cache, logits="all").astype(np.float64)
            cache.close()
    shifted = rows - rows.max(axis=1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return math.exp(-scores[np.arange(SCORED_TOKENS - 1), tokens[1:]].mean())


def values_of(file: GGUFFile, name: str) -> Matrix:
    """A tensor's values by the gguf package, or by NumPy where they are plain."""
    tensor = file.tensors[name]
    if tensor.format.name == "F16":
        return tensor.data.view(np.float16).reshape(tensor.shape)
    blocks = tensor.data.reshape(*tensor.shape[:-1], -1)
    kind = gguf.GGMLQuantizationType(tensor.format.ggml_id)
    values: Matrix = gguf.quants.dequantize(blocks, kind).reshape(tensor.shape)
    return values


def test_rows_of_a_head_are_split_in_halves() -> None:
    """The helper undoes what the converter does: pairs of rows become two halves of a head."""
    rows = np.arange(8, dtype=np.float16).reshape(8, 1)
    assert half_split_rows(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_weights_come_back(smollm2_path: Path, converted: dict[str, Path]) -> None:
    """The F16 file holds the original's weights, rounded to F16, and no other tensor.

    Layers are alike, so that the first one and the last stand for all.
    """
    with GGUFFile(smollm2_path) as original, GGUFFile(converted["f16"]) as result:
        assert set(result.tensors) == set(original.tensors)
        for name in original.tensors:
            if name.startswith("blk.") and not name.startswith(("blk.0.", "blk.29.")):
                continue
            expected = values_of(original, name).astype(np.float16)
            assert np.array_equal(values_of(result, name), expected), name


def test_description_comes_back(smollm2_path: Path, converted: dict[str, Path]) -> None:
    """Hyper-parameters, vocabulary, special tokens and template are those of the original."""
    with GGUFFile(smollm2_path) as original, GGUFFile(converted["f16"]) as result:
        for key in SAME_METADATA:
            assert result.metadata[key] == pytest.approx(original.metadata[key]), key
        for key in SAME_LISTS:
            assert list(result.metadata[key]) == list(original.metadata[key]), key


def test_same_answer(smollm2_path: Path, converted: dict[str, Path]) -> None:
    """F16 and Q8_0 begin their answer with the original's words."""
    answers = []
    for path in (smollm2_path, converted["f16"], converted["q8_0"]):
        with Llama(path, context_length=256) as llama, llama.chat(temperature=0) as chat:
            answers.append(chat.send("What is gravity?", max_tokens=12).tokens)
    original, f16, q8_0 = answers
    assert f16 == original
    # The twelfth is a near tie, which the rounding of a second quantization decides.
    assert q8_0[:11] == original[:11]


@pytest.mark.slow
def test_perplexity_stays(converted: dict[str, Path], tmp_path: Path) -> None:
    """Quantizing costs what the type is known to cost, and no more."""
    base = perplexity(converted["f16"])
    for name, allowed in MAX_LOSS.items():
        path = tmp_path / f"{name}.gguf"
        convert(converted["checkpoint"], path, type=name)
        assert perplexity(path) / base - 1 < allowed, name
