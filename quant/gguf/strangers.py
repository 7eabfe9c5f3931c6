"""Architectures of GGUF files that are no Llamas: what each computes differently.

``model_config`` decides which architectures run; this table makes a refusal more useful. The
converter uses the same words about checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXPERTS = "layers are mixtures of experts"
HEAD_NORMS = "queries and keys have norms of their own"
NORMS_BEHIND = "there are norms behind attention and feed-forward"
LAYER_NORM = "its norms take off the mean (LayerNorm)"
LATENT = "keys and values are made from a smaller vector (MLA)"
RECURRENT = "layers are recurrent"
CONVOLUTIONS = "layers are convolutions"
NO_GATE = "feed-forward has no gate"
GELU = "it has GELU"
GEMMA = "it has norms behind attention and feed-forward, and GELU"
LOOPS = "layers run several times"
DIFFUSION = "texts do not grow token by token (diffusion)"
SINKS = "attention has sinks"
SLOPES = "positions are slopes (ALiBi)"
PARALLEL = "attention and feed-forward are parallel"
BOTH_WAYS = "attention sees the tokens behind, too"
DRAFTER = "it guesses tokens for another model (EAGLE)"
DIFFERENT_HEADS = "layers have different numbers of heads, or no attention"
INNER_NORMS = "there are norms within attention and feed-forward"
LLAMA4 = "attention has norms and chunks, and most are mixtures of experts"
ENCODER = "it has an encoder"

_REASONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        EXPERTS: (
            *("qwen2moe", "dbrx", "grok", "arctic", "deepseek", "granitemoe", "ernie4_5-moe"),
            *("phimoe", "bailingmoe", "smallthinker", "qwen3moe", "qwen3vlmoe"),
        ),
        f"{EXPERTS}, {HEAD_NORMS}": (
            *("olmoe", "hunyuan-moe", "glm4moe", "bailingmoe2", "dots1", "minimax-m2"),
            *("exaone-moe", "llada-moe", "mellum"),
        ),
        f"{EXPERTS}, {LATENT}": ("deepseek2", "deepseek32", "glm-dsa", "mistral4"),
        f"{EXPERTS}, {SINKS}": ("gpt-oss", "mimo2"),
        HEAD_NORMS: ("hunyuan-dense", "hunyuan_vl", "maincoder", "chameleon"),
        f"{HEAD_NORMS}, {NORMS_BEHIND}": ("exaone4", "olmo2"),
        f"{HEAD_NORMS}, layers have different sizes": ("openelm",),
        f"{HEAD_NORMS}; {GEMMA}": ("gemma3", "gemma3n", "gemma4", "gemma-embedding"),
        GEMMA: ("gemma2",),
        GELU: ("gemma",),
        NORMS_BEHIND: ("glm4",),
        LAYER_NORM: ("stablelm", "orion", "olmo", "phi2"),
        f"{LAYER_NORM}, {PARALLEL}": ("command-r", "cohere2", "cohere2moe"),
        f"{LAYER_NORM}, {NO_GATE}": (
            *("falcon", "gptneox", "starcoder", "starcoder2", "nemotron", "codeshell", "jais2"),
        ),
        f"{LAYER_NORM}, positions are learned": ("gpt2",),
        f"{LAYER_NORM}, {SLOPES}": ("bloom", "mpt", "jais"),
        RECURRENT: (
            *("mamba", "mamba2", "jamba", "rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7", "falcon-h1"),
            *("granitehybrid", "nemotron_h", "nemotron_h_moe", "plamo2", "kimi-linear"),
            *("qwen35", "qwen35moe", "qwen3next"),
        ),
        CONVOLUTIONS: ("lfm2", "lfm2moe"),
        LATENT: ("minicpm3", "plm"),
        f"{HEAD_NORMS}, and {NO_GATE}": ("apertus",),
        NO_GATE: ("arcee",),
        LLAMA4: ("llama4",),
        DIFFERENT_HEADS: ("deci",),
        LOOPS: ("nanbeige", "hrm_text"),
        DIFFUSION: ("dream", "llada", "rnd1"),
        SLOPES: ("refact",),
        PARALLEL: ("plamo",),
        SINKS: ("granite_swa",),
        INNER_NORMS: ("bitnet",),
        DRAFTER: ("eagle3",),
        ENCODER: ("t5", "t5encoder"),
        BOTH_WAYS: (
            *("bert", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "eurobert"),
            *("jina-bert-v2", "jina-bert-v3", "llama-embed"),
        ),
        "it is the part of a model that sees or hears": ("clip",),
    }
)
_BY_NAME = {name: reason for reason, names in _REASONS.items() for name in names}


def reason_of(architecture: object) -> str:
    """What an architecture does that a Llama does not, behind a colon; empty for unknown ones."""
    reason = _BY_NAME.get(architecture) if isinstance(architecture, str) else None
    return "" if reason is None else f": {reason}"
