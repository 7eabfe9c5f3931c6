"""Which checkpoints are Llamas: by the architecture that their configuration names.

Only the name decides, and settings that make a model something else. ``hparams`` reads sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.convert.model.relatives import HEADLESS as HEADLESS_LLAMA
from edgellama.convert.model.relatives import RELATIVES
from edgellama.convert.model.strangers import OTHERS, STRANGERS
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.error_text import nearest, shown
from edgellama.quant.errors import UnsupportedModelError

ARCHITECTURES = (
    "LlamaForCausalLM",
    "LLaMAForCausalLM",
    "LongLlamaForCausalLM",
    "MistralForCausalLM",
)
"""LongLLaMA's weights are those of a Llama; its memory of earlier texts is code of its own."""
HEADLESS = (HEADLESS_LLAMA, "MistralModel")
"""Without an output matrix: models that were trained to make vectors of texts."""
MODEL_TYPES = ("llama", "longllama", "mistral")
ACTIVATIONS = ("silu", "swish")
_USUAL_END = "ForCausalLM"
META_SCHEME = "int4_weight_int8_dynamic_activation"
# Fields of params.json that only other kinds of model have.
_FOREIGN_META: Mapping[str, str] = MappingProxyType(
    {
        "moe": "a mixture of experts",
        "moe_args": "a mixture of experts",
        "yarn": "positions scaled by YaRN",
        "llama_4_scaling": "attention scaled by position",
        "vision_model": "a model with vision",
        "vision_chunk_size": "a model with vision",
        "vision_args": "a model with vision",
        "vision_encoder": "a model with vision",
    }
)


def check_hugging_face(config: Fields) -> None:
    """UnsupportedModelError, naming what it is, unless config.json describes a Llama."""
    architectures = [name for name in config.items("architectures") if isinstance(name, str)]
    model_type = config.text("model_type")
    known = [name for name in architectures if name in (*ARCHITECTURES, *HEADLESS)]
    if architectures and not known:
        raise _other_architecture(config, architectures[0])
    if not architectures and model_type not in MODEL_TYPES:
        raise _unsupported(config, f"model type {shown(model_type)}")
    activation = config.text("hidden_act") or ACTIVATIONS[0]
    if activation not in ACTIVATIONS:
        raise _unsupported(config, f"activation function {shown(activation)}")
    for name in ("num_local_experts", "num_experts"):
        if config.has(name) and config.values[name] not in (0, 1):
            raise _unsupported(config, f"a mixture of {shown(config.values[name])} experts")
    if config.has("partial_rotary_factor") and config.positive("partial_rotary_factor") != 1:
        raise _unsupported(config, "rotary positions on a part of each head")


def check_meta(params: Fields) -> None:
    """UnsupportedModelError, naming what it is, unless params.json describes a Llama."""
    for name, what in _FOREIGN_META.items():
        if params.has(name) and params.values[name] not in (-1, {}):
            raise _unsupported(params, f"{what} ({name})")
    scheme = params.fields("quantization_args").text("scheme")
    if scheme not in (None, META_SCHEME):
        raise UnsupportedModelError(
            f"{params.source}: weights quantized as {shown(scheme)} cannot be converted; "
            f"supported: {META_SCHEME}"
        )


def is_headless(config: Fields) -> bool:
    """Whether config.json describes a model without an output matrix."""
    return any(name in HEADLESS for name in config.items("architectures"))


def family_notes(config: Fields) -> tuple[str, ...]:
    """What the user should know of a model that is converted as the plain Llama that it is."""
    if config.text("model_type") == "longllama" or "LongLlamaForCausalLM" in config.items(
        "architectures"
    ):
        return (
            "LongLLaMA is converted as the Llama that it was made of: its memory of what lies "
            "behind the context is left out",
        )
    if is_headless(config):
        return (
            "the checkpoint is for vectors of texts: without an output matrix, "
            "texts that it generates mean nothing",
        )
    return ()


def _other_architecture(config: Fields, name: str) -> UnsupportedModelError:
    what = f"{config.source}: architecture {shown(name)} cannot be converted"
    stranger = STRANGERS.get(name)
    if stranger is None:
        return UnsupportedModelError(f"{what}; supported: {_of_like_name(name)}{OTHERS}")
    return UnsupportedModelError(f"{what}: {stranger.why}; supported: {stranger.instead}")


def _of_like_name(name: str) -> str:
    """The architecture that may be meant, or is of the same maker, with a comma behind it."""
    known = {known.removesuffix(_USUAL_END): known for known in (*ARCHITECTURES, *RELATIVES)}
    meant = nearest(name.removesuffix(_USUAL_END), known)
    if meant is None:
        return ""
    relative = RELATIVES.get(known[meant])
    title = "" if relative is None else f"{relative.title} as "
    return f"{title}{known[meant]}, "


def _unsupported(config: Fields, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{config.source}: {what} cannot be converted; supported: {OTHERS}"
    )
