"""How positions are scaled: from a configuration to GGUF's keys, or to divisors of frequencies.

Linear and YaRN scaling have keys, and dynamic scaling has a key of ours. Llama 3.1's scaling has
none, and becomes the tensor ``rope_freqs.weight``; LongRoPE has two tensors and keys. Other kinds
are refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.json_fields import MAX_SIZE, Fields
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.llama_tensors import ROPE_FREQS
from edgellama.quant.rope_config import DYNAMIC_FACTOR_KEY, LONG_FACTORS, SHORT_FACTORS

SUPPORTED = "default, linear, dynamic, yarn, telechat3-yarn, llama3, longrope"
LONGROPE = ("longrope", "su")
YARN = MappingProxyType({"yarn": 0.1, "telechat3-yarn": 0.07})
"""What queries and keys grow by with the logarithm of the factor; GGUF's readers know the first."""
ATTENTION_FACTOR = "llama.rope.scaling.attn_factor"
LLAMA3_ORIGINAL_CONTEXT = 8192
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0
PRETRAINED_LENGTHS = (2048, 4096, 8192)
"""Of Llama 1, 2 and 3: where config.json says one of these, it is what scaling began with."""


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's: long wavelengths are stretched by ``factor``, short ones kept."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = LLAMA3_ORIGINAL_CONTEXT

    def tensors(self, base: float, head_size: int) -> dict[str, NDArray[np.float32]]:
        """What each frequency is divided by, (head_size / 2,), by GGUF's name of the tensor."""
        exponents = np.arange(head_size // 2) * 2.0 / head_size
        wavelengths = 2 * math.pi * base**exponents
        context, low, high = (
            self.original_context_length,
            self.low_freq_factor,
            self.high_freq_factor,
        )
        kept = (context / wavelengths - low) / (high - low)
        divisors = 1.0 / ((1.0 - kept) / self.factor + kept)
        divisors[wavelengths < context / high] = 1.0
        divisors[wavelengths > context / low] = self.factor
        return {ROPE_FREQS: divisors.astype(np.float32)}


@dataclass(frozen=True)
class LongRopeFactors:
    """LongRoPE's, one a pair: those of texts up to the length that the model was pretrained for,
    and those of longer ones, if there are any.
    """

    short: tuple[float, ...]
    long: tuple[float, ...] = ()

    def tensors(self, base: float, head_size: int) -> dict[str, NDArray[np.float32]]:
        """Divisors of frequencies by GGUF's names of tensors; ModelFileError for another number of
        factors.
        """
        if not self.long:
            return {ROPE_FREQS: _divisors("short_factor", self.short, head_size)}
        return {
            SHORT_FACTORS: _divisors("short_factor", self.short, head_size),
            LONG_FACTORS: _divisors("long_factor", self.long, head_size),
        }


def _divisors(name: str, factors: tuple[float, ...], head_size: int) -> NDArray[np.float32]:
    if len(factors) != head_size // 2:
        raise ModelFileError(
            f"{name} of positions has {len(factors)} numbers; needed: {head_size // 2}"
        )
    with np.errstate(over="ignore"):
        divisors = np.array(factors, np.float64).astype(np.float32)
    if not ((divisors > 0) & np.isfinite(divisors)).all():
        raise ModelFileError(
            f"{name} of positions is {min(factors):g} to {max(factors):g}; "
            "needed: what 32 bits hold"
        )
    return divisors


@dataclass(frozen=True)
class RopeScaling:
    """Scaling as GGUF tells it: ``kind`` is "none", "linear", "dynamic", "yarn" or "longrope".

    ``stretch``: divisors of frequencies, which are tensors. ``temperature_scale``: what queries
    grow by, see ``quant.rope_config``.
    """

    kind: str = "none"
    factor: float = 1.0
    original_context_length: int | None = None
    attention_factor: float | None = None
    beta_fast: float = YARN_BETA_FAST
    beta_slow: float = YARN_BETA_SLOW
    extrapolation: float = 1.0
    stretch: Llama3Scaling | LongRopeFactors | None = None
    temperature_scale: float = 0.0

    @property
    def is_llama3(self) -> bool:
        """Whether it is that of Llama 3.1 and later."""
        return isinstance(self.stretch, Llama3Scaling)

    def items(self) -> dict[str, MetadataItem]:
        """The keys, without those that would say nothing."""
        if self.kind == "none" and self.attention_factor is not None:
            return {ATTENTION_FACTOR: metadata.number(self.attention_factor)}
        if self.kind == "none":
            return {}
        if self.kind == "dynamic":
            return {DYNAMIC_FACTOR_KEY: metadata.number(self.factor)}
        items = {"llama.rope.scaling.type": metadata.text(self.kind)}
        if self.kind != "longrope":
            items["llama.rope.scaling.factor"] = metadata.number(self.factor)
        if self.original_context_length is not None:
            items["llama.rope.scaling.original_context_length"] = metadata.unsigned(
                self.original_context_length
            )
        if self.attention_factor is not None:
            items[ATTENTION_FACTOR] = metadata.number(self.attention_factor)
        if (self.beta_fast, self.beta_slow) != (YARN_BETA_FAST, YARN_BETA_SLOW):
            items["llama.rope.scaling.yarn_beta_fast"] = metadata.number(self.beta_fast)
            items["llama.rope.scaling.yarn_beta_slow"] = metadata.number(self.beta_slow)
        if self.extrapolation != 1:
            items["llama.rope.scaling.yarn_ext_factor"] = metadata.number(self.extrapolation)
        if self.temperature_scale:
            items["llama.attention.temperature_scale"] = metadata.number(self.temperature_scale)
        return items

    def context_length(self, config: Fields, length: int) -> int:
        """Tokens that a model is made for whose config.json says ``length``.

        Fine-tuned models often keep the length that they were pretrained with there, or have the
        other in a field of its own, as Vicuna-16k. Of dynamic scaling the file keeps the first.
        """
        if self.kind == "yarn" and self.original_context_length == length:
            return self._scaled(config, length)
        if self.kind != "linear":
            return length
        if config.has("max_sequence_length"):
            return max(length, config.size("max_sequence_length"))
        return self._scaled(config, length) if length in PRETRAINED_LENGTHS else length

    def _scaled(self, config: Fields, length: int) -> int:
        scaled = length * self.factor
        if not 1 <= scaled <= MAX_SIZE:
            raise ModelFileError(
                f"{config.source}: {length} positions scaled by the factor {self.factor:g} are a "
                f"context of {scaled:g} tokens; allowed: 1 to {MAX_SIZE}"
            )
        return int(scaled)


def rope_fields(config: Fields) -> Fields:
    """The object of config.json that tells base and scaling, in the old and the new layout."""
    fields = config.fields("rope_parameters") or config.fields("rope_scaling")
    if any(isinstance(value, dict) for value in fields.values.values()):
        raise UnsupportedModelError(
            f"{fields.source}: {fields.prefix[:-1]} differs between kinds of layers; "
            "supported: the same for all layers"
        )
    if fields.positive("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError(
            f"{fields.source}: rotary positions on a part of each head cannot be converted; "
            "supported: on whole heads"
        )
    original = "original_max_position_embeddings"
    if fields and not fields.has(original) and config.has(original):
        values = {**fields.values, original: config.values[original]}
        return Fields(values, fields.source, fields.prefix)
    return fields


def read_scaling(rope: Fields, context_length: int) -> RopeScaling:
    """The scaling that a configuration asks for.

    ``context_length``: what the model is configured for. UnsupportedModelError for any other kind.
    """
    kind = rope.text("rope_type") or rope.text("type") or "default"
    if kind in ("default", "none"):
        return RopeScaling()
    if kind == "dynamic":
        return RopeScaling("dynamic", _factor(rope)) if _factor(rope) != 1 else RopeScaling()
    if kind == "linear":
        return RopeScaling("linear", _factor(rope))
    if kind in YARN:
        return _yarn(rope, context_length, YARN[kind])
    if kind == "llama3":
        return RopeScaling(stretch=_llama3(rope))
    if kind in LONGROPE:
        return _longrope(rope, context_length)
    raise UnsupportedModelError(
        f"{rope.source}: rope scaling {shown(kind)} cannot be converted; supported: {SUPPORTED}"
    )


def _factor(rope: Fields) -> float:
    factor = rope.positive("factor")
    if factor < 1:
        raise rope.error("factor", "a number from 1")
    return factor


def _llama3(rope: Fields) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=rope.positive("factor", 8.0),
        low_freq_factor=rope.positive("low_freq_factor", 1.0),
        high_freq_factor=rope.positive("high_freq_factor", 4.0),
        original_context_length=rope.size(
            "original_max_position_embeddings", LLAMA3_ORIGINAL_CONTEXT
        ),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise rope.error("high_freq_factor", f"more than {scaling.low_freq_factor}")
    return scaling


def _longrope(rope: Fields, context_length: int) -> RopeScaling:
    """LongRoPE; within the original context alone, it divides frequencies as Llama 3.1's does."""
    original = rope.size("original_max_position_embeddings")
    factor = rope.positive("factor", context_length / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(max(2, original)))
    magnitude = rope.positive("attention_factor", usual)
    is_longer = original < context_length
    return RopeScaling(
        "longrope" if is_longer else "none",
        original_context_length=original if is_longer else None,
        attention_factor=None if magnitude == 1 else magnitude,
        stretch=LongRopeFactors(
            _factors(rope, "short_factor"), _factors(rope, "long_factor") if is_longer else ()
        ),
    )


def _factors(rope: Fields, name: str) -> tuple[float, ...]:
    factors = rope.items(name)
    if not all(isinstance(f, (int, float)) and 0 < f < math.inf for f in factors) or not factors:
        raise rope.error(name, "a list of numbers above 0")
    return tuple(map(float, map(str, factors)))


def _yarn(rope: Fields, context_length: int, slope: float) -> RopeScaling:
    extrapolation = rope.positive("extrapolation_factor", 1.0)
    if extrapolation > 1:
        raise rope.error("extrapolation_factor", "a number above 0, up to 1")
    if not rope.flag("truncate", True):
        raise UnsupportedModelError(f"{rope.source}: YaRN without truncate; supported: with it")
    original = rope.size("original_max_position_embeddings", context_length)
    factor = rope.positive("factor", context_length / original)
    fast = rope.positive("beta_fast", YARN_BETA_FAST)
    slow = rope.positive("beta_slow", YARN_BETA_SLOW)
    if slow > fast:
        raise rope.error("beta_slow", f"up to beta_fast, {fast:g}")
    magnitude = _attention_factor(rope, factor, slope)
    # Llama 4's way to sharpen attention, from the second stretch of the original length on.
    growth = rope.positive("llama_4_scaling_beta") if rope.has("llama_4_scaling_beta") else 0.0
    return RopeScaling(
        "yarn", factor, original, magnitude, fast, slow, extrapolation, temperature_scale=growth
    )


def _attention_factor(rope: Fields, factor: float, slope: float) -> float | None:
    """What GGUF's readers multiply with their own 0.1 ln(factor) + 1; None if it is 1."""
    usual = _magnitude(factor, YARN["yarn"])
    if rope.has("attention_factor") or rope.has("attn_factor"):
        name = "attention_factor" if rope.has("attention_factor") else "attn_factor"
        wanted = rope.positive(name)
    elif rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        wanted = _magnitude(factor, slope * rope.positive("mscale")) / _magnitude(
            factor, slope * rope.positive("mscale_all_dim")
        )
    else:
        wanted = _magnitude(factor, slope)
    return None if wanted == usual else wanted / usual


def _magnitude(factor: float, slope: float) -> float:
    return 1.0 if factor <= 1 else slope * math.log(factor) + 1.0
