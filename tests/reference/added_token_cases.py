"""Folders whose tokenizers differ in added tokens and in spaces, written file by file.

The vocabularies are fixed, so that committed ids hold whatever libraries a test finds. Which ids
the texts must give is left to make_added_token_golden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from edgellama.quant.vocabulary.sentencepiece_model import model_proto
from edgellama.quant.vocabulary.string_index import StringIndex
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary
from reference import family_tokenizers
from reference.tiny_vocabulary import MERGED_PAIRS, byte_characters

SPACE = "\u2581"
# Merged in this order; every piece is two earlier ones.
MERGED = (
    *("he", "ll", "lo", "llo", "hello", "or", "th", "the", "wor", "ld", "world"),
    *(f"{SPACE}{SPACE}", f"{SPACE}h", f"{SPACE}t", f"{SPACE}w", f"{SPACE}the", f"{SPACE}hello"),
    *(f"{SPACE}world", f"{SPACE}{SPACE}{SPACE}", f"{SPACE}{SPACE}{SPACE}{SPACE}", "in", "us"),
)
LETTERS = (SPACE, *"abcdefghijklmnopqrstuvwxyz")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
PIECES = ("<unk>", "<s>", "</s>", *BYTES, *MERGED, *LETTERS)
NUM_ROWS = 320
ADDED: Mapping[str, Mapping[str, bool]] = {
    "<|im_start|>": {"special": True},
    "<tool>": {},
    "<l>": {"lstrip": True, "special": True},
    "<r>": {"rstrip": True},
    "<both>": {"lstrip": True, "rstrip": True},
    "word": {"single_word": True},
    "<n>": {"normalized": True},
    "<m k>": {"normalized": True, "special": True},
    "in": {"single_word": True, "special": True},
}
TEXTS = (
    *("", " ", "  ", "hello", " hello", "  hello world  ", "hello\n\n world", f"{SPACE}hello"),
    *("<|im_start|>", "<|im_start|>hello", "<|im_start|> hello", "hello<|im_start|>\nhello"),
    *("<s>hello", " <s> hello", "</s><|im_start|>user\nhello</s>\n", "<unk>the"),
    *("<tool>the", "the<tool> the", "  <tool>  ", "<tool", "<tool><tool>", "<<tool>>"),
    *("a <l> b", "a  \n<l> b", "<l><l> <l>", "a <r> b", "a<r> \t\n b", "<r> <r>  ", " <r>"),
    *("a <both> b", "\n<both>\n<both> ", "<r> <l>", "<tool> <both><|im_start|>  hello"),
    *("word", "a word b", "aword", "words", "word1", "1word", "word_", "word's", "<tool>word<l>"),
    *("word\u0301", "\u00e9word", "word\u00b2", "\u2028<l>\u00a0", "\x1c<l>", "<r>\u3000x"),
    *("<n>", "a<n>b", "a <n> b", " <n>", "<n><n>", "<|im_start|><n> hello", "hello <m k> world"),
    *(f"<m{SPACE}k>", "the<m k>the", "\u00e9 \U0001f600 1 2", "in  the   world"),
    *("in", "inin in", "win <tool>in"),
)


@dataclass(frozen=True)
class Case:
    """A folder: "model" for tokenizer.model, "steps" for a tokenizer.json like it, or "bytes"."""

    kind: str
    settings: Mapping[str, object] = field(default_factory=dict)
    json: Mapping[str, Any] = field(default_factory=dict)


def _metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    """Steps with a Metaspace, and a decoder that strips unless nothing is prepended."""
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": step, "decoder": _decoder(scheme != "never")}


def _decoder(strips: bool) -> dict[str, Any]:
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strips else []
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {"type": "Sequence", "decoders": decoders}


_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_OLD = {"normalizer": {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}}
_NO_PREFIX = {"normalizer": _REPLACE, "decoder": _decoder(False)}
_LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
_FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}
CASES: Mapping[str, Case] = {
    "llama": Case("model", _LLAMA | {"legacy": False}),
    "llama-legacy": Case("model", _LLAMA | {"legacy": True}),
    "llama-silent": Case("model", _LLAMA),
    "llama-no-prefix": Case("model", _LLAMA | {"legacy": True, "add_prefix_space": False}),
    "llama-fast-eos": Case(
        "model",
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}
        | {"add_bos_token": False, "add_eos_token": True},
    ),
    "no-class": Case("model", {"add_bos_token": True}),
    "no-class-not-legacy": Case("model", {"add_bos_token": True, "legacy": False}),
    "llama-over-steps": Case("steps", _LLAMA | {"legacy": False}, _OLD),
    "first": Case("steps", _FAST, _metaspace("first")),
    "always": Case("steps", _FAST, _metaspace("always")),
    "never": Case("steps", _FAST, _metaspace("never")),
    "split-words": Case("steps", _FAST, _metaspace("always", split=True)),
    "prepend": Case("steps", _FAST | {"legacy": False}, _OLD),
    "replace": Case("steps", _FAST, _NO_PREFIX),
    "replace-first": Case("steps", _FAST, _metaspace("first") | {"normalizer": _REPLACE}),
    "bytes": Case("bytes", _FAST),
    "bytes-whole-words": Case("bytes", _FAST, {"ignore_merges": True}),
}


def write(case: Case, folder: Path) -> None:
    """The files of a case."""
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    if case.kind == "bytes":
        content = _byte_level(case)
    elif case.kind == "steps":
        processor = SentencePieceProcessor(model_proto=sentencepiece_model())
        content = family_tokenizers.fast_tokenizer(processor)
        added = [{"id": token, **entry} for token, entry in _added(PIECES).items()]
        content["added_tokens"] = sorted(content["added_tokens"] + added, key=lambda e: e["id"])
        content["post_processor"] = family_tokenizers.post_processor("<s>", 1)["processors"][1]
        content |= {"decoder": _decoder(True)} | dict(case.json)
    else:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        decoder = family_tokenizers.added_tokens_decoder(("<unk>", "<s>", "</s>"), 0)
        decoder |= {str(token): entry for token, entry in _added(PIECES).items()}
        settings = {**roles, **case.settings, "added_tokens_decoder": decoder}
        family_tokenizers.write_json(folder / "tokenizer_config.json", settings)
        return
    family_tokenizers.write_json(folder / "tokenizer.json", content)
    family_tokenizers.write_json(folder / "tokenizer_config.json", {**roles, **case.settings})


def _added(vocab: Sequence[str]) -> dict[int, dict[str, Any]]:
    """The added tokens by id: behind the vocabulary, or where it has them already."""
    beside = [text for text in ADDED if text not in vocab]
    ids = [*vocab, *beside]
    return {
        ids.index(text): {"content": text, "special": False, **_NO_FLAGS, **flags}
        for text, flags in ADDED.items()
    }


_NO_FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def sentencepiece_model() -> bytes:
    """The fixed vocabulary as a file holds it."""
    control, byte = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL], [TokenType.BYTE]
    num_words = len(MERGED) + len(LETTERS)
    tokens = [text.encode() for text in PIECES]
    vocabulary = Vocabulary(
        tokens=tokens,
        types=bytes([*control, *byte * 256, *[TokenType.NORMAL] * num_words]),
        scores=np.array([0.0] * 259 + [-float(i) for i in range(num_words)], np.float32),
        has_types=True,
        index=StringIndex(tokens),
    )
    return model_proto(vocabulary, add_space_prefix=True, remove_extra_whitespaces=False)


def _byte_level(case: Case) -> dict[str, Any]:
    merges = [pair.split(" ") for pair in MERGED_PAIRS]
    vocab = ["<s>", "</s>", *byte_characters(), *(left + right for left, right in merges)]
    added = [{"id": token, **entry} for token, entry in _added(vocab).items()]
    ends = family_tokenizers.added_tokens(("<s>", "</s>"), 0)
    return {
        "version": "1.0",
        "added_tokens": sorted(ends + added, key=lambda entry: entry["id"]),
        "normalizer": None,
        "pre_tokenizer": family_tokenizers.pre_tokenizer("llama-bpe"),
        "post_processor": family_tokenizers.post_processor("<s>", 0),
        "decoder": family_tokenizers.DECODER,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": case.json.get("ignore_merges", False),
            "vocab": {text: index for index, text in enumerate(vocab)},
            "merges": merges,
        },
    }
