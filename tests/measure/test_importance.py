"""Importance of columns: the engine's sums against NumPy, and how the text is cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.numpy_llama import Array, NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.measure.importance import measure_importance
from edgellama.measure.input_squares import InputSquares
from edgellama.measure.text_chunks import cut_text
from edgellama.quant.errors import GenerationCancelled, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

TEXT = "hello world, in the beginning there were bytes. " * 20
FLOAT = TinyLlama(width=96, heads=3, kv_heads=1, biases=True)
QUANTIZED = TinyLlama(width=256, feed_forward=512, weight_format="Q8_0", formats={"attn_v": "F16"})


class WatchedLlama(NumpyLlama):
    """Adds up the squares of what every matrix is multiplied with."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.sums: dict[str, Array] = {}

    def _linear(self, name: str, x: Array) -> Array:
        squares = (x.astype(np.float64) ** 2).sum(0)
        self.sums[f"{name}.weight"] = self.sums.get(f"{name}.weight", 0.0) + squares
        return super()._linear(name, x)


def watched_by_numpy(path: Path, chunk_tokens: int, max_chunks: int | None) -> dict[str, Array]:
    """The sums that ``measure_importance`` must find, the output's included."""
    with GGUFFile(path) as file:
        llama = WatchedLlama(file)
        for chunk in cut_text(load_tokenizer(file.metadata), TEXT, chunk_tokens)[:max_chunks]:
            llama.forward(chunk.tolist())
    return llama.sums


@pytest.mark.parametrize(
    ("model", "tolerance"), [(FLOAT, 2e-3), (QUANTIZED, 0.02)], ids=["float", "quantized"]
)
@pytest.mark.parametrize("chunk_tokens", [4, 100])
def test_sums_are_those_of_numpy(
    tmp_path: Path, model: TinyLlama, tolerance: float, chunk_tokens: int
) -> None:
    """All sums, of short steps and long ones, are NumPy's within the activations' error."""
    path = write_tiny_llama(tmp_path / "model.gguf", model)
    expected = watched_by_numpy(path, chunk_tokens, 3)
    found = measure_importance(
        path, TEXT, chunk_tokens=chunk_tokens, max_chunks=3, with_output=True
    )
    assert found.num_tokens == 3 * chunk_tokens
    assert found.chunk_tokens == chunk_tokens
    assert set(found.sums) == set(expected)
    for name, sums in expected.items():
        error = np.linalg.norm(found.sums[name] - sums) / np.linalg.norm(sums)
        assert error < tolerance, name


def test_output_is_counted_on_request(tmp_path: Path) -> None:
    """Without ``with_output`` only the layers' matrices are there, tied output or not."""
    for tied in (False, True):
        path = write_tiny_llama(tmp_path / f"{tied}.gguf", dataclasses.replace(FLOAT, tied=tied))
        layers = measure_importance(path, TEXT, chunk_tokens=20, max_chunks=1).sums
        every = measure_importance(path, TEXT, chunk_tokens=20, max_chunks=1, with_output=True)
        assert all(name.startswith("blk.") for name in layers)
        assert set(every.sums) - set(layers) == {"token_embd.weight" if tied else "output.weight"}


def test_threads_do_not_change_a_bit(tmp_path: Path) -> None:
    """The sums are the same on one thread and on three."""
    path = write_tiny_llama(tmp_path / "model.gguf", QUANTIZED)
    one, three = (
        measure_importance(path, TEXT, chunk_tokens=150, num_threads=count) for count in (1, 3)
    )
    for name, sums in one.sums.items():
        np.testing.assert_array_equal(three.sums[name], sums)


def test_long_chunks_are_several_steps(tmp_path: Path) -> None:
    """A chunk longer than a step is summed whole, and every one starts with an empty cache."""
    path = write_tiny_llama(tmp_path / "model.gguf", dataclasses.replace(FLOAT, context_length=600))
    expected = watched_by_numpy(path, 540, None)
    found = measure_importance(path, TEXT, chunk_tokens=540)
    for name, sums in found.sums.items():
        np.testing.assert_allclose(sums, expected[name], 5e-3)


def test_an_engine_without_an_observer_has_no_such_op(tmp_path: Path) -> None:
    """The instrument costs nothing when it is off, and changes no logits when it is on."""
    path = write_tiny_llama(tmp_path / "model.gguf", FLOAT)
    logits = []
    for observer in (None, InputSquares()):
        with (
            GGUFFile(path) as file,
            Engine(file, hooks=[observer] if observer else [], timer=StepTimer()) as engine,
        ):
            logits.append(engine.forward([1, 2, 3], engine.new_cache(8), logits="all"))
            ops = [op for program in engine._machine.programs.values() for op in program.ops]
        kernels = [op.kernel.family for op in ops]
        assert kernels.count("sum_squares") == (0 if observer is None else 4 * FLOAT.layers + 1)
    np.testing.assert_array_equal(*logits)


def test_text_is_cut_into_chunks(tmp_path: Path) -> None:
    """Chunks hold the text's tokens in order, BOS in place of each first one, without the rest."""
    for add_bos in (True, False):
        model = dataclasses.replace(FLOAT, add_bos=add_bos)
        path = write_tiny_llama(tmp_path / f"{add_bos}.gguf", model)
        with GGUFFile(path) as file:
            tokenizer = load_tokenizer(file.metadata)
        tokens = tokenizer.encode(TEXT, add_bos=add_bos)
        chunks = cut_text(tokenizer, TEXT, 50)
        assert chunks.shape == (len(tokens) // 50, 50)
        assert len(chunks) > 2
        expected = np.array(tokens[: chunks.size]).reshape(chunks.shape)
        np.testing.assert_array_equal(chunks[:, 1:], expected[:, 1:])
        if add_bos:
            assert set(chunks[:, 0].tolist()) == {tokenizer.special.bos_id}
        else:
            np.testing.assert_array_equal(chunks, expected)


def test_bad_lengths_are_refused(tmp_path: Path) -> None:
    """A text shorter than a chunk, or a chunk longer than the context, is said with both counts."""
    path = write_tiny_llama(tmp_path / "model.gguf", FLOAT)
    with pytest.raises(InvalidOptionError, match=r"has 4 tokens, less than a chunk of 256"):
        measure_importance(path, "abc")
    with pytest.raises(InvalidOptionError, match=r"chunks of 257 tokens; allowed: 1 to .* 256"):
        measure_importance(path, TEXT, chunk_tokens=257)


def test_progress_and_cancelling(tmp_path: Path) -> None:
    """Chunks are counted from none to all, and a cancelled run ends before the next one."""
    path = write_tiny_llama(tmp_path / "model.gguf", FLOAT)
    told: list[tuple[int, int]] = []
    measure_importance(
        path, TEXT, chunk_tokens=60, max_chunks=2, progress=lambda *counts: told.append(counts)
    )
    assert told == [(0, 2), (1, 2), (2, 2)]
    token = CancelToken()
    with pytest.raises(GenerationCancelled):
        measure_importance(
            path,
            TEXT,
            chunk_tokens=60,
            cancelled=token,
            progress=lambda done, total: token.cancel() if done == 1 else None,
        )
