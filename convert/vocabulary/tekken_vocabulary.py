"""The vocabulary of Mistral's ``tekken.json``: control tokens, then byte strings by their rank.

It is the only tokenizer in folders that Mistral publishes for its own programs. Merges are made as
in ``tiktoken_vocabulary``; ``vocabulary_source`` chooses the file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.split_pattern_names import NAME_IT, checked_name, name_of_pattern
from edgellama.convert.vocabulary.tiktoken_vocabulary import MAX_TOKEN_BYTES, merges, written
from edgellama.convert.vocabulary.tokenizer_settings import checked_id, well_known_ids
from edgellama.convert.vocabulary.vocabulary import ConvertedVocabulary, Token, TokenTable
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.vocabulary.vocabulary import TokenType

ROLES = {"unknown": "<unk>", "bos": "<s>", "eos": "</s>", "padding": "<pad>"}
UNNAMED = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
"""The control tokens of files that name none, in order."""


def tekken_vocabulary(file: Fields, num_rows: int, pre: str | None) -> ConvertedVocabulary:
    """What GGUF holds of the tokenizer; ``pre`` is the split pattern's name, None for its own.

    Raises ModelFileError, and UnsupportedModelError for a pattern without a name.
    """
    config = file.fields("config")
    num_control = config.size("default_num_special_tokens")
    num_ranks = config.size("default_vocab_size") - num_control
    ranks = _read_ranks(file, num_ranks)
    table = TokenTable(file.source)
    for token, text in enumerate(_control_texts(file, num_control)):
        table.put(token, Token(text, TokenType.CONTROL))
    for string, rank in ranks.items():
        table.put(num_control + rank, Token(written(string), TokenType.NORMAL))
    tokens = table.finished(num_rows)
    ids_by_text = {token.text: index for index, token in enumerate(tokens)}
    ids = {role: ids_by_text[text] for role, text in ROLES.items() if text in ids_by_text}
    return ConvertedVocabulary(
        model="gpt2",
        pre=_pattern_name(config) if pre is None else checked_name(pre),
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        merges=[f"{written(left)} {written(right)}" for left, right in merges(ranks)],
        special_ids=ids | well_known_ids(ids_by_text),
        settings={"add_bos_token": "bos" in ids, "add_eos_token": False, "add_space_prefix": False},
    )


def _pattern_name(config: Fields) -> str:
    pattern = config.text("pattern") or ""
    name = name_of_pattern(pattern)
    if name is None:
        raise UnsupportedModelError(
            f"{config.source}: text is cut into words by {shown(pattern)}, which is none of the "
            "patterns that are recognised",
            way=NAME_IT,
        )
    return name


def _control_texts(file: Fields, count: int) -> Iterator[str]:
    """Texts of the control tokens, which come first; those without a name get one."""
    named = dict(enumerate(UNNAMED))
    if file.has("special_tokens"):
        named = {}
        for entry in file.objects("special_tokens"):
            named[checked_id(entry, "rank")] = entry.text("token_str") or ""
    for token in range(count):
        yield named.get(token) or f"<SPECIAL_{token}>"


def _read_ranks(file: Fields, count: int) -> dict[bytes, int]:
    """The first ``count`` byte strings, whose ranks are 0 and up without a gap."""
    ranks: dict[bytes, int] = {}
    for entry in file.objects("vocab"):
        if len(ranks) == count:
            break
        try:
            token = base64.b64decode(entry.text("token_bytes") or "", validate=True)
        except (binascii.Error, ValueError):
            token = b""
        if not 0 < len(token) <= MAX_TOKEN_BYTES or token in ranks:
            raise entry.error("token_bytes", f"1 to {MAX_TOKEN_BYTES} new bytes in base64")
        if entry.values.get("rank") != len(ranks):
            raise entry.error("rank", f"{len(ranks)}, as ranks go up without a gap")
        ranks[token] = len(ranks)
    if not 256 <= len(ranks) == count:
        raise ModelFileError(
            f"{file.source}: {len(ranks)} byte strings; allowed: {max(count, 256)}, by its config"
        )
    return ranks
