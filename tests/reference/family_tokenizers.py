"""Tiny tokenizers of every kind that the family comes with, as the files beside a checkpoint.

Vocabularies are trained on the English text of the tests; sizes are those that a kind needs at
least, and quirks are those of the real files.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer

from reference.tiny_vocabulary import byte_characters
from reference.tokenizer_references import LLAMA3_PATTERN, published_patterns

ENGLISH = Path(__file__).parent.parent / "data" / "english.txt"
NUM_PIECES = 400
NUM_MERGES = 60
DECODER: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": False,
    "use_regex": True,
}
INFILL_PIECES = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")


@cache
def sentencepiece_model(
    model_type: str = "bpe",
    num_pieces: int = NUM_PIECES,
    *,
    removes_spaces: bool = False,
    normalization: str = "identity",
) -> bytes:
    """A trained SentencePiece model with byte fallback, as a file holds it."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH.read_text("utf-8").splitlines()),
        model_writer=model,
        model_type=model_type,
        vocab_size=num_pieces,
        byte_fallback=model_type in ("bpe", "unigram"),
        split_digits=True,
        character_coverage=0.99,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=removes_spaces,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def with_pieces(model: bytes, pieces: Sequence[str]) -> bytes:
    """The model with more plain pieces at the end: a message is its fields, in any order."""
    added = b""
    for piece in pieces:
        text = piece.encode()
        entry = b"\x0a" + bytes([len(text)]) + text + b"\x15" + bytes(4)
        added += b"\x0a" + bytes([len(entry)]) + entry
    return model + added


@cache
def byte_level_merges(pattern: str) -> tuple[tuple[str, str], ...]:
    """The first merges that byte-level BPE learns."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + NUM_MERGES, initial_alphabet=byte_characters(), show_progress=False
    )
    tokenizer.train_from_iterator(ENGLISH.read_text("utf-8").splitlines(), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tuple((left, right) for left, right in merges)


# Published with Llama 3's own spelling, which llama.cpp has rewritten.
_SPELLED = {"smaug-bpe": [LLAMA3_PATTERN]}


def split_patterns(kind: str) -> list[str]:
    """The patterns that a kind's tokenizer.json holds."""
    return _SPELLED.get(kind, published_patterns()[kind][0])


def byte_level_tokens(pattern: str) -> list[str]:
    """The 256 bytes and what the merges make of them."""
    return [*byte_characters(), *(left + right for left, right in byte_level_merges(pattern))]


def pre_tokenizer(kind: str) -> dict[str, Any]:
    """How a real tokenizer.json cuts text into words."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if kind == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, {**byte_level, "use_regex": True}]}
    if kind == "gpt-2":
        return {**byte_level, "use_regex": True}
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in split_patterns(kind)
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, {**byte_level, "use_regex": False}]}


def post_processor(bos: str, token: int) -> dict[str, Any]:
    """One that puts BOS before every text."""
    first = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, first],
        "pair": [first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [token], "tokens": [bos]}},
    }
    return {"type": "Sequence", "processors": [DECODER, template]}


def byte_level_tokenizer(
    kind: str,
    special: Sequence[str],
    *,
    bos: str | None = None,
    merges_as_pairs: bool = False,
    special_first: bool = False,
) -> dict[str, Any]:
    """A ``tokenizer.json``: special tokens after the vocabulary, or in it and before the rest."""
    pattern = split_patterns(kind)[-1]
    texts = byte_level_tokens(pattern)
    merges = byte_level_merges(pattern)
    start = 0 if special_first else len(texts)
    vocab = [*special, *texts] if special_first else texts
    return {
        "version": "1.0",
        "added_tokens": added_tokens(special, start),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(kind),
        "post_processor": post_processor(bos, start + special.index(bos)) if bos else DECODER,
        "decoder": DECODER,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": published_patterns()[kind][1],
            "vocab": {text: index for index, text in enumerate(vocab)},
            "merges": [list(pair) for pair in merges]
            if merges_as_pairs
            else [" ".join(pair) for pair in merges],
        },
    }


def added_tokens(texts: Sequence[str], start: int) -> list[dict[str, Any]]:
    """Special tokens as a tokenizer.json lists them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": start + index, "content": text, **flags, "special": True}
        for index, text in enumerate(texts)
    ]


def added_tokens_decoder(texts: Sequence[str], start: int) -> dict[str, Any]:
    """Special tokens as a tokenizer_config.json lists them."""
    return {str(entry.pop("id")): entry for entry in added_tokens(texts, start)}


def fast_tokenizer(processor: Any) -> dict[str, Any]:
    """A ``tokenizer.json`` with every split of a piece as a merge, as transformers makes it.

    Merges go by score, those of equal scores by the lengths of their parts, the longest first.
    """
    pieces = {processor.id_to_piece(index): index for index in range(processor.vocab_size())}
    scored = []
    for piece, index in pieces.items():
        if processor.is_control(index) or processor.is_byte(index):
            continue
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = [(a, b) for a, b in splits if a in pieces and b in pieces]
        found.sort(key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
        scored += [(processor.get_score(index), len(a), len(b), a, b) for a, b in found]
    scored.sort(key=lambda merge: merge[:3], reverse=True)
    merges = [[a, b] for _, _, _, a, b in scored]
    return {
        "version": "1.0",
        "added_tokens": added_tokens(("<unk>", "<s>", "</s>"), 0),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": pieces,
            "merges": merges,
        },
    }


def tiktoken_model() -> bytes:
    """A ``tokenizer.model`` as Meta's for Llama 3."""
    values = {character: byte for byte, character in enumerate(byte_characters())}
    lines = []
    for rank, text in enumerate(byte_level_tokens(LLAMA3_PATTERN)):
        encoded = base64.b64encode(bytes(values[character] for character in text)).decode()
        lines.append(f"{encoded} {rank}\n")
    return "".join(lines).encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Compact JSON in ASCII."""
    path.write_text(json.dumps(value), "ascii")
