"""The tensors of a Llama, found by their GGUF names and checked for shape and format.

Matrices stay where the file is mapped; small vectors become f32 arrays.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.formats import FLOAT_FORMATS, QUANTIZED_FORMATS
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.llama_tensors import OUTPUT, ROPE_FREQS, check_shapes
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

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

    @cached_property
    def address(self) -> int:
        """Where the first row begins."""
        return int(self.data.ctypes.data)

    @cached_property
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
    attn_q_norm: FloatVector | None = None
    attn_k_norm: FloatVector | None = None

    @property
    def form(self) -> tuple[tuple[str, bool], ...]:
        """What decides the layer's kernels: the formats of its matrices, and which have a bias."""
        matrices = (value for value in vars(self).values() if isinstance(value, Matrix))
        return tuple((matrix.format_name, matrix.bias is not None) for matrix in matrices)

    @property
    def is_gated_at_once(self) -> bool:
        """Whether one kernel makes the feed-forward network's product of a long step."""
        matrices = (self.ffn_gate, self.ffn_up, self.ffn_down)
        is_biased = self.ffn_gate.bias is not None or self.ffn_up.bias is not None
        return gates_at_once(*(matrix.format_name for matrix in matrices)) and not is_biased


def gates_at_once(gate: str, up: str, down: str) -> bool:
    """Whether matrices of these formats can be multiplied together, the product left as int8."""
    return gate == up and {gate, down} <= set(QUANTIZED_FORMATS)


@dataclass(frozen=True)
class ModelWeights:
    """A whole model; ``output`` is ``token_embd`` where the two are tied.

    ``rope_freqs`` divides the frequencies of positions, whatever the tensor is called.
    """

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
    try:
        check_shapes(config, {name: tensor.shape for name, tensor in file.tensors.items()})
    except (ModelFileError, UnsupportedModelError) as error:
        raise error.within(file.path) from None
    reader = _TensorReader(file)
    token_embd = reader.matrix("token_embd")
    return ModelWeights(
        token_embd=token_embd,
        layers=tuple(_layer(reader, f"blk.{i}.") for i in range(config.block_count)),
        output_norm=reader.vector("output_norm.weight"),
        output=reader.matrix("output") if OUTPUT in file.tensors else token_embd,
        rope_freqs=reader.divisors(config.rope.divisors or ROPE_FREQS),
    )


def _layer(reader: _TensorReader, prefix: str) -> LayerWeights:
    return LayerWeights(
        attn_norm=reader.vector(f"{prefix}attn_norm.weight"),
        attn_q=reader.matrix(f"{prefix}attn_q"),
        attn_k=reader.matrix(f"{prefix}attn_k"),
        attn_v=reader.matrix(f"{prefix}attn_v"),
        attn_output=reader.matrix(f"{prefix}attn_output"),
        ffn_norm=reader.vector(f"{prefix}ffn_norm.weight"),
        ffn_gate=reader.matrix(f"{prefix}ffn_gate"),
        ffn_up=reader.matrix(f"{prefix}ffn_up"),
        ffn_down=reader.matrix(f"{prefix}ffn_down"),
        attn_q_norm=reader.optional_vector(f"{prefix}attn_q_norm.weight"),
        attn_k_norm=reader.optional_vector(f"{prefix}attn_k_norm.weight"),
    )


class _TensorReader:
    """Gives tensors whose shapes have been checked; UnsupportedModelError for their formats."""

    def __init__(self, file: GGUFFile) -> None:
        self._path = file.path
        self._tensors = file.tensors

    def matrix(self, name: str) -> Matrix:
        tensor = self._tensors[f"{name}.weight"]
        if tensor.format.name not in RUNNABLE_FORMATS:
            raise UnsupportedModelError(
                f"{self._path}: tensor {tensor.name} has format {tensor.format.name}, "
                f"which cannot run; supported: {', '.join(RUNNABLE_FORMATS)}"
            )
        num_rows, num_columns = tensor.shape
        return Matrix(
            name=tensor.name,
            format_name=tensor.format.name,
            num_rows=num_rows,
            num_columns=num_columns,
            row_bytes=tensor.format.row_bytes(num_columns),
            data=tensor.data,
            bias=self.optional_vector(f"{name}.bias"),
        )

    def vector(self, name: str) -> FloatVector:
        tensor = self._tensors[name]
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

    def optional_vector(self, name: str) -> FloatVector | None:
        return self.vector(name) if name in self._tensors else None

    def divisors(self, name: str) -> FloatVector | None:
        values = self.optional_vector(name)
        if values is not None and not ((values > 0) & np.isfinite(values)).all():
            raise ModelFileError(
                f"{self._path}: tensor {name} holds {values.min()} to {values.max()}; "
                "divisors must be positive numbers"
            )
        return values
