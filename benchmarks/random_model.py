"""Writes a model of a published shape with random weights, to measure speed and memory with.

Blocks are random bytes with scales that keep the logits finite. The vocabulary is a real one: for
Llama 3, its ``tokenizer.model`` (in the wheel of ``llama-models``); for Llama 1 and 2, any
SentencePiece model of their size (that of Mistral v1 is in the wheel of ``mistral-common``). Where
none is given, tokens are bytes and numbered words.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from random_blocks import RANDOM_BLOCKS
from sentencepiece import SentencePieceProcessor

from edgellama.measure.footprint import tensor_formats
from edgellama.measure.model_outline import MAX_SENTENCEPIECE_TOKENS, ModelOutline
from edgellama.measure.model_presets import MODEL_PRESETS, ModelPreset
from edgellama.quant.formats import FORMATS_BY_NAME, QUANTIZED_FORMATS, Format
from edgellama.quant.llama_tensors import ROPE_FREQS
from edgellama.quant.recipes import RECIPES

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
TYPES = tuple(name for name, recipe in RECIPES.items() if not recipe.is_float)


def random_factors(rng: np.random.Generator, num_blocks: int) -> Any:
    """float32 (num_blocks, 1) about 1 and -1."""
    values = rng.random((num_blocks, 1), np.float32) * np.float32(0.6) + np.float32(0.7)
    return np.where(rng.random((num_blocks, 1), np.float32) < 0.5, -values, values)


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


def add_vocabulary(writer: GGUFWriter, path: Path | None, preset: ModelPreset) -> None:
    """Write the tokenizer's metadata: byte pairs for large vocabularies, else SentencePiece."""
    if path is None:
        add_numbered_words(writer, preset.config.vocab_size)
        return
    is_large = preset.config.vocab_size > MAX_SENTENCEPIECE_TOKENS
    num_tokens = (add_byte_pairs if is_large else add_sentencepiece)(writer, path)
    if num_tokens != preset.config.vocab_size:
        raise SystemExit(
            f"{path} has {num_tokens} tokens, {preset.name} {preset.config.vocab_size}"
        )


def add_byte_pairs(writer: GGUFWriter, path: Path) -> int:
    """Write Llama 3's tokenizer; the number of tokens."""
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


def add_sentencepiece(writer: GGUFWriter, path: Path) -> int:
    """Write a SentencePiece model's tokens; their number."""
    processor = SentencePieceProcessor(model_file=str(path))
    ids = range(processor.vocab_size())
    kinds = (
        (processor.is_unknown, TokenType.UNKNOWN),
        (processor.is_control, TokenType.CONTROL),
        (processor.is_byte, TokenType.BYTE),
        (lambda token: True, TokenType.NORMAL),
    )
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(token) for token in ids])
    writer.add_token_scores([processor.get_score(token) for token in ids])
    writer.add_token_types([next(t for holds, t in kinds if holds(token)) for token in ids])
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_add_bos_token(True)
    return len(ids)


def add_numbered_words(writer: GGUFWriter, num_tokens: int) -> None:
    """Write a vocabulary of control tokens, bytes and numbered words."""
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    num_words = num_tokens - len(texts)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*texts, *(f"\u2581word{number}" for number in range(num_words))])
    writer.add_token_scores([0.0] * len(texts) + [-float(number) for number in range(num_words)])
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * num_words])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def add_hyperparameters(writer: GGUFWriter, type_name: str, preset: ModelPreset) -> None:
    """Write the sizes of the model."""
    config = preset.config
    writer.add_name(f"Random {preset.name} {type_name}")
    writer.add_file_type(RECIPES[type_name].file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embedding_length)
    writer.add_block_count(config.block_count)
    writer.add_feed_forward_length(config.feed_forward_length)
    writer.add_head_count(config.head_count)
    writer.add_head_count_kv(config.head_count_kv)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_layer_norm_rms_eps(config.rms_epsilon)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope.freq_base)
    writer.add_vocab_size(config.vocab_size)


