"""The reference libraries set up for a vocabulary: sentencepiece, tiktoken, tokenizers.

Each reference is a function from text to ids. Lone surrogates in a text stand for bytes that
are not UTF-8; how a library gets to see them is settled here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Encode = Callable[[str], list[int]]

HARD_TEXT = Path(__file__).parent.parent / "data" / "hard_text.json"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_PATTERNS = Path(__file__).parent.parent / "data" / "split_patterns.json"


@cache
def published_patterns() -> dict[str, tuple[list[str], bool]]:
    """By name the patterns that llama.cpp or the tokenizer itself has, and ``ignore_merges``."""
    content = json.loads(SPLIT_PATTERNS.read_text("ascii"))
    return {
        name: (content["patterns"][entry["type"]], entry.get("ignore_merges", False))
        for name, entry in content["names"].items()
    }


def hard_text() -> list[str]:
    """The committed hard text, one test case an item."""
    texts: list[str] = json.loads(HARD_TEXT.read_text("ascii"))
    return texts


def visible(text: str) -> str:
    """The text as libraries see it that take only well-formed text."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def sentencepiece_ids(processor: Any) -> Encode:
    """sentencepiece, fed the raw bytes."""
    return lambda text: list(processor.encode(text.encode("utf-8", "surrogateescape")))


def tiktoken_ids(ranks: Mapping[bytes, int], control: Sequence[str], *, special: bool) -> Encode:
    """tiktoken with Llama 3's pattern; ``special`` parses control tokens."""
    import tiktoken

    encoding = tiktoken.Encoding(
        "llama3",
        pat_str=LLAMA3_PATTERN,
        mergeable_ranks=dict(ranks),
        special_tokens={text: len(ranks) + index for index, text in enumerate(control)},
    )
    if special:
        return lambda text: encoding.encode(text, allowed_special="all")
    return encoding.encode_ordinary


def hugging_face_ids(metadata: Mapping[str, Any], *, special: bool = False) -> Encode:
    """Hugging Face's BPE with the vocabulary, merges and split pattern of a GGUF file."""
    from tokenizers import AddedToken, Tokenizer, models

    tokens = list(metadata["tokenizer.ggml.tokens"])
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    pattern = metadata["tokenizer.ggml.pre"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]],
            ignore_merges=published_patterns()[pattern][1],
        )
    )
    tokenizer.pre_tokenizer = _pre_tokenizer(pattern)
    for index, token in enumerate(tokens):
        if types[index] == 4 or (special and types[index] == 3):
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return lambda text: list(tokenizer.encode(visible(text)).ids)


def _pre_tokenizer(pattern: str) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    byte_level = ByteLevel(add_prefix_space=False, use_regex=False)
    if pattern == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    if pattern == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    splits = (Split(Regex(p), "isolated") for p in published_patterns()[pattern][0])
    return Sequence([*splits, byte_level])
