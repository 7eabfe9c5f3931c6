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
from edgellama.convert.model.multipliers import multiplied, multiplied_settings
from edgellama.convert.model.packed_matrices import internlm2_apart, phi3_apart
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import UnsupportedModelError

SOURCE_KEY = "edgellama.source_architecture"
"""Says of a file whose matrices are not the checkpoint's, what that was."""

Tensors = Mapping[str, SourceTensor]
Settings = Mapping[str, object]
_NONE: Settings = MappingProxyType({})


def _same(tensors: Tensors, config: Fields) -> Tensors:
    return tensors


def _no_settings(config: Fields) -> Settings:
    return _NONE


@dataclass(frozen=True)
class Relative:
    """How one architecture is a Llama.

    ``title``: what its models are called. ``kind``, ``model_type``: what it becomes. ``defaults``:
    what transformers takes for granted where config.json is silent, and a Llama's differs.
    ``settings``: fields of config.json that are other ones in the Llama. ``rewritten``: the tensors
    of the Llama. ``is_interleaved``: the rows of queries and keys are in GGUF's order already.
    """

    title: str
    kind: str = "LlamaForCausalLM"
    model_type: str = "llama"
    defaults: Settings = field(default_factory=dict)
    settings: Callable[[Fields], Settings] = _no_settings
    rewritten: Callable[[Tensors, Fields], Tensors] = _same
    is_interleaved: bool = False

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
        name = next(name for name in config.items("architectures") if name in RELATIVES)
        return {SOURCE_KEY: metadata.text(str(name))} if self.has_other_matrices else {}

    def llama_tensors(self, tensors: Tensors, config: Fields) -> Tensors:
        """The tensors of the Llama, by Hugging Face's names. Raises ModelFileError."""
        return self.rewritten(tensors, self.own_config(config))


def _whole_attention(config: Fields) -> Settings:
    """Qwen 2's windows are for some layers, and off in what is published."""
    name, layers = "max_window_layers", config.size("num_hidden_layers")
    first = config.values.get(name, layers)
    has_window = config.flag("use_sliding_window", False) and config.has("sliding_window")
    if has_window and isinstance(first, int) and first < layers:
        raise UnsupportedModelError(
            f"{config.source}: a sliding window in the layers from {first} on cannot be converted; "
            "supported: none, or one in all layers"
        )
    return _NONE


RELATIVES: Mapping[str, Relative] = MappingProxyType(
    {
        "InternLM3ForCausalLM": Relative("InternLM 3"),
        "SeedOssForCausalLM": Relative("Seed-OSS", defaults={"head_dim": 128}),
        "Qwen2ForCausalLM": Relative(
            "Qwen 2 and 2.5", defaults={"max_position_embeddings": 32768}, settings=_whole_attention
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
            "Phi-3 and 4 without LongRoPE",
            kind="MistralForCausalLM",
            model_type="mistral",
            defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
            rewritten=phi3_apart,
        ),
        "InternLM2ForCausalLM": Relative("InternLM 2", rewritten=internlm2_apart),
        "GraniteForCausalLM": Relative(
            "Granite 3 and 4 without experts", settings=multiplied_settings, rewritten=multiplied
        ),
    }
)


def plain_config(config: Fields) -> Fields:
    """The configuration of the Llama that config.json's model is, or config.json itself."""
    relative = find_relative(config)
    return config if relative is None else relative.llama_config(config)


def find_relative(config: Fields) -> Relative | None:
    """How config.json's architecture is a Llama; None for a Llama itself, and for what is none."""
    architectures = (name for name in config.items("architectures") if isinstance(name, str))
    return next((RELATIVES[name] for name in architectures if name in RELATIVES), None)
