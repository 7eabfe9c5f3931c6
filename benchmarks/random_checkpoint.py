"""Writes a Hugging Face folder of a Llama's shape with random weights, to measure with.

Convert it to get a model of any type: conversion, speed and memory do not depend on what the
weights are. Takes the memory of one tensor. The vocabulary is a real ``tokenizer.model``
(Llama 3's is in the wheel of ``llama-models``, one of 32,000 tokens in that of
``mistral-common``).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

POOL_SIZE = 1 << 24
SHARD_BYTES = 5_000_000_000
LLAMA_3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the family; ``config`` is the rest of its ``config.json``."""

    vocab_size: int
    width: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    config: Mapping[str, object]

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Hugging Face names and shapes, in the usual order."""
        width, key = self.width, self.width // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab_size, width)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", (width,)
            yield f"{prefix}.self_attn.q_proj.weight", (width, width)
            yield f"{prefix}.self_attn.k_proj.weight", (key, width)
            yield f"{prefix}.self_attn.v_proj.weight", (key, width)
            yield f"{prefix}.self_attn.o_proj.weight", (width, width)
            yield f"{prefix}.post_attention_layernorm.weight", (width,)
            yield f"{prefix}.mlp.gate_proj.weight", (self.feed_forward, width)
            yield f"{prefix}.mlp.up_proj.weight", (self.feed_forward, width)
            yield f"{prefix}.mlp.down_proj.weight", (width, self.feed_forward)
        yield "model.norm.weight", (width,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab_size, width)


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "llama-3.2-1b": Shape(
            *(128256, 2048, 8192, 16, 32, 8, True),
            {
                "max_position_embeddings": 131072,
                "rope_theta": 500000.0,
                "rope_scaling": LLAMA_3_SCALING,
                "bos_token_id": 128000,
                "eos_token_id": [128001, 128008, 128009],
            },
        ),
        "llama-2-7b": Shape(
            *(32000, 4096, 11008, 32, 32, 32, False),
            {
                "max_position_embeddings": 4096,
                "rope_theta": 10000.0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        ),
    }
)


def write_config(folder: Path, shape: Shape, dtype: str) -> None:
    """``config.json``."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": 1e-5,
        "torch_dtype": {"F16": "float16", "BF16": "bfloat16"}[dtype],
        **shape.config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def in_shards(shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    """The tensors cut into files of about SHARD_BYTES."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, sizes in shape.tensors():
        num_bytes = 2 * int(np.prod(sizes))
        if filled and filled + num_bytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = sizes
        filled += num_bytes
    return shards


def random_values(pool: Floats, rng: np.random.Generator, sizes: tuple[int, ...]) -> Floats:
    """A norm about one, or a matrix that keeps the size of what it multiplies."""
    if len(sizes) == 1:
        return 1 + np.float32(0.1) * pool[: sizes[0]]
    count, start = int(np.prod(sizes)), int(rng.integers(POOL_SIZE))
    values = np.resize(np.concatenate([pool[start:], pool[:start]]), count)
    return values.reshape(sizes) * np.float32(sizes[1] ** -0.5)


def encoded(values: Floats, dtype: str) -> bytes:
    """F16, or BF16 by cutting the lower half off."""
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_shard(
    path: Path, tensors: Mapping[str, tuple[int, ...]], dtype: str, pool: Floats, seed: int
) -> None:
    """One safetensors file."""
    header: dict[str, object] = {}
    offset = 0
    for name, sizes in tensors.items():
        end = offset + 2 * int(np.prod(sizes))
        header[name] = {"dtype": dtype, "shape": list(sizes), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for sizes in tensors.values():
            file.write(encoded(random_values(pool, rng, sizes), dtype))


def write_checkpoint(folder: Path, shape: Shape, dtype: str, tokenizer: Path, seed: int) -> None:
    """The whole folder."""
    folder.mkdir(parents=True)
    write_config(folder, shape, dtype)
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    pool = np.random.default_rng(seed).standard_normal(POOL_SIZE, np.float32)
    shards = in_shards(shape)
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, tensors, dtype, pool, seed + number)
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--dtype", choices=("F16", "BF16"), default="BF16")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    write_checkpoint(options.output, shape, options.dtype, options.tokenizer, options.seed)


if __name__ == "__main__":
    main()
