"""Describes who computed keys and values, which must match where saved ones are used.

``saved_pages`` writes and compares it.
"""

from __future__ import annotations

from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class CacheMaker:
    """Describes what computes keys and values: a model, some of its layers, and its rounding.

    ``model`` is its identity. If ``is_exact``, keys and values of another ``arithmetic`` are
    refused, since texts would not have the same bits.
    """

    model: str
    model_name: str
    layers: range
    vocab_size: int
    arithmetic: str
    is_exact: bool
