"""A user's choice of how positions are scaled, in place of what a file says.

It knows how a choice is written, and the context length that follows from it. The engine computes
the angles.
"""

from __future__ import annotations

import math
from dataclasses import replace

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.llama_tensors import ROPE_FREQS
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.rope_config import RopeConfig

KINDS = ("linear", "dynamic", "yarn")
ALLOWED = f'"none", or one of {", ".join(KINDS)} with a factor from 1, such as "yarn:4"'


def config_of(file: GGUFFile, choice: str | None) -> ModelConfig:
    """What a file says of its model, with positions scaled as ``choice`` says; None: as it says.

    Raises what ``ModelConfig.from_gguf`` and ``with_rope_scaling`` do.
    """
    config = ModelConfig.from_gguf(file)
    if choice is None:
        return config
    return with_rope_scaling(config, choice, has_divisors=ROPE_FREQS in file.tensors)


def choice_for(file: GGUFFile, choice: str | None, context_length: int | None) -> str | None:
    """The choice for sessions of so many tokens, None for as many as the model can hold.

    Where LongRoPE's original context is enough for them, its frequencies are for that. Raises what
    ``ModelConfig.from_gguf`` does.
    """
    if choice is not None or context_length is None:
        return choice
    rope = ModelConfig.from_gguf(file).rope
    is_enough = rope.is_long and context_length <= rope.original_context_length
    return "none" if is_enough else None


def with_rope_scaling(config: ModelConfig, choice: str, *, has_divisors: bool) -> ModelConfig:
    """The configuration with positions scaled as ``choice`` says, and the context that it is for.

    ``has_divisors``: whether the file scales by the tensor ``rope_freqs.weight`` of Llama 3.1,
    which cannot be replaced. InvalidOptionError for that, and for what is no choice.
    """
    if has_divisors:
        raise InvalidOptionError(
            f"rope_scaling is {choice!r:.80}, but the model's positions are scaled by the tensor "
            "rope_freqs.weight, as Llama 3.1's are; allowed: None"
        )
    kind, factor = _parsed(choice)
    old = config.rope
    original = original_length(config)
    if old.scaling == "longrope":
        if kind != "none":
            raise InvalidOptionError(
                f"rope_scaling is {choice!r:.80}, but the model's positions are scaled by "
                'LongRoPE; allowed: None, or "none" for texts within its original context'
            )
        within = replace(old, is_long=False)
        return replace(config, rope=within, context_length=original)
    rope = RopeConfig(
        old.dimension_count, old.freq_base, kind, factor, original_context_length=original
    )
    return replace(config, rope=rope, context_length=scaled_length(original, choice))


def scaled_length(original: int, choice: str) -> int:
    """The context that ``choice`` makes of ``original`` tokens. Raises InvalidOptionError."""
    return int(original * _parsed(choice)[1])


def original_length(config: ModelConfig) -> int:
    """Tokens that a model's positions were trained for before any scaling."""
    rope = config.rope
    if rope.scaling == "linear":
        return max(1, int(config.context_length / rope.factor))
    return rope.original_context_length or config.context_length


def _parsed(choice: object) -> tuple[str, float]:
    kind, colon, number = choice.partition(":") if isinstance(choice, str) else ("", "", "")
    if (kind, colon) == ("none", ""):
        return "none", 1.0
    try:
        factor = float(number) if kind in KINDS else math.nan
    except ValueError:
        factor = math.nan
    if not 1 <= factor < math.inf:
        raise InvalidOptionError(f"rope_scaling is {choice!r:.80}; allowed: {ALLOWED}, or None")
    return kind, factor
