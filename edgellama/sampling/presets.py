"""Sampling options under one name, and how layers of options are merged.

``options`` has the single options and their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import RULES, SamplingArguments

CHAT_SAMPLING: SamplingArguments = {
    "repeat_penalty": 1.1,
    "repeat_last_n": 256,
    "dry_multiplier": 0.8,
    "penalize_prompt": False,
}
"""For chats with a model whose file recommends nothing: even small ones do not loop.

What the user wrote is not counted: an answer must be able to quote it.
"""

_OF_FAMILIES: Mapping[str, SamplingArguments] = MappingProxyType(
    {"smollm2": {**CHAT_SAMPLING, "temperature": 0.2, "top_p": 0.9}}
)
"""For chats with models whose authors recommend in words what their files do not, by the
``general.basename`` of the file in small letters."""


def chat_sampling(metadata: Mapping[str, Any]) -> SamplingArguments:
    """What chats with a model sample with if nothing is said, by the metadata of its file."""
    from edgellama.quant.sampling_keys import recommended_sampling  # which imports NumPy

    if recommended := recommended_sampling(metadata):
        return cast("SamplingArguments", recommended)
    family = str(metadata.get("general.basename")).lower()
    return _OF_FAMILIES.get(family, CHAT_SAMPLING)


PRESETS: Mapping[str, SamplingArguments] = MappingProxyType(
    {
        "llama.cpp": {},
        "chat": CHAT_SAMPLING,
        "ollama": {"top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1},
        "openai": {"temperature": 1.0, "top_k": 0, "min_p": 0.0, "top_p": 1.0},
        "transformers": {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0},
    }
)
"""What other programs do if nothing is said, by name; what is left out is as in SamplingOptions.

llama.cpp's defaults are those of SamplingOptions, so they matter by name only in chats.
"""


_KEPT_BESIDE_PRESETS = frozenset({"logit_bias", "min_tokens", "ignore_eos", "seed"})


def merged_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, of which later layers win.

    None is as if nothing were said, but for options whose value it may be. A preset stands in for
    all that earlier layers say about the choice of tokens, except what concerns single tokens.
    InvalidOptionError for a name that is no preset.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("preset") is not None:
            dropped = RULES.keys() - _KEPT_BESIDE_PRESETS
            merged = {name: value for name, value in merged.items() if name not in dropped}
            merged.update(_preset(layer["preset"]))
        merged.update((name, value) for name, value in layer.items() if _is_said(name, value))
    return merged


def _is_said(name: str, value: object) -> bool:
    is_silent = value is None and name in RULES and not RULES[name].range.takes_none
    return not is_silent and name != "preset"


def _preset(name: object) -> SamplingArguments:
    if not isinstance(name, str) or name not in PRESETS:
        raise InvalidOptionError(f"preset is {name!r:.80}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
