"""Names that make a token a control token, whatever type a file gives it.

Converters often type the marks of a chat format as ordinary or user-defined text. A reply would
then show them instead of ending, and a message could write them. ``special_tokens`` knows which
token has which role.
"""

from __future__ import annotations

from collections.abc import Collection

from edgellama.quant.vocabulary.infill_names import INFILL_NAMES, MARKS
from edgellama.quant.vocabulary.string_index import StringIndex

END_OF_TURN_NAMES = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|eot|>"),
    *("<end_of_utterance>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "[EOT]", "\u2581<EOT>"),
)
END_OF_MESSAGE_NAMES = ("<|eom_id|>", "<|eom|>")
END_OF_TEXT_NAMES = ("</s>", "<eos>", "<|eos|>", "[EOS]", "<\uff5cend\u2581of\u2581sentence\uff5c>")
"""A reply ends at any of these."""
START_NAMES = (
    *("<|im_start|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<start_of_turn>", "<|start_of_turn|>", "<|begin_of_text|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|prompter|>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)
"""What begins a turn or parts it from its role."""
INFILL_MARKS = tuple(
    family[role] for family in INFILL_NAMES for role in (*MARKS, "fim_pad") if role in family
)
"""What stands around the texts of an infill prompt."""

# A vocabulary that was learned from text may hold these as words of HTML, XML or code.
_ALSO_WORDS = frozenset(
    {b"</s>", b"<eos>", b"[EOS]", b"<EOT>", b"[EOT]", b"<PRE>", b"<SUF>", b"<MID>"}
)
_NAMES = frozenset(
    name.encode()
    for names in (
        *(END_OF_TURN_NAMES, END_OF_MESSAGE_NAMES, END_OF_TEXT_NAMES, START_NAMES, INFILL_MARKS),
    )
    for name in names
)


def is_control_name(text: str) -> bool:
    """Whether a token that was added to a vocabulary is a control token by its name."""
    return text.encode("utf-8", "surrogatepass") in _NAMES


def control_by_name(
    index: StringIndex, types: bytes, *, word: int, others: Collection[int], control: int
) -> bytes:
    """``types`` with the well-known names among the tokens as ``control``, by token id.

    ``index`` finds tokens by their texts; ``word`` is the type of an ordinary word, ``others`` are
    further types that are changed.
    """
    changed = bytearray(types)
    for name in _NAMES:
        places = list(index.places(name))
        # A file that types one token of that name as control types all of them rightly.
        if not places or any(types[token] == control for token in places):
            continue
        token = places[-1]
        is_mark = types[token] == word and name not in _ALSO_WORDS
        if is_mark or types[token] in others:
            changed[token] = control
    return bytes(changed)
