"""The tokens with a role: start and end of text, of a turn, of a message.

It reads the ids that the file declares and finds the well-known end tokens that files
often forget to declare. Encoding and decoding are left to the tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.quant.errors import TokenizerError
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary, flag, token_id

# A reply ends at any of these, provided the vocabulary types it as a control token.
END_OF_TURN_NAMES = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "[EOT]",
)
END_OF_MESSAGE_NAMES = ("<|eom_id|>",)
END_OF_TEXT_NAMES = ("</s>", "<eos>", "<|eos|>", "[EOS]", "<\uff5cend\u2581of\u2581sentence\uff5c>")
SENTENCEPIECE_NAMES: Mapping[str, str] = MappingProxyType(
    {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"}
)
"""Control tokens that SentencePiece gives a role where the file declares none."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids by role (None where the model has no such token) and what encoding adds."""

    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eom_id: int | None
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool
    add_eos: bool
    end_of_generation: frozenset[int]

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
    control_ids = {
        vocabulary.tokens[token]: token
        for token in reversed(vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))
    }

    def declared(role: str) -> int | None:
        token = token_id(metadata, f"tokenizer.ggml.{role}_token_id", len(vocabulary.tokens))
        return control_ids.get(names.get(role, "").encode()) if token is None else token

    def well_known(candidates: tuple[str, ...]) -> list[int]:
        found = [control_ids.get(name.encode()) for name in candidates]
        return [token for token in found if token is not None]

    turns, messages = well_known(END_OF_TURN_NAMES), well_known(END_OF_MESSAGE_NAMES)
    bos, eos, eot, eom = (declared(role) for role in ("bos", "eos", "eot", "eom"))
    eot = next(iter(turns), None) if eot is None else eot
    eom = next(iter(messages), None) if eom is None else eom
    ends = {*turns, *messages, *well_known(END_OF_TEXT_NAMES), eos, eot, eom}
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
    )