def rope_divisors(preset: ModelPreset) -> Any:
    """Llama 3.1's divisors of the rotation frequencies, float32 [head_size / 2]."""
    original_context, factor = 8192, 32.0 if preset.is_tied else 8.0
    low, high = 1.0, 4.0
    head_size = preset.config.head_size
    frequencies = preset.config.rope.freq_base ** -(np.arange(0, head_size, 2) / head_size)
    wavelengths = 2 * np.pi / frequencies
    smooth = np.clip((original_context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def tensor_data(rng: np.random.Generator, name: str, shape: tuple[int, ...], format: Format) -> Any:
    """One tensor's values: a norm about one, or rows of random blocks."""
    if len(shape) == 1:
        return rng.normal(1, 0.1, shape).astype(np.float32)
    rows, columns = shape
    spread = (1.0 if name.startswith("blk.") else 3.0) / columns**0.5
    num_blocks = rows * columns // format.block_size
    drawn = np.frombuffer(bytearray(rng.bytes(num_blocks * format.block_bytes)), np.uint8)
    kind = RANDOM_BLOCKS[GGMLQuantizationType(format.ggml_id)]
    blocks = drawn.reshape(num_blocks, format.block_bytes)
    return kind.set_spread(blocks, random_factors(rng, num_blocks), spread).reshape(rows, -1)


def write_model(
    path: Path,
    preset: ModelPreset,
    type_name: str,
    tokenizer: Path | None,
    seed: int,
    in_layers: str | None = None,
) -> None:
    """Write the model; tensors are made one at a time, so it takes little memory.

    ``in_layers``: a format for all matrices of the layers, in place of the type's.
    """
    writer = GGUFWriter(path, "llama")
    add_vocabulary(writer, tokenizer, preset)
    add_hyperparameters(writer, type_name, preset)
    outline = ModelOutline.from_preset(preset)
    formats = dict(tensor_formats(outline, type_name))
    if in_layers is not None:
        formats |= {n: FORMATS_BY_NAME[in_layers] for n in formats if n.startswith("blk.")}
    for name, shape in outline.shapes.items():
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
            continue
        stored = (shape[0], formats[name].row_bytes(shape[1]))
        kind = GGMLQuantizationType(formats[name].ggml_id)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for name, shape in outline.shapes.items():
        if name == ROPE_FREQS:
            writer.write_tensor_data(rope_divisors(preset))
        else:
            writer.write_tensor_data(tensor_data(rng, name, shape, formats[name]))
    writer.close()


def resized(preset: ModelPreset, width: int | None, layers: int | None) -> ModelPreset:
    """The same kind of model with other sizes, heads as wide as before."""
    config = preset.config
    width = width or config.embedding_length
    heads = max(1, width // config.head_size)
    config = replace(
        config,
        embedding_length=width,
        block_count=layers or config.block_count,
        feed_forward_length=config.feed_forward_length * width // config.embedding_length,
        head_count=heads,
        head_count_kv=max(1, heads * config.head_count_kv // config.head_count),
    )
    return replace(preset, config=config)


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="GGUF file to write")
    parser.add_argument("--size", choices=MODEL_PRESETS, default="llama-3.2-1b", help="shape")
    parser.add_argument("--type", choices=TYPES, default="q4_0", help="type of weights")
    parser.add_argument(
        "--in-layers", choices=QUANTIZED_FORMATS, help="format of all matrices of the layers"
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model; else words are made up")
    parser.add_argument("--width", type=int, help="another one, for a draft model such as 512")
    parser.add_argument("--layers", type=int, help="another number, such as 12")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    preset = resized(MODEL_PRESETS[options.size], options.width, options.layers)
    write_model(
        options.output, preset, options.type, options.tokenizer, options.seed, options.in_layers
    )


if __name__ == "__main__":
    main()
