"""The table of other architectures whose checkpoints are Llamas under another form.

Some only have another name. Some join matrices that are separate in a Llama. Some multiply where a
Llama does not, and the factor goes into the weights. ``strangers`` lists those that are no Llamas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model import relative_settings as settings
from edgellama.convert.model import relative_windows as windows
from edgellama.convert.model.hparams import HEAD_NORMED
from edgellama.convert.model.multipliers import (
    hyperclovax_multipliers,
    minicpm_multipliers,
    multiplied,
    multiplied_settings,
    teleflm_multipliers,
)
from edgellama.convert.model.packed_matrices import (
    baichuan2_apart,
    baichuan_apart,
    chatglm_apart,
    glm_apart,
    granite4_apart,
    internlm2_apart,
    phi3_apart,
    qwen_apart,
    telechat_apart,
    with_unit_rows,
)
from edgellama.convert.model.relative import Relative, Settings
from edgellama.convert.model.tensor_names import EXAONE, KORMO, each_layer_twice, renamed
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.config_keys import ARCHITECTURE_KEY, USUAL_ARCHITECTURE

HEADLESS = "LlamaModel"
"""A Llama without an output matrix."""
SOURCE_KEY = "edgellama.source_architecture"
"""Says of a file whose matrices are not the checkpoint's, what that was."""
_QWEN2: Settings = MappingProxyType(
    {"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
)
_QWEN_2 = Relative("Qwen 2 and 2.5", defaults=_QWEN2, settings=windows.qwen2_windows)
_QWEN_3 = Relative(
    "Qwen 3",
    defaults={**_QWEN2, "head_dim": 128},
    settings=lambda config: {**windows.qwen2_windows(config), HEAD_NORMED: True},
    architecture=lambda config: "qwen3",
)
_TELECHAT = Relative(
    "TeleChat and TeleChat 2",
    defaults={"tie_word_embeddings": True},
    settings=settings.telechat_settings,
    rewritten=telechat_apart,
)
_CHATGLM = Relative(
    "ChatGLM 2 and 3, GLM-4 9B",
    defaults={"kv_channels": 128, "layernorm_epsilon": 1e-5, "seq_length": 2048},
    settings=settings.chatglm_settings,
    rewritten=chatglm_apart,
    is_interleaved=True,
)
_TELECHAT3 = Relative("TeleChat 3", defaults={"rms_norm_eps": 1e-5, "rope_theta": 1e6})

RELATIVES: Mapping[str, Relative] = MappingProxyType(
    {
        "AquilaForCausalLM": Relative("Aquila"),
        "AquilaModel": Relative("Aquila"),
        "BaiChuanForCausalLM": Relative("Baichuan 7B", rewritten=baichuan_apart),
        "BaichuanForCausalLM": Relative(
            "Baichuan 2 7B", settings=settings.baichuan_settings, rewritten=baichuan2_apart
        ),
        "ChatGLMModel": _CHATGLM,
        "ChatGLMForConditionalGeneration": _CHATGLM,
        "CwmForCausalLM": Relative(
            "CWM",
            defaults={
                "head_dim": 128,
                "rms_norm_eps": 1e-5,
                "num_key_value_heads": 8,
                "max_position_embeddings": 131072,
                "sliding_window": 8192,
                "rope_theta": 1e6,
            },
            settings=windows.cwm_settings,
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
        "ExaoneForCausalLM": Relative(
            "EXAONE 3 and 3.5",
            defaults={"tie_word_embeddings": True},
            settings=settings.exaone_settings,
            rewritten=lambda tensors, config: renamed(tensors, EXAONE, config.source),
        ),
        "GlmForCausalLM": Relative(
            "GLM-4 9B",
            defaults={
                "head_dim": 128,
                "rms_norm_eps": 1.5625e-7,
                "num_key_value_heads": 2,
                "max_position_embeddings": 131072,
                "partial_rotary_factor": 0.5,
            },
            settings=settings.rotated_in_part,
            rewritten=glm_apart,
            is_interleaved=True,
        ),
        "GraniteForCausalLM": Relative(
            "Granite 3", settings=multiplied_settings, rewritten=multiplied
        ),
        "GraniteMoeHybridForCausalLM": Relative(
            "Granite 4 without experts and Mamba layers",
            settings=settings.granite4_settings,
            rewritten=lambda tensors, config: multiplied(granite4_apart(tensors, config), config),
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
        "HyperCLOVAXForCausalLM": Relative(
            "HyperCLOVA X without norms behind attention",
            settings=lambda config: multiplied_settings(hyperclovax_multipliers(config)),
            rewritten=lambda tensors, config: multiplied(tensors, hyperclovax_multipliers(config)),
        ),
        "IndexForCausalLM": Relative(
            "Index 1.9B",
            rewritten=lambda tensors, config: (
                with_unit_rows(tensors) if settings.has_unit_output(config) else tensors
            ),
        ),
        "InternLMForCausalLM": Relative("InternLM", settings=settings.internlm_settings),
        "InternLM2ForCausalLM": Relative("InternLM 2", rewritten=internlm2_apart),
        "InternLM3ForCausalLM": Relative("InternLM 3"),
        "IQuestCoderForCausalLM": Relative(
            "IQuest-Coder",
            defaults={
                "head_dim": 128,
                "rms_norm_eps": 1e-5,
                "num_key_value_heads": 8,
                "max_position_embeddings": 131072,
            },
            settings=settings.without_clipping,
        ),
        "KORMoForCausalLM": Relative(
            "KORMo", rewritten=lambda tensors, config: renamed(tensors, KORMO, config.source)
        ),
        "MiMoForCausalLM": Relative(
            "MiMo 7B",
            defaults=_QWEN2,
            settings=windows.qwen2_windows,
            left_out="model.mtp_layers.",
        ),
        "MiniCPMForCausalLM": Relative(
            "MiniCPM",
            defaults={"tie_word_embeddings": True},
            settings=lambda config: multiplied_settings(minicpm_multipliers(config)),
            rewritten=lambda tensors, config: multiplied(tensors, minicpm_multipliers(config)),
        ),
        "MinistralForCausalLM": Relative(
            "Ministral",
            defaults={
                "num_key_value_heads": 8,
                "max_position_embeddings": 131072,
                "sliding_window": 4096,
            },
            settings=windows.ministral_windows,
        ),
        "Ministral3ForCausalLM": Relative(
            "Ministral 3",
            kind="MistralForCausalLM",
            model_type="mistral",
            defaults={"head_dim": 128, "rms_norm_eps": 1e-5, "max_position_embeddings": 262144},
            architecture=settings.ministral3,
        ),
        "MobileLLMForCausalLM": Relative(
            "MobileLLM",
            settings=settings.mobilellm_settings,
            rewritten=lambda tensors, config: (
                each_layer_twice(tensors) if settings.runs_layers_twice(config) else tensors
            ),
        ),
        "PanguEmbeddedForCausalLM": Relative(
            "openPangu Embedded", settings=settings.pangu_settings
        ),
        "Phi3ForCausalLM": Relative(
            "Phi-3 and 4",
            kind="MistralForCausalLM",
            model_type="mistral",
            defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
            settings=settings.rotated_in_part,
            rewritten=phi3_apart,
        ),
        "QWenLMHeadModel": Relative(
            "Qwen 1",
            defaults={
                "kv_channels": 128,
                "layer_norm_epsilon": 1e-6,
                "rotary_emb_base": 10000,
                "rotary_pct": 1.0,
                "seq_length": 8192,
                "max_position_embeddings": 8192,
            },
            settings=settings.qwen_settings,
            rewritten=qwen_apart,
        ),
        "Qwen2ForCausalLM": _QWEN_2,
        "Qwen2Model": replace(_QWEN_2, kind=HEADLESS),
        "Qwen3ForCausalLM": _QWEN_3,
        "Qwen3Model": replace(_QWEN_3, kind=HEADLESS),
        "SeedOssForCausalLM": Relative("Seed-OSS", defaults={"head_dim": 128}),
        "SkyworkForCausalLM": Relative("Skywork"),
        "SmolLM3ForCausalLM": Relative(
            "SmolLM 3",
            defaults={
                "rope_theta": 2e6,
                "tie_word_embeddings": True,
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
            },
            settings=windows.smollm3_windows,
            architecture=windows.smollm3,
        ),
        "TelechatForCausalLM": _TELECHAT,
        "TeleChatForCausalLM": _TELECHAT,
        "TeleChat2ForCausalLM": _TELECHAT,
        "Telechat3ForCausalLM": _TELECHAT3,
        "TeleChat3ForCausalLM": _TELECHAT3,
        "TeleFLMForCausalLM": Relative(
            "Tele-FLM",
            settings=lambda config: multiplied_settings(teleflm_multipliers(config)),
            rewritten=lambda tensors, config: multiplied(tensors, teleflm_multipliers(config)),
        ),
        "XverseForCausalLM": Relative("XVERSE"),
    }
)
"""By the architecture that config.json names."""


def source_items(config: Fields) -> dict[str, MetadataItem]:
    """The key that tells adapters' converter whose matrices a relative's file does not have."""
    name = next((name for name in _architectures(config) if name in RELATIVES), "")
    is_other = bool(name) and RELATIVES[name].has_other_matrices
    return {SOURCE_KEY: metadata.text(name)} if is_other else {}


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
