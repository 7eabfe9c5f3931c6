"""Writes tiny Llamas with random weights as GGUF files, through the ``gguf`` package.

Weights are drawn so that activations stay near one and logits have some contrast. A format
that the package can quantize is quantized from those weights; the others, which it only
reads, get random valid blocks of about the same spread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, RopeScalingType, quants
from random_blocks import RANDOM_BLOCKS

from edgellama.quant.llama_tensors import HEAD_NORMS
from edgellama.quant.model_config import HEAD_NORMED
from reference.tiny_vocabulary import CHAT_TEMPLATE, TinyVocabulary

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
WRITTEN_BY_GGUF = {
    GGMLQuantizationType[name]
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
}
ONLY_READ = RANDOM_BLOCKS.keys() - WRITTEN_BY_GGUF
"""Formats that the package does not quantize."""


@dataclass(frozen=True)
class TinyLlama:
    """Shape and content of a tiny model; every default can be overridden by name.

    ``weight_format`` holds for all matrices; ``formats`` overrides it by the tensor's short
    name ("attn_v", "token_embd", "output"), or in one layer ("1.attn_v").
    ``head_size`` None means width / heads.
    """

    architecture: str = "llama"
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_size: int | None = None
    layers: int = 2
    feed_forward: int = 96
    vocab_size: int = 288
    context_length: int = 256
    rms_epsilon: float = 1e-5
    rope_base: float = 10000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_original_context: int = 0
    rope_dynamic_factor: float = 1.0
    sliding_window: int | None = None
    weight_format: str = "F32"
    formats: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    biases: bool = False
    rope_freqs: bool = False
    chat_template: str | None = CHAT_TEMPLATE
    add_bos: bool = True
    seed: int = 0

    @property
    def head_length(self) -> int:
        """Elements of one head."""
        return self.head_size or self.width // self.heads

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of every matrix by its GGUF name without ``.weight``."""
        query, key = self.heads * self.head_length, self.kv_heads * self.head_length
        shapes = {"token_embd": (self.vocab_size, self.width)}
        if not self.tied:
            shapes["output"] = (self.vocab_size, self.width)
        for layer in range(self.layers):
            shapes |= {
                f"blk.{layer}.attn_q": (query, self.width),
                f"blk.{layer}.attn_k": (key, self.width),
                f"blk.{layer}.attn_v": (key, self.width),
                f"blk.{layer}.attn_output": (self.width, query),
                f"blk.{layer}.ffn_gate": (self.feed_forward, self.width),
                f"blk.{layer}.ffn_up": (self.feed_forward, self.width),
                f"blk.{layer}.ffn_down": (self.width, self.feed_forward),
            }
        return shapes


def random_weights(model: TinyLlama) -> dict[str, Array]:
    """Every tensor of the model as float32, by its full GGUF name."""
    rng = np.random.default_rng(model.seed)
    weights: dict[str, Array] = {}
    for name, (rows, columns) in model.matrix_shapes().items():
        spread = matrix_spread(name, columns)
        weights[f"{name}.weight"] = rng.normal(0, spread, (rows, columns)).astype(np.float32)
        if model.biases and name.startswith("blk."):
            weights[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)
    norms = ["output_norm"]
    for layer in range(model.layers):
        norms += [f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"]
    for name in norms:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, model.width).astype(np.float32)
    if model.architecture in HEAD_NORMED:
        for layer, norm in product(range(model.layers), HEAD_NORMS):
            values = rng.normal(1, 0.3, model.head_length).astype(np.float32)
            weights[f"blk.{layer}.{norm}.weight"] = values
    if model.rope_freqs:
        divisors = np.linspace(1, 8, model.head_length // 2, dtype=np.float32)
        weights["rope_freqs.weight"] = divisors
    return weights


def matrix_spread(name: str, columns: int) -> float:
    """Standard deviation of a matrix: unit gain, three times that where it makes logits."""
    gain = 3.0 if name in ("token_embd", "output") else 1.0
    return gain / float(np.sqrt(columns))


def write_tiny_llama(path: Path, model: TinyLlama) -> Path:
    """Write ``model`` with random weights to ``path`` and return the path."""
    return write_llama(path, model, random_weights(model))


def write_llama(path: Path, model: TinyLlama, weights: Mapping[str, Array]) -> Path:
    """Write ``weights`` (full GGUF names, float32) in the formats that ``model`` asks for."""
    writer = GGUFWriter(path, model.architecture)
    write_hyperparameters(writer, model)
    vocabulary = TinyVocabulary(model.vocab_size)
    vocabulary.write(writer, chat_template=model.chat_template, add_bos=model.add_bos)
    rng = np.random.default_rng(model.seed + 1)
    for name, values in weights.items():
        data, ggml_type = encode_tensor(name, values, model, rng)
        writer.add_tensor(name, data, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def encode_tensor(
    name: str, values: Array, model: TinyLlama, rng: np.random.Generator
) -> tuple[Array, GGMLQuantizationType]:
    """The tensor's bytes in its format; one-dimensional tensors are always F32."""
    short_name = name.removesuffix(".weight").rsplit(".", 1)[-1]
    in_layer = name.removesuffix(".weight").removeprefix("blk.")
    chosen = model.formats.get(short_name, model.weight_format)
    format_name = model.formats.get(in_layer, chosen) if values.ndim == 2 else "F32"
    ggml_type = GGMLQuantizationType[format_name]
    if ggml_type in ONLY_READ:
        rows, columns = values.shape
        block_size, block_bytes = GGML_QUANT_SIZES[ggml_type]
        if columns % block_size:
            raise ValueError(f"{name}: {columns} columns are not whole {format_name} blocks")
        spread = matrix_spread(name.removesuffix(".weight"), columns)
        num_blocks = rows * columns // block_size
        blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
        factors = rng.uniform(0.7, 1.3, (num_blocks, 1))
        RANDOM_BLOCKS[ggml_type].set_spread(blocks, factors, spread)
        return blocks.reshape(rows, -1), ggml_type
    return quants.quantize(values, ggml_type), ggml_type


def write_hyperparameters(writer: GGUFWriter, model: TinyLlama) -> None:
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.rms_epsilon)
    writer.add_rope_dimension_count(model.head_length)
    writer.add_rope_freq_base(model.rope_base)
    if model.rope_scaling != "none":
        writer.add_rope_scaling_type(RopeScalingType(model.rope_scaling))
        writer.add_rope_scaling_factor(model.rope_factor)
    if model.sliding_window:
        writer.add_sliding_window(model.sliding_window)
    if model.rope_dynamic_factor != 1.0:
        writer.add_float32("edgellama.rope.dynamic_factor", model.rope_dynamic_factor)
    if model.rope_original_context:
        writer.add_rope_scaling_orig_ctx_len(model.rope_original_context)
    writer.add_vocab_size(model.vocab_size)
    if model.head_size is not None:
        writer.add_key_length(model.head_size)
        writer.add_value_length(model.head_size)
