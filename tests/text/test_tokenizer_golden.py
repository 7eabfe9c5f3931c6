"""Tokenizers of real models on hard text, against ids that the reference libraries gave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from places import DATA
from reference.tokenizer_references import hard_text, visible
from reference.vocabularies import (
    LLAMA3_RANKS,
    MISTRAL_V1,
    fetch,
    llama3_metadata,
    sentencepiece_metadata,
)
from sentencepiece import SentencePieceProcessor

from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import StreamingDetokenizer, Tokenizer, load_tokenizer

GOLDEN = DATA / "tokenizer_golden.npz"
SMOLLM2_PATTERNS = ("smollm", "gpt-2", "default")


@cache
def golden() -> Mapping[str, list[list[int]]]:
    """Ids of every hard text, by case."""
    with np.load(GOLDEN) as arrays:
        return {
            name: [row.tolist() for row in np.split(arrays[name], arrays[f"{name}-ends"][:-1])]
            for name in arrays
            if not name.endswith("-ends")
        }


@pytest.fixture(scope="module")
def tokenizers(smollm2_path: Path) -> dict[str, Tokenizer]:
    """Every real tokenizer that a golden case names."""
    processor = SentencePieceProcessor(model_file=str(fetch(MISTRAL_V1)))
    with GGUFFile(smollm2_path) as file:
        smollm2 = dict(file.metadata)
    return {
        "mistral-v1": load_tokenizer(sentencepiece_metadata(processor)),
        "llama3": load_tokenizer(llama3_metadata(fetch(LLAMA3_RANKS))),
    } | {
        f"smollm2-{pattern}": load_tokenizer({**smollm2, "tokenizer.ggml.pre": pattern})
        for pattern in SMOLLM2_PATTERNS
    }


@pytest.mark.parametrize("case", sorted(golden()))
def test_ids_equal_the_reference(case: str, tokenizers: dict[str, Tokenizer]) -> None:
    """Every hard text gives the ids of sentencepiece, tiktoken or Hugging Face tokenizers."""
    tokenizer = tokenizers[case.removesuffix("-special")]
    parse_special = case.endswith("-special")
    expected = golden()[case]
    assert len(expected) == len(hard_text())
    for text, ids in zip(hard_text(), expected, strict=True):
        found = tokenizer.encode(text, add_bos=False, parse_special=parse_special)
        assert found == ids, ascii(text)


def test_every_tokenizer_and_both_ways_are_covered() -> None:
    """The golden file holds each kind of vocabulary, and look-alikes matter in it."""
    names = {"llama3", *(f"smollm2-{pattern}" for pattern in SMOLLM2_PATTERNS)}
    assert set(golden()) == {"mistral-v1", *names, *(f"{name}-special" for name in names)}
    for name in names:
        assert golden()[name] != golden()[f"{name}-special"]


@pytest.mark.parametrize("name", ["mistral-v1", "llama3"])
def test_text_comes_back(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    """Where the vocabulary covers every byte, decoding gives the text back, also in a stream."""
    tokenizer = tokenizers[name]
    for text in hard_text():
        ids = tokenizer.encode(text, add_bos=False)
        # SentencePiece writes a space as this character and cannot tell the two apart.
        expected = visible(text).replace("\u2581", " " if name == "mistral-v1" else "\u2581")
        stream = StreamingDetokenizer(tokenizer)
        assert tokenizer.decode(ids) == expected
        assert "".join(map(stream.add, ids)) + stream.finish() == expected


def test_smollm2_loses_only_bytes_that_it_lacks(tokenizers: dict[str, Tokenizer]) -> None:
    """Bytes without a token vanish, as in Hugging Face tokenizers, and nothing else does."""
    tokenizer = tokenizers["smollm2-smollm"]
    known = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    for text in hard_text():
        kept = bytes(byte for byte in visible(text).encode() if bytes([byte]) in known)
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == kept


def test_bos_follows_the_model(tokenizers: dict[str, Tokenizer]) -> None:
    """Llama 3 and Mistral start with one BOS by themselves, SmolLM2 does not."""
    starts = {"mistral-v1": [1], "llama3": [128000], "smollm2-smollm": []}
    for name, start in starts.items():
        tokenizer = tokenizers[name]
        assert tokenizer.encode("x") == start + tokenizer.encode("x", add_bos=False)


def test_a_parsed_bos_is_not_doubled(tokenizers: dict[str, Tokenizer]) -> None:
    """Text that brings its own BOS gets no second one."""
    tokenizer = tokenizers["llama3"]
    text = "<|begin_of_text|>x"
    assert tokenizer.encode(text, parse_special=True) == tokenizer.encode("x")
    assert tokenizer.encode(text).count(128000) == 1


def test_end_of_generation_ids(tokenizers: dict[str, Tokenizer]) -> None:
    """Every end of text, turn and message stops a reply, declared or known by name."""
    assert tokenizers["llama3"].special.end_of_generation == {128001, 128008, 128009}
    assert tokenizers["mistral-v1"].special.end_of_generation == {2}
    assert tokenizers["smollm2-smollm"].special.end_of_generation == {0, 2}


def test_libraries_are_imported_only_for_their_tokenizers() -> None:
    """Importing the tokenizers and templates imports none of the libraries behind them."""
    code = (
        "import sys, edgellama.text.tokenizer, edgellama.text.chat_template;"
        "print([m for m in ('regex', 'sentencepiece', 'jinja2', 'numba') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
