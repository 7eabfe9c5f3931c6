"""Architectures that users often ask for and that are no Llamas: what each computes differently.

``family`` and ``relatives`` decide whether an architecture is a Llama; this table makes a refusal
more useful.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OTHERS = "Llama 1 to 3.3, Mistral, Qwen 2.5, Phi-4 and others, which docs/conversion.md lists"


@dataclass(frozen=True)
class Stranger:
    """``why``: what a Llama does not do. ``instead``: models that run, alike where there are."""

    why: str
    instead: str = OTHERS


_EXPERTS = "layers are mixtures of experts"
_HEAD_NORMS = "queries and keys have norms of their own"
_NORMS_BEHIND = "there are norms behind attention and feed-forward"
_LAYER_NORM = "its norms take off the mean (LayerNorm)"
_LATENT = "keys and values are made from a smaller vector (MLA)"
_RECURRENT = "layers are recurrent"
_NO_GATE = "feed-forward has no gate"
_GEMMA = "it has norms behind attention and feed-forward, and GELU"
_LOOPS = "layers run several times"
_JUDGE = "it judges texts, and has no output for tokens"
_GENERATING = "models that generate texts, whose architecture ends in ForCausalLM"
_DIFFUSION = "texts do not grow token by token (diffusion)"
_MISTRAL, _QWEN2, _LLAMA3 = "Mistral", "Qwen 2 and 2.5", "Llama 3.3"
_DEEPSEEK = "DeepSeek LLM and R1 Distill, which are Llamas and Qwen 2.5"
_GRANITE = "Granite 3, and 4 without experts and Mamba layers"
_GLM = "GLM-4 9B, such as glm-4-9b-chat"
_LLAMA4 = "attention has norms and chunks, and most are mixtures of experts"

STRANGERS: Mapping[str, Stranger] = MappingProxyType(
    {
        "AfmoeForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "ApertusForCausalLM": Stranger(f"{_HEAD_NORMS}, and {_NO_GATE}"),
        "ArceeForCausalLM": Stranger(_NO_GATE),
        "BailingMoeForCausalLM": Stranger(_EXPERTS),
        "BailingMoeV2ForCausalLM": Stranger(_EXPERTS),
        "BambaForCausalLM": Stranger(_RECURRENT),
        "BitNetForCausalLM": Stranger(
            "there are norms within attention and feed-forward", "Falcon 3's 1.58-bit models"
        ),
        "BloomForCausalLM": Stranger("positions are slopes (ALiBi)"),
        "Cohere2ForCausalLM": Stranger(f"{_LAYER_NORM}, attention and feed-forward are parallel"),
        "Cohere2MoeForCausalLM": Stranger(f"{_EXPERTS}, {_LAYER_NORM}"),
        "CohereForCausalLM": Stranger(f"{_LAYER_NORM}, attention and feed-forward are parallel"),
        "DbrxForCausalLM": Stranger(_EXPERTS),
        "DeciLMForCausalLM": Stranger(
            "layers have different numbers of heads, or no attention",
            "Nemotron Nano 8B, which is a Llama",
        ),
        "DeepseekForCausalLM": Stranger(_EXPERTS, _DEEPSEEK),
        "DeepseekV2ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _DEEPSEEK),
        "DeepseekV32ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _DEEPSEEK),
        "DeepseekV3ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _DEEPSEEK),
        "DiffLlamaForCausalLM": Stranger("attention is the difference of two"),
        "DogeForCausalLM": Stranger(_HEAD_NORMS),
        "DreamModel": Stranger(_DIFFUSION, _QWEN2),
        "Ernie4_5_MoeForCausalLM": Stranger(_EXPERTS, "ERNIE 4.5 0.3B"),
        "Exaone4ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}", "EXAONE 3 and 3.5"),
        "ExaoneMoeForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}", "EXAONE 3 and 3.5"),
        "ExaoneMoEForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}", "EXAONE 3 and 3.5"),
        "FalconForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}", "Falcon 3"),
        "FalconH1ForCausalLM": Stranger(_RECURRENT, "Falcon 3"),
        "FalconMambaForCausalLM": Stranger(_RECURRENT, "Falcon 3"),
        "Gemma2ForCausalLM": Stranger(_GEMMA),
        "Gemma3ForCausalLM": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma3ForConditionalGeneration": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma3nForCausalLM": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma3nForConditionalGeneration": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma4ForCausalLM": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma4ForConditionalGeneration": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "GemmaForCausalLM": Stranger("it has GELU and norms that add 1 to their weights"),
        "Glm4ForCausalLM": Stranger(_NORMS_BEHIND, _GLM),
        "Glm4MoeForCausalLM": Stranger(_EXPERTS, _GLM),
        "Glm4MoeLiteForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _GLM),
        "Glm4vForConditionalGeneration": Stranger(_NORMS_BEHIND, _GLM),
        "GlmMoeDsaForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _GLM),
        "GPT2LMHeadModel": Stranger(f"{_LAYER_NORM}, positions are learned"),
        "GPTBigCodeForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "GPTJForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "GPTNeoXForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "GptOssForCausalLM": Stranger(f"{_EXPERTS}, attention has sinks"),
        "GraniteMoeForCausalLM": Stranger(_EXPERTS, _GRANITE),
        "GraniteMoeSharedForCausalLM": Stranger(_EXPERTS, _GRANITE),
        "GraniteSWAForCausalLM": Stranger("attention has sinks", _GRANITE),
        "HrmTextForCausalLM": Stranger(_LOOPS),
        "HunYuanDenseV1ForCausalLM": Stranger(_HEAD_NORMS),
        "HunYuanMoEV1ForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "HYV3ForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "Jais2ForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "JambaForCausalLM": Stranger(f"{_RECURRENT}, {_EXPERTS}"),
        "JetMoeForCausalLM": Stranger(_EXPERTS),
        "KimiK25ForConditionalGeneration": Stranger(f"{_EXPERTS}, {_LATENT}"),
        "KimiLinearForCausalLM": Stranger(f"{_EXPERTS}, {_RECURRENT}"),
        "Lfm2ForCausalLM": Stranger("layers are convolutions"),
        "Lfm2MoeForCausalLM": Stranger(f"{_EXPERTS}, layers are convolutions"),
        "Lfm2VlForConditionalGeneration": Stranger("layers are convolutions"),
        "LLaDAModelLM": Stranger(_DIFFUSION),
        "Llama4ForCausalLM": Stranger(_LLAMA4, _LLAMA3),
        "Llama4ForConditionalGeneration": Stranger(_LLAMA4, _LLAMA3),
        "LlamaBidirectionalModel": Stranger("attention sees the tokens behind, too"),
        "LlamaForCausalLMEagle3": Stranger("it guesses tokens for another model (EAGLE)"),
        "LlamaForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "LongcatFlashForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}"),
        "Mamba2ForCausalLM": Stranger(_RECURRENT),
        "MambaForCausalLM": Stranger(_RECURRENT),
        "MellumForCausalLM": Stranger(_EXPERTS, "Mellum 4B, which is a Llama"),
        "MiMoV2FlashForCausalLM": Stranger(f"{_EXPERTS}, attention has sinks", "MiMo 7B"),
        "MiniCPM3ForCausalLM": Stranger(_LATENT, "MiniCPM 1 and 2"),
        "MiniMaxM2ForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "MiniMaxText01ForCausalLM": Stranger(f"{_EXPERTS}, {_RECURRENT}"),
        "Mistral4ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _MISTRAL),
        "MistralForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "MixtralForCausalLM": Stranger(_EXPERTS, _MISTRAL),
        "MPTForCausalLM": Stranger(f"{_LAYER_NORM}, positions are slopes (ALiBi)"),
        "NanbeigeForCausalLM": Stranger(_LOOPS, "its earlier models, which are Llamas"),
        "NanoChatForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NO_GATE}"),
        "NemotronForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "NemotronHForCausalLM": Stranger(_RECURRENT),
        "Olmo2ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}"),
        "Olmo3ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}"),
        "OlmoeForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "OlmoForCausalLM": Stranger(_LAYER_NORM),
        "OlmoHybridForCausalLM": Stranger(f"{_RECURRENT}, {_HEAD_NORMS}"),
        "OpenELMForCausalLM": Stranger(f"{_HEAD_NORMS}, layers have different sizes"),
        "OPTForCausalLM": Stranger(f"{_LAYER_NORM}, positions are learned"),
        "OrionForCausalLM": Stranger(_LAYER_NORM),
        "PersimmonForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "Phi3SmallForCausalLM": Stranger(_LAYER_NORM, "Phi-3 mini and medium"),
        "PhiForCausalLM": Stranger(_LAYER_NORM, "Phi-3 and 4"),
        "PhiMoEForCausalLM": Stranger(_EXPERTS, "Phi-3 and 4"),
        "PhimoeForCausalLM": Stranger(_EXPERTS, "Phi-3 and 4"),
        "PlamoForCausalLM": Stranger("attention and feed-forward are parallel"),
        "Qwen2ForSequenceClassification": Stranger(_JUDGE, _GENERATING),
        "Qwen2MoeForCausalLM": Stranger(_EXPERTS, _QWEN2),
        "Qwen3_5ForCausalLM": Stranger(f"{_RECURRENT}, {_HEAD_NORMS}", _QWEN2),
        "Qwen3_5ForConditionalGeneration": Stranger(f"{_RECURRENT}, {_HEAD_NORMS}", _QWEN2),
        "Qwen3_5MoeForConditionalGeneration": Stranger(f"{_EXPERTS}, {_RECURRENT}", _QWEN2),
        "Qwen3ForCausalLM": Stranger(_HEAD_NORMS, _QWEN2),
        "Qwen3MoeForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}", _QWEN2),
        "Qwen3NextForCausalLM": Stranger(f"{_EXPERTS}, {_RECURRENT}", _QWEN2),
        "Qwen3VLForConditionalGeneration": Stranger(_HEAD_NORMS, _QWEN2),
        "Qwen3VLMoeForConditionalGeneration": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}", _QWEN2),
        "RecurrentGemmaForCausalLM": Stranger(_RECURRENT),
        "RwkvForCausalLM": Stranger(_RECURRENT),
        "SolarForCausalLM": Stranger("layers get the input of others", "Solar 10.7B, a Llama"),
        "SolarOpenForCausalLM": Stranger(_EXPERTS, "Solar 10.7B, a Llama"),
        "StableLMEpochForCausalLM": Stranger(_LAYER_NORM),
        "StableLmForCausalLM": Stranger(_LAYER_NORM),
        "Starcoder2ForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "T5ForConditionalGeneration": Stranger("it has an encoder"),
        "VaultGemmaForCausalLM": Stranger("it has GELU and norms that add 1 to their weights"),
        "xLSTMForCausalLM": Stranger(_RECURRENT),
        "XverseMoeForCausalLM": Stranger(_EXPERTS, "XVERSE"),
        "YoutuForCausalLM": Stranger(_LATENT),
        "Zamba2ForCausalLM": Stranger(_RECURRENT),
        "ZambaForCausalLM": Stranger(_RECURRENT),
    }
)
"""By the architecture that config.json names."""
