"""The tokens at which a repeated sequence ends: line breaks, quotes, and whatever a user names.

``sampling.dry`` knows what repeated sequences are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.text.tokenizer.base import Tokenizer


class SequenceBreakers:
    """Says of a token whether sequences end at it; looks at each token once.

    Sequences end at tokens whose text contains one of ``texts``, at the last token of a text
    that takes several, and at control tokens: no sequence reaches beyond a message.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._parts = [text.encode("utf-8", "replace") for text in texts]
        longer = [text for text in texts if len(text.encode("utf-8", "replace")) > 1]
        # The breaker is encoded after a letter, because a first token may be spelt differently.
        last = [tokenizer.encode(f"a{text}", add_bos=False)[-1] for text in longer]
        self._known: dict[int, bool] = dict.fromkeys(last, True)

    def __call__(self, token: int) -> bool:
        """Whether sequences end at ``token``."""
        known = self._known.get(token)
        if known is None:
            text = self._tokenizer.token_bytes(token)
            known = self._tokenizer.is_control(token) or any(part in text for part in self._parts)
            self._known[token] = known
        return known
