"""Architectures that users often ask for and that are no Llamas: what each computes differently.

``family`` and ``relatives`` decide whether an architecture is a Llama; this table makes a refusal
more useful.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.quant.gguf.strangers import (
    BOTH_WAYS,
    CONVOLUTIONS,
    DIFFERENT_HEADS,
    DIFFUSION,
    DRAFTER,
    ENCODER,
    EXPERTS,
    GEMMA,
    HEAD_NORMS,
    INNER_NORMS,
    LATENT,
    LAYER_NORM,
    LLAMA4,
    LOOPS,
    NO_GATE,
    NORMS_BEHIND,
    PARALLEL,
    RECURRENT,
    SINKS,
    SLOPES,
)

OTHERS = "Llama 1 to 3.3, Mistral, Qwen 2.5 and 3, Phi-4 and others, which docs/conversion.md lists"


@dataclass(frozen=True)
class Stranger:
    """``why``: what a Llama does not do. ``instead``: models that run, alike where there are."""

    why: str
    instead: str = OTHERS


_JUDGE = "it judges texts, and has no output for tokens"
_GENERATING = "models that generate texts, whose architecture ends in ForCausalLM"
_MISTRAL, _QWEN2, _LLAMA3 = "Mistral", "Qwen 2, 2.5 and 3", "Llama 3.3"
_DEEPSEEK = "DeepSeek LLM and R1 Distill, which are Llamas and Qwen 2.5"
_GRANITE = "Granite 3, and 4 without experts and Mamba layers"
_GLM = "GLM-4 9B, such as glm-4-9b-chat"

STRANGERS: Mapping[str, Stranger] = MappingProxyType(
    {
        "AfmoeForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}"),
        "ApertusForCausalLM": Stranger(f"{HEAD_NORMS}, and {NO_GATE}"),
        "ArceeForCausalLM": Stranger(NO_GATE),
        "BailingMoeForCausalLM": Stranger(EXPERTS),
        "BailingMoeV2ForCausalLM": Stranger(EXPERTS),
        "BambaForCausalLM": Stranger(RECURRENT),
        "BitNetForCausalLM": Stranger(INNER_NORMS, "Falcon 3's 1.58-bit models"),
        "BloomForCausalLM": Stranger(SLOPES),
        "Cohere2ForCausalLM": Stranger(f"{LAYER_NORM}, {PARALLEL}"),
        "Cohere2MoeForCausalLM": Stranger(f"{EXPERTS}, {LAYER_NORM}"),
        "CohereForCausalLM": Stranger(f"{LAYER_NORM}, {PARALLEL}"),
        "DbrxForCausalLM": Stranger(EXPERTS),
        "DeciLMForCausalLM": Stranger(
            DIFFERENT_HEADS,
            "Nemotron Nano 8B, which is a Llama",
        ),
        "DeepseekForCausalLM": Stranger(EXPERTS, _DEEPSEEK),
        "DeepseekV2ForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _DEEPSEEK),
        "DeepseekV32ForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _DEEPSEEK),
        "DeepseekV3ForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _DEEPSEEK),
        "DiffLlamaForCausalLM": Stranger("attention is the difference of two"),
        "DogeForCausalLM": Stranger(HEAD_NORMS),
        "DreamModel": Stranger(DIFFUSION, _QWEN2),
        "Ernie4_5_MoeForCausalLM": Stranger(EXPERTS, "ERNIE 4.5 0.3B"),
        "Exaone4ForCausalLM": Stranger(f"{HEAD_NORMS}, {NORMS_BEHIND}", "EXAONE 3 and 3.5"),
        "ExaoneMoeForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}", "EXAONE 3 and 3.5"),
        "ExaoneMoEForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}", "EXAONE 3 and 3.5"),
        "FalconForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}", "Falcon 3"),
        "FalconH1ForCausalLM": Stranger(RECURRENT, "Falcon 3"),
        "FalconMambaForCausalLM": Stranger(RECURRENT, "Falcon 3"),
        "Gemma2ForCausalLM": Stranger(GEMMA),
        "Gemma3ForCausalLM": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "Gemma3ForConditionalGeneration": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "Gemma3nForCausalLM": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "Gemma3nForConditionalGeneration": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "Gemma4ForCausalLM": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "Gemma4ForConditionalGeneration": Stranger(f"{HEAD_NORMS}; {GEMMA}"),
        "GemmaForCausalLM": Stranger("it has GELU and norms that add 1 to their weights"),
        "Glm4ForCausalLM": Stranger(NORMS_BEHIND, _GLM),
        "Glm4MoeForCausalLM": Stranger(EXPERTS, _GLM),
        "Glm4MoeLiteForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _GLM),
        "Glm4vForConditionalGeneration": Stranger(NORMS_BEHIND, _GLM),
        "GlmMoeDsaForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _GLM),
        "GPT2LMHeadModel": Stranger(f"{LAYER_NORM}, positions are learned"),
        "GPTBigCodeForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "GPTJForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "GPTNeoXForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "GptOssForCausalLM": Stranger(f"{EXPERTS}, {SINKS}"),
        "GraniteMoeForCausalLM": Stranger(EXPERTS, _GRANITE),
        "GraniteMoeSharedForCausalLM": Stranger(EXPERTS, _GRANITE),
        "GraniteSWAForCausalLM": Stranger(SINKS, _GRANITE),
        "HrmTextForCausalLM": Stranger(LOOPS),
        "HunYuanDenseV1ForCausalLM": Stranger(HEAD_NORMS),
        "HunYuanMoEV1ForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}"),
        "HYV3ForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}"),
        "Jais2ForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "JambaForCausalLM": Stranger(f"{RECURRENT}, {EXPERTS}"),
        "JetMoeForCausalLM": Stranger(EXPERTS),
        "KimiK25ForConditionalGeneration": Stranger(f"{EXPERTS}, {LATENT}"),
        "KimiLinearForCausalLM": Stranger(f"{EXPERTS}, {RECURRENT}"),
        "Lfm2ForCausalLM": Stranger(CONVOLUTIONS),
        "Lfm2MoeForCausalLM": Stranger(f"{EXPERTS}, {CONVOLUTIONS}"),
        "Lfm2VlForConditionalGeneration": Stranger(CONVOLUTIONS),
        "LLaDAModelLM": Stranger(DIFFUSION),
        "Llama4ForCausalLM": Stranger(LLAMA4, _LLAMA3),
        "Llama4ForConditionalGeneration": Stranger(LLAMA4, _LLAMA3),
        "LlamaBidirectionalModel": Stranger(BOTH_WAYS),
        "LlamaForCausalLMEagle3": Stranger(DRAFTER),
        "LlamaForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "LongcatFlashForCausalLM": Stranger(f"{EXPERTS}, {LATENT}"),
        "Mamba2ForCausalLM": Stranger(RECURRENT),
        "MambaForCausalLM": Stranger(RECURRENT),
        "MellumForCausalLM": Stranger(EXPERTS, "Mellum 4B, which is a Llama"),
        "MiMoV2FlashForCausalLM": Stranger(f"{EXPERTS}, {SINKS}", "MiMo 7B"),
        "MiniCPM3ForCausalLM": Stranger(LATENT, "MiniCPM 1 and 2"),
        "MiniMaxM2ForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}"),
        "MiniMaxText01ForCausalLM": Stranger(f"{EXPERTS}, {RECURRENT}"),
        "Mistral4ForCausalLM": Stranger(f"{EXPERTS}, {LATENT}", _MISTRAL),
        "MistralForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "MixtralForCausalLM": Stranger(EXPERTS, _MISTRAL),
        "MPTForCausalLM": Stranger(f"{LAYER_NORM}, {SLOPES}"),
        "NanbeigeForCausalLM": Stranger(LOOPS, "its earlier models, which are Llamas"),
        "NanoChatForCausalLM": Stranger(f"{HEAD_NORMS}, {NO_GATE}"),
        "NemotronForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "NemotronHForCausalLM": Stranger(RECURRENT),
        "Olmo2ForCausalLM": Stranger(f"{HEAD_NORMS}, {NORMS_BEHIND}"),
        "Olmo3ForCausalLM": Stranger(f"{HEAD_NORMS}, {NORMS_BEHIND}"),
        "OlmoeForCausalLM": Stranger(f"{EXPERTS}, {HEAD_NORMS}"),
        "OlmoForCausalLM": Stranger(LAYER_NORM),
        "OlmoHybridForCausalLM": Stranger(f"{RECURRENT}, {HEAD_NORMS}"),
        "OpenELMForCausalLM": Stranger(f"{HEAD_NORMS}, layers have different sizes"),
        "OPTForCausalLM": Stranger(f"{LAYER_NORM}, positions are learned"),
        "OrionForCausalLM": Stranger(LAYER_NORM),
        "PersimmonForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "Phi3SmallForCausalLM": Stranger(LAYER_NORM, "Phi-3 mini and medium"),
        "PhiForCausalLM": Stranger(LAYER_NORM, "Phi-3 and 4"),
        "PhiMoEForCausalLM": Stranger(EXPERTS, "Phi-3 and 4"),
        "PhimoeForCausalLM": Stranger(EXPERTS, "Phi-3 and 4"),
        "PlamoForCausalLM": Stranger(PARALLEL),
        "Qwen2ForRewardModel": Stranger(_JUDGE, _GENERATING),
        "Qwen2ForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "Qwen2ForTokenClassification": Stranger(_JUDGE, _GENERATING),
        "Qwen2MoeForCausalLM": Stranger(EXPERTS, _QWEN2),
        "Qwen3_5ForCausalLM": Stranger(RECURRENT, _QWEN2),
        "Qwen3_5ForConditionalGeneration": Stranger(RECURRENT, _QWEN2),
        "Qwen3_5MoeForConditionalGeneration": Stranger(f"{EXPERTS}, {RECURRENT}", _QWEN2),
        "Qwen3ForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "Qwen3ForTokenClassification": Stranger(_JUDGE, _GENERATING),
        "Qwen3MoeForCausalLM": Stranger(EXPERTS, _QWEN2),
        "Qwen3NextForCausalLM": Stranger(f"{EXPERTS}, {RECURRENT}", _QWEN2),
        "Qwen3OmniMoeForConditionalGeneration": Stranger(EXPERTS, _QWEN2),
        "Qwen3VLMoeForConditionalGeneration": Stranger(EXPERTS, _QWEN2),
        "RecurrentGemmaForCausalLM": Stranger(RECURRENT),
        "RwkvForCausalLM": Stranger(RECURRENT),
        "SolarForCausalLM": Stranger("layers get the input of others", "Solar 10.7B, a Llama"),
        "SolarOpenForCausalLM": Stranger(EXPERTS, "Solar 10.7B, a Llama"),
        "StableLMEpochForCausalLM": Stranger(LAYER_NORM),
        "StableLmForCausalLM": Stranger(LAYER_NORM),
        "Starcoder2ForCausalLM": Stranger(f"{LAYER_NORM}, {NO_GATE}"),
        "T5ForConditionalGeneration": Stranger(ENCODER),
        "VaultGemmaForCausalLM": Stranger("it has GELU and norms that add 1 to their weights"),
        "xLSTMForCausalLM": Stranger(RECURRENT),
        "XverseMoeForCausalLM": Stranger(EXPERTS, "XVERSE"),
        "YoutuForCausalLM": Stranger(LATENT),
        "Zamba2ForCausalLM": Stranger(RECURRENT),
        "ZambaForCausalLM": Stranger(RECURRENT),
    }
)
"""By the architecture that config.json names."""
