"""Checkpoints of other architectures that are Llamas written otherwise: how each becomes one.

Some have another name only, some have matrices in one that a Llama has apart, some multiply where a
Llama does not, which goes into the weights. Whether the result is a Llama is ``family``'s to check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.hparams import MAX_BLOCKS, ROTATED, head_size
from edgellama.convert.model.multipliers import (
    minicpm_multipliers,
    multiplied,
    multiplied_settings,
)
from edgellama.convert.model.names import without_inner_wrappers
from edgellama.convert.model.packed_matrices import granite4_apart, internlm2_apart, phi3_apart
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.config_keys import ARCHITECTURE_KEY, USUAL_ARCHITECTURE
from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.model_config import UNROTATED_STEPS

SMOLLM3 = "smollm3"
SLIDING = "sliding_attention"
SOURCE_KEY = "edgellama.source_architecture"
"""Says of a file whose matrices are not the checkpoint's, what that was."""

Tensors = Mapping[str, SourceTensor]
Settings = Mapping[str, object]
_NONE: Settings = MappingProxyType({})


def _same(tensors: Tensors, config: Fields) -> Tensors:
    return tensors


def _llama(config: Fields) -> str:
    return USUAL_ARCHITECTURE


def _no_settings(config: Fields) -> Settings:
    return _NONE


@dataclass(frozen=True)
class Relative:
    """How one architecture is a Llama.

    ``title``: what its models are called. ``kind``, ``model_type``: what it becomes. ``defaults``:
    what transformers takes for granted where config.json is silent, and a Llama's differs.
    ``settings``: fields of config.json that are other ones in the Llama. ``rewritten``: the tensors
    of the Llama. ``is_interleaved``: the rows of queries and keys are in GGUF's order already.
    ``architecture``: GGUF's name for what it becomes.
    """

    title: str
    kind: str = "LlamaForCausalLM"
    model_type: str = "llama"
    defaults: Settings = field(default_factory=dict)
    settings: Callable[[Fields], Settings] = _no_settings
    rewritten: Callable[[Tensors, Fields], Tensors] = _same
    is_interleaved: bool = False
    architecture: Callable[[Fields], str] = _llama

    @property
    def has_other_matrices(self) -> bool:
        """Whether an adapter of the checkpoint does not fit the Llama."""
        return self.rewritten is not _same or self.is_interleaved

    def own_config(self, config: Fields) -> Fields:
        """The architecture's configuration, with what it takes for granted."""
        given = {name: value for name, value in config.values.items() if value is not None}
        return Fields({**self.defaults, **given}, config.source, config.prefix)

    def llama_config(self, config: Fields) -> Fields:
        """The configuration of the Llama. Raises what ``settings`` does."""
        own = self.own_config(config)
        named = {"architectures": [self.kind], "model_type": self.model_type}
        return Fields({**own.values, **self.settings(own), **named}, config.source, config.prefix)

    def items(self, config: Fields) -> dict[str, MetadataItem]:
        """The key that tells adapters' converter whose matrices these are not."""
        name = next(name for name in _architectures(config) if name in RELATIVES)
        return {SOURCE_KEY: metadata.text(name)} if self.has_other_matrices else {}

    def llama_tensors(self, tensors: Tensors, config: Fields) -> Tensors:
        """The tensors of the Llama, by Hugging Face's names. Raises ModelFileError."""
        plain = {without_inner_wrappers(name): tensor for name, tensor in tensors.items()}
        # Where two names are one, the layout tells of them.
        named = plain if len(plain) == len(tensors) else tensors
        return self.rewritten(named, self.own_config(config))


def _whole_attention(config: Fields) -> Settings:
    """Windows are for some layers of Qwen 2 and SmolLM 3, and off in what is published."""
    layers, kinds = config.size("num_hidden_layers"), config.items("layer_types")
    first = config.values.get("max_window_layers", 0)
    has_window = config.flag("use_sliding_window", False) and config.has("sliding_window")
    has_window &= isinstance(first, int) and first < layers
    if (SLIDING in kinds) if kinds else has_window:
        raise UnsupportedModelError(
            f"{config.source}: a sliding window in some layers cannot be converted; supported: "
            "none, or one in all layers"
        )
    return _NONE


def _rotated_in_part(config: Fields) -> Settings:
    """Phi-4-mini rotates the first elements of a head alone."""
    name = "partial_rotary_factor"
    whole = next((f for f in ("rope_parameters", "rope_scaling") if config.fields(f)), "")
    rope = config.fields(whole)
    fields = rope if rope.has(name) else config
    size = head_size(config)
    rotated = int(size * fields.positive(name, 1.0))
    if not 2 <= rotated <= size or rotated % 2:
        raise fields.error(name, f"what leaves an even number of {size} elements of a head")
    settings: dict[str, object] = {name: None, ROTATED: rotated}
    return settings | ({whole: {**rope.values, name: 1.0}} if whole else {})


