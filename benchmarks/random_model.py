"""Writes a model of Llama-3.2-1B's shape with random weights, to measure speed and memory with.

Blocks are random bytes with scales that keep the logits finite; the vocabulary is Llama 3's
own, taken from its ``tokenizer.model`` (in the wheel of ``llama-models``). Needs numpy and gguf.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

WIDTH, FEED_FORWARD, LAYERS = 2048, 8192, 16
HEADS, KV_HEADS, HEAD_SIZE = 32, 8, 64
CONTEXT_LENGTH, ROPE_BASE = 131072, 500000.0
NUM_SPECIAL_TOKENS = 256
NAMED_SPECIAL_TOKENS = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
K_MIXES = ("q2_k", "q3_k", "q4_k", "q5_k")
"""Types whose attn_v and ffn_down have six bits in some layers, as Q4_K_M has."""
FILE_TYPES = {
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q5_1": LlamaFileType.MOSTLY_Q5_1,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q2_k": LlamaFileType.MOSTLY_Q2_K,
    "q3_k": LlamaFileType.MOSTLY_Q3_K_M,
    "q4_k": LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k": LlamaFileType.MOSTLY_Q5_K_M,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "iq4_nl": LlamaFileType.MOSTLY_IQ4_NL,
    "iq4_xs": LlamaFileType.MOSTLY_IQ4_XS,
}


@dataclass(frozen=True)
class RandomBlocks:
    """Where a block has its half scale, and what random bytes come to at a scale of one.

    ``minimum`` is the second half scale, just behind the first, in units of the first: it
    centres the weights. ``deviation`` is their standard deviation.
    """

    scale_at: int
    deviation: float
    minimum: float | None = None

    def make(self, rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Bytes:
        """uint8 ``shape`` (blocks, bytes of one) that dequantize to about ``spread``."""
        blocks = np.frombuffer(bytearray(rng.bytes(shape[0] * shape[1])), np.uint8).reshape(shape)
        scales = random_scales(rng, shape[0], spread / self.deviation)
        if self.minimum is not None:
            scales = np.concatenate([scales, self.minimum * scales], axis=1)
        halves = scales.astype(np.float16).view(np.uint8)
        blocks[:, self.scale_at : self.scale_at + halves.shape[1]] = halves
        return blocks


BLOCKS: Mapping[GGMLQuantizationType, RandomBlocks] = {
    GGMLQuantizationType.Q4_0: RandomBlocks(0, 4.6),
    GGMLQuantizationType.Q4_1: RandomBlocks(0, 4.6, -7.5),
    GGMLQuantizationType.Q5_0: RandomBlocks(0, 9.2),
    GGMLQuantizationType.Q5_1: RandomBlocks(0, 9.2, -15.5),
    GGMLQuantizationType.Q8_0: RandomBlocks(0, 74),
    GGMLQuantizationType.Q2_K: RandomBlocks(80, 13.9, 1.5),
    GGMLQuantizationType.Q3_K: RandomBlocks(108, 43.3),
    GGMLQuantizationType.Q4_K: RandomBlocks(0, 258, 7.5),
    GGMLQuantizationType.Q5_K: RandomBlocks(0, 527, 15.5),
    GGMLQuantizationType.Q6_K: RandomBlocks(208, 1370),
    GGMLQuantizationType.IQ4_NL: RandomBlocks(0, 67),
    GGMLQuantizationType.IQ4_XS: RandomBlocks(0, 1250),
}


def random_scales(rng: np.random.Generator, num_blocks: int, size: float) -> Any:
    """float32 [num_blocks, 1] about ``size`` with random signs."""
    values = rng.random((num_blocks, 1), np.float32) * np.float32(0.6) + np.float32(0.7)
    return np.where(rng.random((num_blocks, 1), np.float32) < 0.5, -size, size) * values


def read_ranks(path: Path) -> list[bytes]:
    """Tokens of a tiktoken file in the order of their ranks."""
    lines = path.read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines]


def gpt2_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merges_of(tokens: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Every split of a token into two others; as Hugging Face's TikTokenConverter orders them."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token in tokens:
        splits = [(token[:end], token[end:]) for end in range(1, len(token))]
        known = [split for split in splits if split[0] in ranks and split[1] in ranks]
        yield from sorted(known, key=lambda split: (ranks[split[0]], ranks[split[1]]))


def special_tokens() -> list[str]:
    """Llama 3.2's control tokens."""
    texts: list[str] = []
    for index in range(NUM_SPECIAL_TOKENS):
        num_reserved = sum(text.startswith("<|reserved") for text in texts)
        reserved = f"<|reserved_special_token_{num_reserved}|>"
        texts.append(NAMED_SPECIAL_TOKENS.get(index, reserved))
    return texts


