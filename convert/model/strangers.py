"""Architectures that are often asked for and are no Llama: what each computes otherwise.

Whether an architecture is a Llama is ``family``'s and ``relatives``' to say; this table only makes
a refusal useful.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_OTHERS = "Llama 3.2, Mistral 7B, Qwen 2.5 and others, which docs/conversion.md lists"


@dataclass(frozen=True)
class Stranger:
    """``why``: what a Llama does not do. ``instead``: models that run, alike where there are."""

    why: str
    instead: str = _OTHERS


_EXPERTS = "layers are mixtures of experts"
_HEAD_NORMS = "queries and keys have norms of their own"
_NORMS_BEHIND = "there are norms behind attention and feed-forward"
_LAYER_NORM = "its norms take off the mean (LayerNorm)"
_LATENT = "keys and values are made from a smaller vector (MLA)"
_RECURRENT = "layers are recurrent"
_NO_GATE = "feed-forward has no gate"
_GEMMA = "it has norms behind attention and feed-forward, and GELU"
_DIFFUSION = "texts do not grow token by token (diffusion)"
_MISTRAL, _QWEN2, _LLAMA3 = "Mistral", "Qwen 2 and 2.5", "Llama 3.3"
_DEEPSEEK = "DeepSeek LLM and R1 Distill, which are Llamas and Qwen 2.5"
_GRANITE = "Granite 3, and 4 without experts and Mamba layers"
_GLM = "GLM-4 9B as GlmForCausalLM, such as glm-4-9b-chat-hf"
_LLAMA4 = "attention has norms and chunks, and most are mixtures of experts"

STRANGERS: Mapping[str, Stranger] = MappingProxyType(
    {
        "ApertusForCausalLM": Stranger(f"{_HEAD_NORMS}, and {_NO_GATE}"),
        "ArceeForCausalLM": Stranger(_NO_GATE),
        "BitNetForCausalLM": Stranger(
            "there are norms within attention and feed-forward", "Falcon 3's 1.58-bit models"
        ),
        "BloomForCausalLM": Stranger("positions are slopes (ALiBi)"),
        "ChatGLMModel": Stranger("its tensors and its tokenizer are code of its own", _GLM),
        "ChatGLMForConditionalGeneration": Stranger(
            "its tensors and its tokenizer are code of its own", _GLM
        ),
        "CohereForCausalLM": Stranger(f"{_LAYER_NORM}, attention and feed-forward are parallel"),
        "Cohere2ForCausalLM": Stranger(f"{_LAYER_NORM}, attention and feed-forward are parallel"),
        "DeciLMForCausalLM": Stranger(
            "layers have different numbers of heads, or no attention",
            "Nemotron Nano 8B, which is a Llama",
        ),
        "DeepseekForCausalLM": Stranger(_EXPERTS, _DEEPSEEK),
        "DeepseekV2ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _DEEPSEEK),
        "DeepseekV3ForCausalLM": Stranger(f"{_EXPERTS}, {_LATENT}", _DEEPSEEK),
        "DreamModel": Stranger(_DIFFUSION, _QWEN2),
        "Ernie4_5_MoeForCausalLM": Stranger(_EXPERTS, "ERNIE 4.5 0.3B"),
        "Exaone4ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}", "EXAONE 3 and 3.5"),
        "FalconForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}", "Falcon 3"),
        "FalconH1ForCausalLM": Stranger(_RECURRENT, "Falcon 3"),
        "FalconMambaForCausalLM": Stranger(_RECURRENT, "Falcon 3"),
        "GPT2LMHeadModel": Stranger(f"{_LAYER_NORM}, positions are learned"),
        "GPTNeoXForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "GemmaForCausalLM": Stranger("it has GELU and norms that add 1 to their weights"),
        "Gemma2ForCausalLM": Stranger(_GEMMA),
        "Gemma3ForCausalLM": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Gemma3ForConditionalGeneration": Stranger(f"{_HEAD_NORMS}; {_GEMMA}"),
        "Glm4ForCausalLM": Stranger(_NORMS_BEHIND, _GLM),
        "GptOssForCausalLM": Stranger(f"{_EXPERTS}, attention has sinks"),
        "GraniteMoeForCausalLM": Stranger(_EXPERTS, _GRANITE),
        "GraniteMoeSharedForCausalLM": Stranger(_EXPERTS, _GRANITE),
        "HunYuanDenseV1ForCausalLM": Stranger(_HEAD_NORMS),
        "HunYuanMoEV1ForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}"),
        "JambaForCausalLM": Stranger(f"{_RECURRENT}, {_EXPERTS}"),
        "LLaDAModelLM": Stranger(_DIFFUSION),
        "Lfm2ForCausalLM": Stranger("layers are convolutions"),
        "Llama4ForCausalLM": Stranger(_LLAMA4, _LLAMA3),
        "Llama4ForConditionalGeneration": Stranger(_LLAMA4, _LLAMA3),
        "MambaForCausalLM": Stranger(_RECURRENT),
        "MellumForCausalLM": Stranger(_EXPERTS, "Mellum 4B, which is a Llama"),
        "MiniCPM3ForCausalLM": Stranger(_LATENT, "MiniCPM 1 and 2"),
        "MixtralForCausalLM": Stranger(_EXPERTS, _MISTRAL),
        "MPTForCausalLM": Stranger(f"{_LAYER_NORM}, positions are slopes (ALiBi)"),
        "NanbeigeForCausalLM": Stranger(
            "layers run several times", "its earlier models, which are Llamas"
        ),
        "NemotronForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "NemotronHForCausalLM": Stranger(_RECURRENT),
        "OlmoForCausalLM": Stranger(_LAYER_NORM),
        "Olmo2ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}"),
        "Olmo3ForCausalLM": Stranger(f"{_HEAD_NORMS}, {_NORMS_BEHIND}"),
        "OpenELMForCausalLM": Stranger(f"{_HEAD_NORMS}, layers have different sizes"),
        "OPTForCausalLM": Stranger(f"{_LAYER_NORM}, positions are learned"),
        "OrionForCausalLM": Stranger(_LAYER_NORM),
        "PhiForCausalLM": Stranger(_LAYER_NORM, "Phi-3 and 4"),
        "Phi3SmallForCausalLM": Stranger(_LAYER_NORM, "Phi-3 mini and medium"),
        "PhiMoEForCausalLM": Stranger(_EXPERTS, "Phi-3 and 4"),
        "PhimoeForCausalLM": Stranger(_EXPERTS, "Phi-3 and 4"),
        "Qwen2MoeForCausalLM": Stranger(_EXPERTS, _QWEN2),
        "Qwen3ForCausalLM": Stranger(_HEAD_NORMS, _QWEN2),
        "Qwen3MoeForCausalLM": Stranger(f"{_EXPERTS}, {_HEAD_NORMS}", _QWEN2),
        "Qwen3NextForCausalLM": Stranger(f"{_EXPERTS}, {_RECURRENT}", _QWEN2),
        "RwkvForCausalLM": Stranger(_RECURRENT),
        "SolarForCausalLM": Stranger("layers get the input of others", "Solar 10.7B, a Llama"),
        "StableLmForCausalLM": Stranger(_LAYER_NORM),
        "Starcoder2ForCausalLM": Stranger(f"{_LAYER_NORM}, {_NO_GATE}"),
        "XverseMoeForCausalLM": Stranger(_EXPERTS, "XVERSE"),
        "ZambaForCausalLM": Stranger(_RECURRENT),
        "Zamba2ForCausalLM": Stranger(_RECURRENT),
    }
)
"""By the architecture that config.json names."""