def _granite4_settings(config: Fields) -> Settings:
    """Granite 4 without experts and Mamba layers is Granite 3 under other names."""
    kinds, attention = config.items("layer_types"), ("attention", "full_attention")
    others = [kind for kind in kinds if kind not in attention]
    experts = config.values.get("num_local_experts", 8)
    if not kinds or others or experts or config.text("position_embedding_type") != "rope":
        what = f"{shown(experts)} experts" if experts else f"layers of {shown(others or kinds)}"
        raise UnsupportedModelError(
            f"{config.source}: {what} cannot be converted; supported: Granite 4 without experts, "
            "all layers of which are attention with rotary positions"
        )
    sizes = {"intermediate_size": config.size("shared_intermediate_size")}
    return {**multiplied_settings(config), **sizes, "num_local_experts": None}


def _smollm3(config: Fields) -> str:
    """SmolLM 3's positions are in some layers; GGUF has a name for its own choice of them alone."""
    layers, interval = config.size("num_hidden_layers"), config.size("no_rope_layer_interval", 4)
    usual = [int((layer + 1) % interval != 0) for layer in range(min(layers, MAX_BLOCKS))]
    rotated = config.items("no_rope_layers") or usual
    if all(rotated):
        return USUAL_ARCHITECTURE
    step = UNROTATED_STEPS[SMOLLM3]
    if list(map(bool, rotated)) != [(layer + 1) % step != 0 for layer in range(layers)]:
        raise config.error("no_rope_layers", f"1 for all layers, or 0 for each {step}th")
    return SMOLLM3


RELATIVES: Mapping[str, Relative] = MappingProxyType(
    {
        "InternLM3ForCausalLM": Relative("InternLM 3"),
        "SeedOssForCausalLM": Relative("Seed-OSS", defaults={"head_dim": 128}),
        "Qwen2ForCausalLM": Relative(
            "Qwen 2 and 2.5",
            defaults={
                "max_position_embeddings": 32768,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            settings=_whole_attention,
        ),
        "Ernie4_5ForCausalLM": Relative(
            "ERNIE 4.5 without experts",
            defaults={
                "head_dim": 128,
                "rms_norm_eps": 1e-5,
                "rope_theta": 5e5,
                "tie_word_embeddings": True,
                "max_position_embeddings": 131072,
            },
            is_interleaved=True,
        ),
        "HeliumForCausalLM": Relative(
            "Helium",
            defaults={
                "head_dim": 128,
                "rms_norm_eps": 1e-8,
                "rope_theta": 1e5,
                "max_position_embeddings": 4096,
            },
            is_interleaved=True,
        ),
        "Phi3ForCausalLM": Relative(
            "Phi-3 and 4",
            kind="MistralForCausalLM",
            model_type="mistral",
            defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
            settings=_rotated_in_part,
            rewritten=phi3_apart,
        ),
        "SmolLM3ForCausalLM": Relative(
            "SmolLM 3",
            defaults={
                "rope_theta": 2e6,
                "tie_word_embeddings": True,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
            },
            settings=_whole_attention,
            architecture=_smollm3,
        ),
        "Ministral3ForCausalLM": Relative(
            "Ministral 3",
            kind="MistralForCausalLM",
            model_type="mistral",
            defaults={"head_dim": 128, "rms_norm_eps": 1e-5, "max_position_embeddings": 262144},
        ),
        "InternLM2ForCausalLM": Relative("InternLM 2", rewritten=internlm2_apart),
        "GraniteForCausalLM": Relative(
            "Granite 3", settings=multiplied_settings, rewritten=multiplied
        ),
        "MiniCPMForCausalLM": Relative(
            "MiniCPM",
            defaults={"tie_word_embeddings": True},
            settings=lambda config: multiplied_settings(minicpm_multipliers(config)),
            rewritten=lambda tensors, config: multiplied(tensors, minicpm_multipliers(config)),
        ),
        "GraniteMoeHybridForCausalLM": Relative(
            "Granite 4 without experts and Mamba layers",
            settings=_granite4_settings,
            rewritten=lambda tensors, config: multiplied(granite4_apart(tensors, config), config),
        ),
    }
)


def renamed_keys(
    items: Mapping[str, MetadataItem], architecture: str, of: str = USUAL_ARCHITECTURE
) -> dict[str, MetadataItem]:
    """The keys of one architecture, a Llama's by default, under another's name."""
    prefix = f"{of}."
    named = {
        f"{architecture}.{key.removeprefix(prefix)}" if key.startswith(prefix) else key: item
        for key, item in items.items()
    }
    return named | {ARCHITECTURE_KEY: metadata.text(architecture)}


def plain_config(config: Fields) -> Fields:
    """The configuration of the Llama that config.json's model is, or config.json itself."""
    relative = find_relative(config)
    return config if relative is None else relative.llama_config(config)


def find_relative(config: Fields) -> Relative | None:
    """How config.json's architecture is a Llama; None for a Llama itself, and for what is none."""
    return next((RELATIVES[name] for name in _architectures(config) if name in RELATIVES), None)


def _architectures(config: Fields) -> list[str]:
    return [name for name in config.items("architectures") if isinstance(name, str)]