def add_vocabulary(writer: GGUFWriter, path: Path) -> int:
    """Write the tokenizer's metadata; the number of tokens."""
    tokens, characters = read_ranks(path), gpt2_characters()

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    special = special_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*map(written, tokens), *special])
    writer.add_token_types([TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(special))
    writer.add_token_merges([f"{written(a)} {written(b)}" for a, b in merges_of(tokens)])
    first = len(tokens)
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first + 9)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    return first + len(special)


def add_hyperparameters(writer: GGUFWriter, type_name: str, vocab_size: int) -> None:
    """Write the sizes of the model."""
    writer.add_name(f"Random Llama 1B {type_name}")
    writer.add_file_type(FILE_TYPES[type_name])
    writer.add_quantization_version(2)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(vocab_size)


def rope_divisors(factor: float = 32.0, low: float = 1.0, high: float = 4.0) -> Any:
    """Llama 3.1's divisors of the rotation frequencies, float32 [HEAD_SIZE / 2]."""
    original_context = 8192
    frequencies = ROPE_BASE ** -(np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    wavelengths = 2 * np.pi / frequencies
    smooth = np.clip((original_context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def tensor_types(type_name: str, vocab_size: int) -> dict[str, Any]:
    """(rows, columns, type) of every matrix and None for every norm, in the file's order."""
    base = GGMLQuantizationType[type_name.upper()]
    embedding = base if type_name == "q8_0" else GGMLQuantizationType.Q6_K
    query, key = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    tensors: dict[str, Any] = {"token_embd": (vocab_size, WIDTH, embedding)}
    for layer in range(LAYERS):
        more = type_name in K_MIXES and keeps_more(layer)
        larger = GGMLQuantizationType.Q6_K if more else base
        tensors |= {
            f"blk.{layer}.attn_norm": None,
            f"blk.{layer}.attn_q": (query, WIDTH, base),
            f"blk.{layer}.attn_k": (key, WIDTH, base),
            f"blk.{layer}.attn_v": (key, WIDTH, larger),
            f"blk.{layer}.attn_output": (WIDTH, query, base),
            f"blk.{layer}.ffn_norm": None,
            f"blk.{layer}.ffn_gate": (FEED_FORWARD, WIDTH, base),
            f"blk.{layer}.ffn_up": (FEED_FORWARD, WIDTH, base),
            f"blk.{layer}.ffn_down": (WIDTH, FEED_FORWARD, larger),
        }
    return tensors | {"output_norm": None}


def keeps_more(layer: int) -> bool:
    """Whether Q4_K_M gives the layer's attn_v and ffn_down six bits."""
    eighth = LAYERS // 8
    return layer < eighth or layer >= 7 * LAYERS // 8 or (layer - eighth) % 3 == 2


def tensor_data(rng: np.random.Generator, kind: Any) -> Bytes | Any:
    """One tensor's values: a norm about one, or rows of random blocks."""
    if kind is None:
        return rng.normal(1, 0.1, WIDTH).astype(np.float32)
    rows, columns, ggml_type = kind
    block_size, block_bytes = GGML_QUANT_SIZES[ggml_type]
    spread = (3.0 if rows > FEED_FORWARD else 1.0) / columns**0.5
    shape = (rows * columns // block_size, block_bytes)
    return BLOCKS[ggml_type].make(rng, shape, spread).reshape(rows, -1)


def write_model(path: Path, type_name: str, tokenizer: Path, seed: int) -> None:
    """Write the model; tensors are made one at a time, so it takes little memory."""
    writer = GGUFWriter(path, "llama")
    vocab_size = add_vocabulary(writer, tokenizer)
    add_hyperparameters(writer, type_name, vocab_size)
    rope_freqs, tensors = rope_divisors(), tensor_types(type_name, vocab_size)
    writer.add_tensor_info("rope_freqs.weight", rope_freqs.shape, rope_freqs.dtype, 4 * 32)
    for name, kind in tensors.items():
        if kind is None:
            writer.add_tensor_info(f"{name}.weight", (WIDTH,), np.dtype(np.float32), 4 * WIDTH)
            continue
        rows, columns, ggml_type = kind
        block_size, block_bytes = GGML_QUANT_SIZES[ggml_type]
        shape = (rows, columns // block_size * block_bytes)
        num_bytes = shape[0] * shape[1]
        writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.uint8), num_bytes, ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    writer.write_tensor_data(rope_freqs)
    for kind in tensors.values():
        writer.write_tensor_data(tensor_data(rng, kind))
    writer.close()


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=FILE_TYPES, default="q4_0", help="weight format")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Llama 3's tokenizer.model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_model(options.output, options.type, options.tokenizer, options.seed)


if __name__ == "__main__":
    main()
