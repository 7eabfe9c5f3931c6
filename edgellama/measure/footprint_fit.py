"""Which types of weights and of keys and values fit into a given memory, the best quality first.

A type's recipe tells the quality of weights; this module has a table of what keys and values lose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edgellama.measure.footprint import AS_IT_IS, Footprint, average_bits
from edgellama.measure.model_outline import ModelOutline
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.recipes import RECIPES

TYPES_BY_QUALITY = tuple(sorted(RECIPES, key=lambda name: (RECIPES[name].divergence, name)))
"""The best first; of 16 bits, bf16, which is what most checkpoints have."""
# Their sums are what docs/memory.md measures of SmolLM2, in nats, against 16 bits.
_KEY_DIVERGENCES: Mapping[str, float] = MappingProxyType({"q8_0": 0.0020, "q4_0": 0.0370})
_VALUE_DIVERGENCES: Mapping[str, float] = MappingProxyType({"q8_0": 0.0020, "q4_0": 0.0100})
_UNITS: Mapping[str, int] = MappingProxyType(
    {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    | {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]i?|)(b?)", re.IGNORECASE)
MAX_BARE_GB = 100_000


def fitting(predictions: Sequence[Footprint], memory_bytes: int) -> list[Footprint]:
    """The predictions that need at most ``memory_bytes``, the best quality first.

    One that is larger than a better one is left out.
    """
    fits = [prediction for prediction in predictions if prediction.total_bytes <= memory_bytes]
    chosen: list[Footprint] = []
    for fit in sorted(fits, key=lambda fit: (divergence(fit), fit.total_bytes)):
        if not chosen or fit.total_bytes < chosen[-1].total_bytes:
            chosen.append(fit)
    return chosen


def divergence(prediction: Footprint) -> float:
    """What quantization is expected to cost, in nats a token; a file as it is costs nothing."""
    return (
        (0.0 if prediction.is_as_it_is else RECIPES[prediction.type].divergence)
        + _KEY_DIVERGENCES.get(prediction.kv_types.keys, 0.0)
        + _VALUE_DIVERGENCES.get(prediction.kv_types.values, 0.0)
    )


def types_below(outline: ModelOutline) -> list[str]:
    """Types that a file's weights could be converted to with fewer bits than they have."""
    own_bits = average_bits(outline, AS_IT_IS)
    return [type for type in TYPES_BY_QUALITY if average_bits(outline, type) < own_bits]


def parse_size(text: str) -> int:
    """Bytes of ``16GB`` (10^9 each), ``16GiB`` (2^30 each), ``500M`` or ``8``, which means GB.

    Raises InvalidOptionError; a bare number that can only be meant as bytes is one too.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InvalidOptionError(f"a memory of {text!r}; allowed: such as 16GB, 7.5GiB or 900MB")
    number, prefix, byte = float(found[1]), found[2].lower(), found[3]
    if not prefix and not byte:
        if number >= MAX_BARE_GB:
            raise InvalidOptionError(
                f"a memory of {text!r} without a unit, which would be GB; allowed: less than "
                f"{MAX_BARE_GB}, or a unit, as in {found[1]}B"
            )
        prefix = "g"
    return int(number * _UNITS[prefix])
