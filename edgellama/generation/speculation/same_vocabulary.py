"""Whether two models speak the same tokens, so that one may guess for the other.

Tokens and their roles are compared as the two files have them; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

TOKENS = "tokenizer.ggml.tokens"
Model = tuple["Tokenizer", Mapping[str, Any]]
"""A tokenizer, and the metadata that it comes from."""


def check_same_vocabulary(model: Model, draft: Model) -> None:
    """InvalidOptionError that names the first difference of tokens or of their roles."""
    tokens, others = model[1][TOKENS], draft[1][TOKENS]
    for token, (one, other) in enumerate(zip(tokens, others, strict=False)):
        if one != other:
            raise _refused(f"token {token} is {shown(str(other))}, of the model {shown(str(one))}")
    if len(tokens) != len(others):
        raise _refused(f"it has {len(others)} tokens, the model {len(tokens)}")
    for role in ("bos_id", "eos_id"):
        one, other = (getattr(tokenizer.special, role) for tokenizer, _ in (model, draft))
        if one != other:
            name = role.removesuffix("_id").upper()
            raise _refused(f"its {name} is token {other}, the model's {one}")


def _refused(difference: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"the draft model has another vocabulary: {difference}; allowed: a model with the same "
        "tokens, such as a smaller one of the same family"
    )
