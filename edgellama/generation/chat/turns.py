"""The last turn of a conversation as tokens: as its template writes them, and as computed.

Encoding a reply's text can give other tokens than those that were generated. A session holds the
generated ones.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgellama.engine.pages.page_keys import shared_length
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of a prompt as the template writes it, and as they are computed."""

    written: Sequence[int]
    computed: Sequence[int]


@dataclass(frozen=True)
class Turn:
    """A prompt and the reply's own tokens."""

    prompt: PromptTokens
    reply: Sequence[int]
    reply_text: str


def as_computed(tokenizer: Tokenizer, written: Sequence[int], last: Turn | None) -> Sequence[int]:
    """A prompt with the reply of the ``last`` turn as the tokens that the model itself chose.

    It is done only where the written reply is that reply's text.
    """
    if last is None:
        return written
    start = len(last.prompt.written)
    if shared_length(last.prompt.written, written) < start:
        return written
    if len(written) == start:
        return last.prompt.computed
    ends = tokenizer.special.end_of_generation
    end = next((i for i in range(start, len(written)) if written[i] in ends), None)
    if end is None:
        return written
    same = [
        tokenizer.decode(tokens, continuation=True).strip() == last.reply_text.strip()
        for tokens in (written[start:end], last.reply)
    ]
    return [*last.prompt.computed, *last.reply, *written[end:]] if all(same) else written


def turn_as_json(turn: Turn) -> dict[str, str]:
    """A turn for a JSON file, its tokens as 4 bytes each in base 64."""
    rows = {
        "written": turn.prompt.written,
        "computed": turn.prompt.computed,
        "reply": turn.reply,
    }
    return {name: _packed(tokens) for name, tokens in rows.items()} | {"text": turn.reply_text}


def turn_from_json(record: object, vocab_size: int) -> Turn | None:
    """What ``turn_as_json`` gave; None for anything else, since it only saves work."""
    if not isinstance(record, Mapping) or not isinstance(record.get("text"), str):
        return None
    rows = [_unpacked(record.get(name), vocab_size) for name in ("written", "computed", "reply")]
    written, computed, reply = rows
    if not written or not computed or not reply:
        return None
    return Turn(PromptTokens(written, computed), reply, record["text"])


def _packed(tokens: Sequence[int]) -> str:
    return base64.b64encode(np.array(tokens, "<i4").tobytes()).decode("ascii")


def _unpacked(text: object, vocab_size: int) -> list[int] | None:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        tokens = np.frombuffer(data, "<i4")
    except ValueError:
        return None
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocab_size:
        return None
    found: list[int] = tokens.tolist()
    return found
