"""Types of arguments that several modules take: prompts of a batch, callbacks for errors.

They are for type checkers and docstrings. Values are checked where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from edgellama.quant.errors import EdgellamaError

BatchPrompt: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or ``{"prompt": ...}`` or ``{"messages": ...}`` with options beside it."""
Normalization: TypeAlias = Literal["sum", "mean"]
"""How choices of several lengths are compared: by the sum of log-probabilities or by their mean."""
OnError: TypeAlias = Callable[[int, EdgellamaError], None]
"""Hears of the index of a prompt that cannot run, and why."""
WhenFull: TypeAlias = Literal["drop", "stop", "error"]
"""What happens once messages fill the context: the oldest go, replies are empty, or an error."""
