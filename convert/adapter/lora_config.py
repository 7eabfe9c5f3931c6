"""Reads a PEFT adapter's adapter_config.json: the scale of each matrix, and what is refused.

It knows LoRA's variants by their settings. A GGUF adapter can only hold plain LoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgellama.convert.sources.json_fields import Fields, read_fields
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelNotFoundError, UnsupportedModelError

CONFIG_NAME = "adapter_config.json"
_OFF: tuple[object, ...] = (None, False, [], {}, "")
# Settings that change what the adapter computes, what they stand for, and when they do not.
_VARIANTS: Mapping[str, tuple[str, tuple[object, ...]]] = MappingProxyType(
    {
        "use_dora": ("DoRA", _OFF),
        "use_qalora": ("QA-LoRA", _OFF),
        "lora_bias": ("LoRA with biases", _OFF),
        "bias": ("trained biases", (None, "none")),
        "modules_to_save": ("modules that were trained whole", _OFF),
        "trainable_token_indices": ("trained tokens", _OFF),
        "target_parameters": ("adapted parameters", _OFF),
        "layer_replication": ("replicated layers", _OFF),
        "fan_in_fan_out": ("transposed weights", _OFF),
        "alora_invocation_tokens": ("activated LoRA", _OFF),
        "invocation_string": ("activated LoRA", _OFF),
        "init_lora_weights": (
            "an adapter to changed base weights",
            (None, True, False, "gaussian", "orthogonal", "eva"),
        ),
    }
)
# Beyond these, scales are lost in 32 bits; real ones are from 1 to some hundreds.
_MIN_ALPHA, _MAX_ALPHA = 1e-9, 1e9
_LITERAL = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True)
class LoraConfig:
    """An adapter's scales; ``alphas`` are (end of a module's name, its alpha), first match wins.

    ``base_name``: where the base model was when the adapter was trained, a path or a hub name.
    """

    alpha: float
    rank_stabilised: bool
    alphas: tuple[tuple[str, float], ...] = ()
    base_name: str | None = None

    def scale(self, module: str, rank: int) -> float:
        """What the product of the two factors of a module is multiplied with."""
        alpha = next((a for pattern, a in self.alphas if _matches(pattern, module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_lora_config(folder: Path) -> LoraConfig:
    """The settings of the adapter in ``folder``.

    Raises ModelNotFoundError if there is none, UnsupportedModelError for what is no plain LoRA,
    ModelFileError for settings of wrong types.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ModelNotFoundError(
            f"{folder} holds no {CONFIG_NAME}; needed: a folder with an adapter, as PEFT saves it"
        )
    fields = read_fields(path)
    kind = fields.text("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{path}: peft_type is {shown(kind)}; supported: 'LORA'")
    for name, (what, allowed) in _VARIANTS.items():
        value = fields.values.get(name)
        if value not in allowed:
            raise UnsupportedModelError(
                f"{path}: {name} is {shown(value)}, {what}, which a GGUF adapter cannot hold; "
                "merge the adapter into its base model and convert that"
            )
    patterns = fields.fields("alpha_pattern")
    return LoraConfig(
        alpha=_alpha(fields, "lora_alpha"),
        rank_stabilised=fields.flag("use_rslora", False),
        alphas=tuple(
            (_literal(patterns, name), _alpha(patterns, name)) for name in patterns.values
        ),
        base_name=fields.text("base_model_name_or_path") or None,
    )


def _alpha(fields: Fields, name: str) -> float:
    alpha = fields.positive(name)
    if not _MIN_ALPHA <= alpha <= _MAX_ALPHA:
        raise fields.error(name, f"a number from {_MIN_ALPHA:g} to {_MAX_ALPHA:g}")
    return alpha


def _literal(patterns: Fields, name: str) -> str:
    """A pattern that is a name: any other is a stranger's regular expression, and rare."""
    if not _LITERAL.fullmatch(name):
        raise UnsupportedModelError(
            f"{patterns.source}: {patterns.prefix}{shown(name)} is a pattern; supported: names"
        )
    return name


def _matches(pattern: str, module: str) -> bool:
    if pattern.startswith("^"):
        return module == pattern[1:]
    return module == pattern or module.endswith(f".{pattern}")
