"""The tokens with a role: start and end of text, of a turn, of a message.

It reads the ids that the file declares, and finds the well-known end tokens that files often forget
to declare, by the names in ``control_names``. The tokenizers encode and decode.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

import numpy as np

from edgellama.quant.errors import TokenizerError
from edgellama.quant.records import dataclass
from edgellama.quant.vocabulary.control_names import (
    END_OF_MESSAGE_NAMES,
    END_OF_TEXT_NAMES,
    END_OF_TURN_NAMES,
)
from edgellama.quant.vocabulary.infill_names import ROLE_KEYS
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary, flag, token_id
from edgellama.quant.ways import Way

_log = logging.getLogger(__name__)
END_TOKENS_KEY = "edgellama.tokenizer.end_token_ids"
"""Ids at which a reply ends besides those that GGUF has keys for; a key of our own."""
NEEDED_ROLES = ("bos", "eos")
"""Where these are no token of the vocabulary, the file is wrong; other roles count as absent."""
SENTENCEPIECE_NAMES: Mapping[str, str] = MappingProxyType(
    {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"}
)
"""Control tokens that SentencePiece gives a role where the file declares none."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by role (None if the model has no such token) and what encoding adds.

    ``infill_ids``: ids by the roles of infilling, of those that the file declares.
    """

    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eom_id: int | None
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool
    add_eos: bool
    end_of_generation: frozenset[int]
    infill_ids: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, wanted, token in (
            ("bos", self.add_bos, self.bos_id),
            ("eos", self.add_eos, self.eos_id),
        ):
            if wanted and token is None:
                raise TokenizerError(
                    f"tokenizer.ggml.add_{name}_token is set but there is no "
                    f"tokenizer.ggml.{name}_token_id"
                )


def read_special_tokens(
    metadata: Mapping[str, object],
    vocabulary: Vocabulary,
    *,
    add_bos_default: bool,
    names: Mapping[str, str],
) -> SpecialTokens:
    """The roles that the metadata declares.

    ``names`` gives, for ``bos``, ``eos`` and ``unknown``, the control token's text to look for
    where the file declares none. ``add_bos_default`` holds only where there is a BOS at all.
    """
    roles = _Roles(metadata, vocabulary, names)
    declared, well_known = roles.declared, roles.well_known
    turns, messages = well_known(END_OF_TURN_NAMES), well_known(END_OF_MESSAGE_NAMES)
    bos, eos, eot, eom = (declared(role) for role in ("bos", "eos", "eot", "eom"))
    eot = next(iter(turns), None) if eot is None else eot
    eom = next(iter(messages), None) if eom is None else eom
    ends = {*turns, *messages, *well_known(END_OF_TEXT_NAMES), eos, eot, eom}
    ends |= _more_ends(metadata, len(vocabulary.tokens))
    infill = [(role, declared(role, key)) for key, role in ROLE_KEYS.items()]
    return SpecialTokens(
        bos_id=bos,
        eos_id=eos,
        eot_id=eot,
        eom_id=eom,
        unknown_id=declared("unknown"),
        padding_id=declared("padding"),
        add_bos=flag(metadata, "tokenizer.ggml.add_bos_token", add_bos_default and bos is not None),
        add_eos=flag(metadata, "tokenizer.ggml.add_eos_token", False),
        end_of_generation=frozenset(token for token in ends if token is not None),
        infill_ids={role: token for role, token in infill if token is not None},
    )


class _Roles:
    """Looks for the tokens of roles: by the metadata's ids, or else by the texts of tokens."""

    def __init__(
        self, metadata: Mapping[str, object], vocabulary: Vocabulary, names: Mapping[str, str]
    ) -> None:
        self._metadata = metadata
        self._names = names
        self._vocab_size = len(vocabulary.tokens)
        self._control_ids = {
            vocabulary.tokens[token]: token
            for token in reversed(vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))
        }

    def declared(self, role: str, key: str = "") -> int | None:
        """The token of a role; ``key`` is what GGUF calls it, where that is something else."""
        key = f"tokenizer.ggml.{key or role}_token_id"
        try:
            token = token_id(self._metadata, key, self._vocab_size)
        except TokenizerError as error:
            if role in NEEDED_ROLES:
                raise TokenizerError(error.what, way=_way_to_set(key)) from None
            _log.debug("%s: ignored", error)
            token = None
        if token is not None:
            return token
        return self._control_ids.get(self._names.get(role, "").encode())

    def well_known(self, candidates: tuple[str, ...]) -> list[int]:
        """The control tokens among these texts."""
        found = [self._control_ids.get(name.encode()) for name in candidates]
        return [token for token in found if token is not None]


def _way_to_set(key: str) -> Way:
    call = 'edgellama.convert.convert("OLD.gguf", "NEW.gguf", type="copy", metadata='
    repair = "repair it with the right ID"
    return Way(
        f'{repair}: {call}{{"{key}": ID}})',
        f"{repair}: edgellama convert OLD.gguf NEW.gguf --type copy --metadata {key}=ID",
    )


def _more_ends(metadata: Mapping[str, object], vocab_size: int) -> set[int]:
    """The ids under our own key; those beyond the vocabulary end nothing."""
    values = metadata.get(END_TOKENS_KEY)
    if values is None:
        return set()
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TokenizerError(f"{END_TOKENS_KEY} is no array of token ids")
    return {token for token in array.tolist() if 0 <= token < vocab_size}
