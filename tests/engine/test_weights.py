"""The tensors of a model: found, checked, and refused by name when they cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from reference.tiny_models import TinyLlama, random_weights, write_llama, write_tiny_llama

from edgellama.engine.weights.weights import ModelWeights, load_weights
from edgellama.quant.errors import EdgellamaError, ModelFileError, UnsupportedModelError
from edgellama.quant.formats import FLOAT_FORMATS, QUANTIZED_FORMATS
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig

MODEL = TinyLlama(layers=2, biases=True, rope_freqs=True)


def load(path: Path) -> ModelWeights:
    """The weights of a file."""
    with GGUFFile(path) as file:
        return load_weights(file, ModelConfig.from_gguf(file))


def changed(folder: Path, name: str, values: Any) -> Path:
    """The model with one tensor replaced, or left out where ``values`` is None."""
    weights = random_weights(MODEL)
    if values is None:
        del weights[name]
    else:
        weights[name] = np.asarray(values, np.float32)
    return write_llama(folder / "changed.gguf", MODEL, weights)


def test_all_tensors(tmp_path: Path) -> None:
    """Every matrix is where it was written, with its shape and bias; vectors are f32."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", MODEL)
    written, weights = random_weights(MODEL), load(path)
    assert weights.output.name == "output.weight"
    assert len(weights.layers) == 2
    for index, layer in enumerate(weights.layers):
        for short in (
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ):
            matrix, name = getattr(layer, short), f"blk.{index}.{short}"
            rows = matrix.data.view(np.float32).reshape(matrix.num_rows, matrix.num_columns)
            np.testing.assert_array_equal(rows, written[f"{name}.weight"])
            np.testing.assert_array_equal(matrix.bias, written[f"{name}.bias"])
            assert matrix.row_bytes == 4 * matrix.num_columns
        np.testing.assert_array_equal(layer.ffn_norm, written[f"blk.{index}.ffn_norm.weight"])
    np.testing.assert_array_equal(weights.rope_freqs, written["rope_freqs.weight"])
    np.testing.assert_array_equal(weights.output_norm, written["output_norm.weight"])


def test_tied_output(tmp_path: Path) -> None:
    """Without an output matrix the embedding is used for it, not copied."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(tied=True))
    weights = load(path)
    assert weights.output is weights.token_embd
    assert weights.rope_freqs is None
    assert weights.layers[0].attn_q.bias is None


REQUIRED = [
    "token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.ffn_norm.weight",
    "blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.0.attn_v.weight",
    "blk.1.attn_output.weight", "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight",
    "blk.1.ffn_down.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_tensor(tmp_path: Path, name: str) -> None:
    """A tensor that is not there is named with the file."""
    with pytest.raises(ModelFileError, match=rf"changed\.gguf: tensor {name} is missing"):
        load(changed(tmp_path, name, None))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_q.weight", (64, 32)),
        ("blk.0.attn_k.weight", (64, 64)),
        ("blk.1.ffn_down.weight", (96, 64)),
        ("blk.1.attn_norm.weight", (63,)),
        ("blk.0.attn_q.bias", (32,)),
        ("output.weight", (287, 64)),
        ("output_norm.weight", (1, 64)),
        ("rope_freqs.weight", (7,)),
    ],
)
def test_wrong_shape(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    """A tensor of another shape is named with its shape and the one that is needed."""
    shown = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ModelFileError, match=rf"changed\.gguf: tensor {name} .*{shown}; needed"):
        load(changed(tmp_path, name, np.ones(shape)))


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q_norm.weight", "blk.2.attn_q.weight", "blk.1.attn_q.scale", "output_norm.bias"],
)
def test_tensors_of_another_model(tmp_path: Path, name: str) -> None:
    """What takes part in computing another model, or lies in a layer too many, is named."""
    with pytest.raises(UnsupportedModelError, match=f"{name} has no place in a Llama of 2 layers"):
        load(changed(tmp_path, name, np.ones(4)))


@pytest.mark.parametrize(
    "name", ["blk.0.attn_rot_embd", "blk.1.rope_freqs.weight", "v.patch.weight", "stray"]
)
def test_tensors_that_change_nothing(tmp_path: Path, name: str) -> None:
    """Angles of old files, and what lies outside the model, are left alone."""
    assert len(load(changed(tmp_path, name, np.ones(4))).layers) == 2


def test_unsupported_format(tmp_path: Path) -> None:
    """A matrix in a format without kernels is refused: tensor, format, and what can run."""
    name = "NVFP4"
    model = TinyLlama(width=256, feed_forward=256, formats={"ffn_up": name})
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with pytest.raises(UnsupportedModelError) as caught:
        load(path)
    text = str(caught.value)
    assert "tiny.gguf" in text and "blk.0.ffn_up.weight" in text and name in text
    assert all(supported in text for supported in QUANTIZED_FORMATS + FLOAT_FORMATS)


def test_rows_that_kernels_cannot_read(tmp_path: Path) -> None:
    """Float matrices whose rows are not multiples of four are refused with their width."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(feed_forward=90))
    with pytest.raises(UnsupportedModelError, match=r"tiny\.gguf.*ffn_down.*90.*multiples of 4"):
        load(path)


def vector_file(folder: Path, format_name: str, norm: Any) -> Path:
    """A model whose output norm is stored in another format."""
    weights, path = random_weights(MODEL), folder / "vector.gguf"
    source = write_llama(folder / "source.gguf", MODEL, weights)
    writer = GGUFWriter(path, "llama")
    with GGUFFile(source) as file:
        for key, value in file.metadata.items():
            if key.startswith("llama."):
                number = writer.add_float32 if isinstance(value, float) else writer.add_uint32
                number(key, value)
    for name, values in weights.items():
        if name == "output_norm.weight":
            kind = GGMLQuantizationType[format_name]
            writer.add_tensor(name, quants.quantize(norm, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("format_name", FLOAT_FORMATS)
def test_vector_formats(tmp_path: Path, format_name: str) -> None:
    """Norms stored as any float format become the same numbers as f32."""
    norm = (np.arange(64) / 8 - 3).astype(np.float32)
    weights = load(vector_file(tmp_path, format_name, norm))
    assert weights.output_norm.dtype == np.float32
    np.testing.assert_array_equal(weights.output_norm, norm)


def test_quantized_vector(tmp_path: Path) -> None:
    """A norm in a block format is refused with tensor and format."""
    path = vector_file(tmp_path, "Q8_0", np.ones(64, np.float32))
    with pytest.raises(UnsupportedModelError, match=r"vector\.gguf: tensor output_norm.*Q8_0"):
        load(path)


@pytest.mark.parametrize("divisor", [0.0, -1.0, np.nan, np.inf])
def test_impossible_divisors(tmp_path: Path, divisor: float) -> None:
    """Divisors of frequencies that are not positive numbers are refused with the tensor."""
    divisors = np.ones(8)
    divisors[3] = divisor
    with pytest.raises(EdgellamaError, match=r"changed\.gguf: tensor rope_freqs\.weight"):
        load(changed(tmp_path, "rope_freqs.weight", divisors))
