"""The vocabulary of a list of byte strings in tiktoken's format: Meta's ``tokenizer.model`` for
Llama 3, and ``qwen.tiktoken`` of the first Qwen.

The file has neither merges nor special tokens. Every way to split a token into two others is a
merge. The special tokens are those that each model's own program adds, Meta's under the names that
its published conversions to Hugging Face give them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from edgellama.convert.sources.json_fields import read_file
from edgellama.convert.vocabulary.bpe_vocabulary import finished_vocabulary
from edgellama.convert.vocabulary.split_pattern_names import NAME_IT, checked_name
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    well_known_ids,
)
from edgellama.convert.vocabulary.vocabulary import (
    MAX_TOKENS,
    ConvertedVocabulary,
    Token,
    TokenTable,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.vocabulary.vocabulary import TokenType

MAX_TOKEN_BYTES = 256
BOS, EOS, PADDING = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
_KIND = "a tokenizer in tiktoken's format"


def _reserved(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"<|reserved_special_token_{number}|>" for number in range(first, last + 1))


_HEADER = ("<|start_header_id|>", "<|end_header_id|>")
LLAMA_3 = (
    *(BOS, EOS, *_reserved(0, 3), *_HEADER),
    *(*_reserved(4, 4), "<|eot_id|>", *_reserved(5, 250)),
)
LLAMA_3_1 = (
    *(BOS, EOS, *_reserved(0, 1), PADDING, *_reserved(2, 2), *_HEADER),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *_reserved(3, 247)),
)
PATTERNS: Mapping[str, str] = MappingProxyType({"ChatGLM4Tokenizer": "glm4"})
"""The names of split patterns by tokenizers' classes, where special tokens are declared."""
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205)))


def is_tiktoken(path: Path) -> bool:
    """Whether a ``tokenizer.model`` starts as a list of tiktoken's, and not as a message."""
    with path.open("rb") as file:
        first = file.read(MAX_TOKEN_BYTES).split(b"\n")[0]
    parts = first.split(b" ")
    return len(parts) == 2 and parts[1].strip().isdigit()


def tiktoken_vocabulary(
    path: Path, num_rows: int, pre: str | None, *, scaled_positions: bool
) -> ConvertedVocabulary:
    """What GGUF holds of the tokenizer.

    ``scaled_positions``: whether the model scales positions, as Llama 3.1 and its successors do;
    they name special tokens differently.
    """
    special = LLAMA_3_1 if scaled_positions else LLAMA_3
    roles = {"bos": BOS, "eos": EOS, "padding": PADDING}
    return _vocabulary(path, num_rows, pre or "llama-bpe", special, roles)


def qwen_vocabulary(path: Path, num_rows: int, pre: str | None) -> ConvertedVocabulary:
    """What GGUF holds of the first Qwen's tokenizer, which begins no text with a token."""
    return _vocabulary(path, num_rows, pre or "qwen2", QWEN, {"eos": QWEN[0]})


def declared_vocabulary(
    path: Path, settings: TokenizerSettings, num_rows: int, pre: str | None
) -> ConvertedVocabulary:
    """What GGUF holds of a tokenizer whose special tokens tokenizer_config.json lists.

    UnsupportedModelError for a class whose split pattern is unknown, unless ``pre`` says it.
    """
    name = pre or PATTERNS.get(settings.tokenizer_class)
    if name is None:
        raise UnsupportedModelError(
            f"{path}: no file says how {shown(settings.tokenizer_class)} cuts text into words",
            way=NAME_IT,
        )
    ranks = _read_ranks(path)
    entries = {written(token): rank for token, rank in ranks.items()}
    table = TokenTable(str(path))
    for text, rank in entries.items():
        table.put(rank, Token(text, TokenType.NORMAL))
    pairs = [f"{written(left)} {written(right)}" for left, right in merges(ranks)]
    return finished_vocabulary(table, entries, pairs, settings, num_rows, checked_name(name))


def _vocabulary(
    path: Path, num_rows: int, pre: str, special: Sequence[str], roles: Mapping[str, str]
) -> ConvertedVocabulary:
    ranks = _read_ranks(path)
    table = TokenTable(str(path))
    texts = {token: written(token) for token in ranks}
    for token, rank in ranks.items():
        table.put(rank, Token(texts[token], TokenType.NORMAL))
    for index, text in enumerate(special):
        table.put(len(ranks) + index, Token(text, TokenType.CONTROL))
    tokens = table.finished(num_rows)
    ids_by_text = {token.text: index for index, token in enumerate(tokens)}
    ids = {role: ids_by_text[text] for role, text in roles.items() if text in ids_by_text}
    return ConvertedVocabulary(
        model="gpt2",
        pre=checked_name(pre),
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        merges=[f"{texts[left]} {texts[right]}" for left, right in merges(ranks)],
        special_ids=ids | well_known_ids(ids_by_text),
        settings={"add_bos_token": "bos" in ids, "add_eos_token": False, "add_space_prefix": False},
    )


def merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every split of a token into two, by the token's rank and then by those of its parts.

    ``ranks`` are in order.
    """
    rank_of = ranks.get
    for token in ranks:
        pairs = []
        for cut in range(1, len(token)):
            left, right = rank_of(token[:cut]), rank_of(token[cut:])
            if left is not None and right is not None:
                pairs.append((left, right, cut))
        for _, _, cut in sorted(pairs):
            yield token[:cut], token[cut:]


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Byte strings and their ranks, which must be 0 and up without a gap."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_file(path, _KIND).splitlines()):
        if not line:
            continue
        encoded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            token = b""
        if not 0 < len(token) <= MAX_TOKEN_BYTES or rank != b"%d" % len(ranks) or token in ranks:
            raise ModelFileError(
                f"{path}: line {number + 1} is {shown(line)}; allowed: the {len(ranks)}th token "
                "in base64, new, and its rank"
            )
        ranks[token] = len(ranks)
    if not 256 <= len(ranks) <= MAX_TOKENS:
        raise ModelFileError(f"{path}: {len(ranks)} tokens; allowed: 256 to {MAX_TOKENS}")
    return ranks


def written(token: bytes) -> str:
    """Bytes as GPT-2 writes them: a printable character for each."""
    return "".join(map(_STAND_INS.__getitem__, token))


def _stand_ins() -> tuple[str, ...]:
    """GPT-2's printable character for each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: 256 + index for index, byte in enumerate(others)}
    return tuple(chr(shifted.get(byte, byte)) for byte in range(256))


_STAND_INS = _stand_ins()
