"""How a file says that positions are rotated and scaled.

The engine computes the angles; ``rope_choice`` is a user's own choice.
"""

from __future__ import annotations

import math

from edgellama.quant.config_keys import MAX_SIZE, ConfigKeys
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.records import dataclass

ROPE_SCALINGS = ("none", "linear", "dynamic", "yarn", "longrope")
FILE_SCALINGS = ("none", "linear", "yarn", "longrope")
"""What GGUF's own key may say; dynamic scaling has a key of ours, which others pass over."""
DYNAMIC_FACTOR_KEY = "edgellama.rope.dynamic_factor"
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0
YARN_GROWTH = 0.1
"""What queries and keys grow by with the logarithm of YaRN's factor."""
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
"""LongRoPE's tensors, which divide frequencies."""
LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: rotated elements per head, base and scaling (GGUF ``rope.*``).

    "dynamic" is NTK scaling by the text's length, beyond the original one. Of YaRN, ``beta_fast``
    and ``beta_slow`` are the rotations over the original context above which a pair is kept, and
    below which it is interpolated; ``extrapolation`` is how much of those above are kept. Of
    LongRoPE (Ding et al. 2024), ``is_long`` says whether frequencies are those of texts beyond the
    original context, or of those within it. Queries grow by ``temperature_scale`` times the
    logarithm of how many original contexts their position has come through, as in Ministral 3.
    """

    dimension_count: int
    freq_base: float
    scaling: str = "none"
    factor: float = 1.0
    attention_factor: float = 1.0
    original_context_length: int = 0
    beta_fast: float = YARN_BETA_FAST
    beta_slow: float = YARN_BETA_SLOW
    extrapolation: float = 1.0
    is_long: bool = False
    temperature_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.scaling not in ROPE_SCALINGS:
            raise UnsupportedModelError(
                f"rope scaling {self.scaling!r}; supported: {', '.join(ROPE_SCALINGS)}"
            )
        if self.dimension_count < 2 or self.dimension_count % 2:
            raise UnsupportedModelError(
                f"rope dimension count {self.dimension_count}; it must be even and positive"
            )
        if not (self.freq_base > 0 and self.factor > 0):
            raise ModelFileError(
                f"rope base {self.freq_base} and factor {self.factor} must be positive"
            )
        if not self.attention_factor > 0:
            raise ModelFileError(
                f"rope attention factor {self.attention_factor}; it must be positive"
            )
        if not 0 <= self.temperature_scale <= MAX_SIZE:
            raise ModelFileError(
                f"attention.temperature_scale is {self.temperature_scale}; it must be from 0"
            )
        self._check_scaling()

    def _check_scaling(self) -> None:
        """ModelFileError for figures that the kind of scaling does not allow."""
        is_measured = self.scaling == "longrope" or self.temperature_scale
        if is_measured and not 1 <= self.original_context_length <= MAX_SIZE:
            what = "LongRoPE" if self.scaling == "longrope" else "attention.temperature_scale"
            raise ModelFileError(
                f"{what} with original context length {self.original_context_length}; it must be "
                f"from 1 to {MAX_SIZE}"
            )
        if self.scaling == "dynamic" and not (
            self.dimension_count > 2
            and 1 <= self.factor <= MAX_SIZE
            and 1 <= self.original_context_length <= MAX_SIZE
        ):
            raise ModelFileError(
                f"dynamic rope scaling of {self.dimension_count} elements by {self.factor} beyond "
                f"{self.original_context_length} tokens; needed: more than 2 elements, a factor "
                f"from 1, and a length from 1 to {MAX_SIZE}"
            )
        if self.scaling == "yarn" and not (
            self.freq_base > 1 and 1 <= self.original_context_length <= MAX_SIZE
        ):
            raise ModelFileError(
                f"YaRN with rope base {self.freq_base} and original context length "
                f"{self.original_context_length}; the base must be above 1, "
                f"the length from 1 to {MAX_SIZE}"
            )
        if not 0 < self.beta_slow <= self.beta_fast:
            raise ModelFileError(
                f"YaRN with beta {self.beta_fast} and {self.beta_slow}; "
                "both must be positive, the first no less than the second"
            )
        if not 0 <= self.extrapolation <= 1:
            raise ModelFileError(
                f"YaRN with extrapolation {self.extrapolation}; it must be from 0 to 1"
            )

    @property
    def divisors(self) -> str | None:
        """The tensor that must be there to divide frequencies; None: none must."""
        if self.scaling != "longrope":
            return None
        return LONG_FACTORS if self.is_long else SHORT_FACTORS

    @property
    def dynamic_from(self) -> int | None:
        """Tokens beyond which positions are scaled by a text's length; None: they never are."""
        return self.original_context_length if self.scaling == "dynamic" else None


def read_rope(keys: ConfigKeys, head_size: int, context_length: int) -> RopeConfig:
    """The rotation that metadata describes. Raises ModelFileError or UnsupportedModelError."""
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    # A factor alone is linear scaling.
    scaling = keys.text("rope.scaling.type", "linear" if factor != 1.0 else "none")
    if scaling not in FILE_SCALINGS:
        raise UnsupportedModelError(
            f"rope scaling {scaling!r:.80} cannot run; supported: {', '.join(FILE_SCALINGS)}"
        )
    dynamic_factor = keys.number(DYNAMIC_FACTOR_KEY, 1.0)
    if scaling == "none" and dynamic_factor != 1.0:
        scaling, factor = "dynamic", dynamic_factor
    return RopeConfig(
        dimension_count=keys.integer("rope.dimension_count", head_size),
        freq_base=keys.number("rope.freq_base", 10000.0),
        scaling=scaling,
        factor=factor,
        attention_factor=keys.number("rope.scaling.attn_factor", 1.0)
        * keys.number("rope.scaling.yarn_attn_factor", 1.0)
        / (_divisor(keys, factor) if scaling == "yarn" else 1.0),
        original_context_length=keys.integer(
            "rope.scaling.original_context_length", context_length
        ),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", YARN_BETA_FAST),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", YARN_BETA_SLOW),
        extrapolation=_extrapolation(keys),
        is_long=scaling == "longrope",
        temperature_scale=keys.number("attention.temperature_scale", 0.0),
    )


def _divisor(keys: ConfigKeys, factor: float) -> float:
    """What YaRN's growth of queries and keys is divided by, which Ministral 3 does without it."""
    multiplier = keys.number(LOG_MULTIPLIER, 0.0)
    divisor = 1 + YARN_GROWTH * multiplier * math.log(factor) if factor > 1 else 1.0
    if not 0 < divisor < MAX_SIZE:
        raise ModelFileError(
            f"metadata {keys.architecture}.{LOG_MULTIPLIER} is {multiplier}; it must be from 0"
        )
    return divisor


def _extrapolation(keys: ConfigKeys) -> float:
    """YaRN's; a negative number says that the file leaves it to the reader."""
    given = keys.number("rope.scaling.yarn_ext_factor", 1.0)
    return 1.0 if given < 0 else given
