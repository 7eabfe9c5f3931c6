"""The small files beside a tokenizer, and the tokens with a role that they name.

They are tokenizer_config.json, special_tokens_map.json, added_tokens.json and tokenizer.json;
config.json has the last word on roles. Other modules read vocabularies and added tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from edgellama.convert.sources.json_fields import Fields, read_fields
from edgellama.convert.vocabulary.vocabulary import MAX_TOKENS
from edgellama.quant.vocabulary.control_names import is_control_name
from edgellama.quant.vocabulary.infill_names import LEGACY_ROLES, infill_ids

_log = logging.getLogger(__name__)
# Roles by their names in GGUF, and in Hugging Face's files.
ROLES: Mapping[str, str] = MappingProxyType(
    {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
)
# Classes of transformers that build their steps from tokenizer_config.json, whatever tokenizer.json
# says.
LLAMA_CLASSES = ("LlamaTokenizer", "CodeLlamaTokenizer")
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")
# Tokens that are found by their text, whoever declares them; "eot" ends a turn, "eom" a message.
WELL_KNOWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "eot": ("<|eot_id|>", "\u2581<EOT>", "<|im_end|>"),
        "eom": ("<|eom_id|>",),
    }
)


class TokenizerSettings:
    """The settings in a folder, read once."""

    def __init__(self, folder: Path, config: Fields) -> None:
        """``config``: the model's config.json."""
        self.folder = folder
        self.config = config
        self.tokenizer = read_fields(folder / "tokenizer.json")
        self.settings = read_fields(folder / "tokenizer_config.json")
        self.special_tokens_map = read_fields(folder / "special_tokens_map.json")
        self.added = read_fields(folder / "added_tokens.json")

    @property
    def tokenizer_class(self) -> str:
        """The name of the tokenizer's class in transformers, without "Fast"; empty if unsaid."""
        name = self.settings.text("tokenizer_class") or self.config.text("tokenizer_class") or ""
        return name if name in GENERIC_CLASSES else name.removesuffix("Fast")

    @property
    def is_llama_class(self) -> bool:
        """Whether the class obeys tokenizer_config.json before tokenizer.json."""
        return self.tokenizer_class in LLAMA_CLASSES

    def role_texts(self) -> dict[str, str]:
        """Text of the token for each role that has one; empty texts count as none."""
        texts = {}
        for role, short in ROLES.items():
            found = _token_text(self.settings, f"{short}_token") or _token_text(
                self.special_tokens_map, f"{short}_token"
            )
            if found:
                texts[role] = found
        return texts

    def role_ids(self) -> dict[str, int]:
        """Ids by role in config.json; of several the first, and those below 0 count as none."""
        ids = {}
        for role, short in ROLES.items():
            value = self.config.values.get(f"{short}_token_id")
            if isinstance(value, list) and value:
                value = value[0]
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                ids[role] = value
        return ids

    def flag(self, name: str) -> bool | None:
        """A setting of tokenizer_config.json; None if it is silent."""
        return self.settings.flag(name, False) if self.settings.has(name) else None


def looks_special(text: str) -> bool:
    """Whether a token that is not marked as special is a control token all the same."""
    return (text.startswith("<|") and text.endswith("|>")) or is_control_name(text)


def special_ids(
    settings: TokenizerSettings, ids_by_text: Mapping[str, int], own: Mapping[str, int]
) -> dict[str, int]:
    """Token ids by role: by the declared text, then as the vocabulary itself says (``own``), then
    by config.json; and the well-known ones that the vocabulary has.

    Which token stands for unknown text the vocabulary knows best.
    """
    by_text = {
        role: ids_by_text[text]
        for role, text in settings.role_texts().items()
        if text in ids_by_text
    }
    found = {**settings.role_ids(), **own, **by_text}
    if "unknown" in own:
        found["unknown"] = own["unknown"]
    num_tokens = len(ids_by_text)
    if found.get("bos", 0) >= num_tokens:
        _log.warning(
            "%s: bos_token_id %d is left out, because the vocabulary has %d tokens",
            *(settings.config.source, found["bos"], num_tokens),
        )
    ids = {role: found[role] for role in ROLES if found.get(role, MAX_TOKENS) < num_tokens}
    return ids | well_known_ids(ids_by_text)


def well_known_ids(ids_by_text: Mapping[str, int]) -> dict[str, int]:
    """Ids of the tokens whose role is known from their text."""
    ids = {}
    for role, candidates in WELL_KNOWN.items():
        found = next((ids_by_text[text] for text in candidates if text in ids_by_text), None)
        if found is not None:
            ids[role] = found
    ids |= infill_ids(ids_by_text)
    return ids | {old: ids[new] for new, old in LEGACY_ROLES.items() if new in ids}


def _token_text(fields: Fields, name: str) -> str | None:
    """A token's text, written as a string or as an object with its content."""
    value = fields.values.get(name)
    if isinstance(value, dict):
        return fields.fields(name).text("content")
    return fields.text(name)


def checked_id(fields: Fields, name: str) -> int:
    """A token id; an error for anything else."""
    value = fields.values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_TOKENS:
        raise fields.error(name, f"a token id from 0 to {MAX_TOKENS - 1}")
    return value
