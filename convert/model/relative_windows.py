"""Layers of other architectures that have a window of attention or no positions, in a Llama.

Each function takes a configuration and returns the fields that differ from a Llama's.
``relative_settings`` has sizes and the scaling of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from edgellama.convert.model.hparams import MAX_BLOCKS, WINDOWED_FROM
from edgellama.convert.model.relative import Settings
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.config_keys import USUAL_ARCHITECTURE
from edgellama.quant.errors import ModelFileError
from edgellama.quant.model_config import UNROTATED_STEPS

SMOLLM3 = "smollm3"
SLIDING, WHOLE = "sliding_attention", "full_attention"
_MISTRAL: Settings = MappingProxyType(
    {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "use_sliding_window": True}
)
_CWM_ROPE = MappingProxyType(
    {
        "rope_type": "llama3",
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }
)


def qwen2_windows(config: Fields) -> Settings:
    """Qwen 2's windows, which published models turn off, and which begin with a layer."""
    first = config.values.get("max_window_layers")
    window = _window(config, is_used=config.flag("use_sliding_window", False))
    return _windows(config, window, lambda layer: not isinstance(first, int) or layer >= first)


def smollm3_windows(config: Fields) -> Settings:
    """SmolLM 3 has them in layers without positions."""
    rotated = _rotated_layers(config)
    window = _window(config, is_used=config.flag("use_sliding_window", False))
    return _windows(config, window, lambda layer: layer < len(rotated) and not rotated[layer])


def ministral_windows(config: Fields) -> Settings:
    """Ministral has them in all layers, unless it names the layers."""
    return _windows(config, _window(config, is_used=True), lambda layer: True)


def cwm_settings(config: Fields) -> Settings:
    """CWM sees everything in each fourth layer, beginning with the first, and scales positions."""
    window = _window(config, is_used=True)
    settings = _windows(config, window, lambda layer: layer % 4 != 0)
    is_told = any(config.fields(name) for name in ("rope_parameters", "rope_scaling"))
    return settings if is_told else {**settings, "rope_parameters": dict(_CWM_ROPE)}


def _window(config: Fields, *, is_used: bool) -> int | None:
    return config.size("sliding_window") if is_used and config.has("sliding_window") else None


def _windows(config: Fields, window: int | None, usual: Callable[[int], bool]) -> Settings:
    """Windows by layer; ``usual``: whether a layer has one where ``layer_types`` is silent."""
    layers, kinds = config.size("num_hidden_layers"), config.items("layer_types")
    strangers = [kind for kind in kinds if kind not in (SLIDING, WHOLE)]
    if strangers or (kinds and len(kinds) != layers):
        raise config.error("layer_types", f"{layers} times {WHOLE} or {SLIDING}")
    are_windowed = [kind == SLIDING for kind in kinds] or [
        window is not None and usual(layer) for layer in range(min(layers, MAX_BLOCKS))
    ]
    if not any(are_windowed):
        return MappingProxyType({"sliding_window": None})
    if window is None:
        raise ModelFileError(
            f"{config.source}: layer_types has {SLIDING}, and no window is in use; needed: "
            "sliding_window, and use_sliding_window true where there is one"
        )
    if all(are_windowed):
        return {**_MISTRAL, "sliding_window": window}
    return {"sliding_window": None, WINDOWED_FROM: window}


def smollm3(config: Fields) -> str:
    """SmolLM 3's positions are in some layers; GGUF has a name for its own choice of them alone."""
    layers, rotated = config.size("num_hidden_layers"), _rotated_layers(config)
    if all(rotated):
        return USUAL_ARCHITECTURE
    step = UNROTATED_STEPS[SMOLLM3]
    if list(map(bool, rotated)) != [(layer + 1) % step != 0 for layer in range(layers)]:
        raise config.error("no_rope_layers", f"1 for all layers, or 0 for each {step}th")
    return SMOLLM3


def _rotated_layers(config: Fields) -> list[object]:
    """1 for the layers with positions, 0 for the others."""
    layers, interval = config.size("num_hidden_layers"), config.size("no_rope_layer_interval", 4)
    usual: list[object] = [int((i + 1) % interval != 0) for i in range(min(layers, MAX_BLOCKS))]
    return config.items("no_rope_layers") or usual
