"""The tensors of a Llama, found by their GGUF names and checked for shape and format.

Matrices stay where the file is mapped; small vectors become f32 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.signatures import FLOAT_FORMATS, QUANTIZED_FORMATS
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf_file import GGUFFile, Tensor
from edgellama.quant.model_config import ModelConfig

FloatVector = npt.NDArray[np.float32]
RUNNABLE_FORMATS = (*FLOAT_FORMATS, *QUANTIZED_FORMATS)


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as it lies in the file, (num_rows, num_columns), with an optional bias."""

    name: str
    format_name: str
    num_rows: int
    num_columns: int
    row_bytes: int
    data: npt.NDArray[np.uint8]
    bias: FloatVector | None = None

    @property
    def address(self) -> int:
        """Where the first row begins."""
        return int(self.data.ctypes.data)

    @property
    def is_quantized(self) -> bool:
        """Whether it is multiplied with int8 activations rather than f32."""
        return self.format_name in QUANTIZED_FORMATS


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer, by GGUF's names."""

    attn_norm: FloatVector
    attn_q: Matrix
    attn_k: Matrix
    attn_v: Matrix
    attn_output: Matrix
    ffn_norm: FloatVector
    ffn_gate: Matrix
    ffn_up: Matrix
    ffn_down: Matrix


@dataclass(frozen=True)
class ModelWeights:
    """A whole model; ``output`` is ``token_embd`` where the two are tied."""

    token_embd: Matrix
    layers: tuple[LayerWeights, ...]
    output_norm: FloatVector
    output: Matrix
    rope_freqs: FloatVector | None


def load_weights(file: GGUFFile, config: ModelConfig) -> ModelWeights:
    """All tensors of the model.

    Raises ModelFileError for a missing or misshapen tensor, UnsupportedModelError for a format
    that the engine cannot run.
    """
    reader = _TensorReader(file)
    width, vocab = config.embedding_length, config.vocab_size
    token_embd = reader.matrix("token_embd", vocab, width)
    output = reader.matrix("output", vocab, width) if reader.has("output.weight") else token_embd
    return ModelWeights(
        token_embd=token_embd,
        layers=tuple(_layer(reader, config, f"blk.{i}.") for i in range(config.block_count)),
        output_norm=reader.vector("output_norm.weight", width),
        output=output,
        rope_freqs=reader.divisors("rope_freqs.weight", config.rope.dimension_count // 2),
    )


def _layer(reader: _TensorReader, config: ModelConfig, prefix: str) -> LayerWeights:
    width, hidden = config.embedding_length, config.feed_forward_length
    query, key = config.query_length, config.key_length
    return LayerWeights(
        attn_norm=reader.vector(f"{prefix}attn_norm.weight", width),
        attn_q=reader.matrix(f"{prefix}attn_q", query, width),
        attn_k=reader.matrix(f"{prefix}attn_k", key, width),
        attn_v=reader.matrix(f"{prefix}attn_v", key, width),
        attn_output=reader.matrix(f"{prefix}attn_output", width, query),
        ffn_norm=reader.vector(f"{prefix}ffn_norm.weight", width),
        ffn_gate=reader.matrix(f"{prefix}ffn_gate", hidden, width),
        ffn_up=reader.matrix(f"{prefix}ffn_up", hidden, width),
        ffn_down=reader.matrix(f"{prefix}ffn_down", width, hidden),
    )


class _TensorReader:
    """Looks tensors up and checks them."""

    def __init__(self, file: GGUFFile) -> None:
        self._path = file.path
        self._tensors = file.tensors

    def has(self, name: str) -> bool:
        return name in self._tensors

    def matrix(self, name: str, num_rows: int, num_columns: int) -> Matrix:
        tensor = self._tensor(f"{name}.weight", (num_rows, num_columns))
        if tensor.format.name not in RUNNABLE_FORMATS:
            raise UnsupportedModelError(
                f"{self._path}: tensor {tensor.name} has format {tensor.format.name}, "
                f"which cannot run; supported: {', '.join(RUNNABLE_FORMATS)}"
            )
        if num_columns % 4:
            raise UnsupportedModelError(
                f"{self._path}: tensor {tensor.name} has rows of {num_columns} elements; "
                "supported: multiples of 4"
            )
        return Matrix(
            name=tensor.name,
            format_name=tensor.format.name,
            num_rows=num_rows,
            num_columns=num_columns,
            row_bytes=tensor.format.row_bytes(num_columns),
            data=tensor.data,
            bias=self.optional_vector(f"{name}.bias", num_rows),
        )

    def vector(self, name: str, length: int) -> FloatVector:
        tensor = self._tensor(name, (length,))
        if tensor.format.name == "F32":
            return tensor.data.view(np.float32).copy()
        if tensor.format.name == "F16":
            return tensor.data.view(np.float16).astype(np.float32)
        if tensor.format.name == "BF16":
            return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        raise UnsupportedModelError(
            f"{self._path}: tensor {name} has format {tensor.format.name}; "
            f"supported for vectors: {', '.join(FLOAT_FORMATS)}"
        )

    def optional_vector(self, name: str, length: int) -> FloatVector | None:
        return self.vector(name, length) if self.has(name) else None

    def divisors(self, name: str, length: int) -> FloatVector | None:
        values = self.optional_vector(name, length)
        if values is not None and not ((values > 0) & np.isfinite(values)).all():
            raise ModelFileError(
                f"{self._path}: tensor {name} holds {values.min()} to {values.max()}; "
                "divisors must be positive numbers"
            )
        return values

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self._path}: tensor {name} is missing")
        if tensor.shape != shape:
            raise ModelFileError(
                f"{self._path}: tensor {name} has shape {tensor.shape}; needed: {shape}"
            )
        return tensor
