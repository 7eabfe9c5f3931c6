"""The sizes of the Llama family by name, so that questions about a model need no file of it.

They are those of the published checkpoints. ``footprint`` predicts the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass
from edgellama.quant.rope_config import RopeConfig


@dataclass(frozen=True)
class ModelPreset:
    """One published size: the configuration as a file of the model would give it.

    ``biased``: which parts have biases, such as ``attn_q``.
    """

    name: str
    config: ModelConfig
    is_tied: bool = False
    has_rope_freqs: bool = False
    biased: tuple[str, ...] = ()


_SIZES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        # width, layers, query heads, key heads, feed-forward; a head's size where it is no quotient
        "7b": (4096, 32, 32, 32, 11008),
        "13b": (5120, 40, 40, 40, 13824),
        "33b": (6656, 60, 52, 52, 17920),
        "65b": (8192, 80, 64, 64, 22016),
        "34b": (8192, 48, 64, 8, 22016),
        "70b": (8192, 80, 64, 8, 28672),
        # Mistral's 7B has Llama 3 8B's.
        "8b": (4096, 32, 32, 8, 14336),
        "405b": (16384, 126, 128, 8, 53248),
        "3.2-1b": (2048, 16, 32, 8, 8192),
        "3.2-3b": (3072, 28, 24, 8, 8192),
        "1.1b": (2048, 22, 32, 4, 5632),
        "135m": (576, 30, 9, 3, 1536),
        "360m": (960, 32, 15, 5, 2560),
        "1.7b": (2048, 24, 32, 32, 8192),
        "nemo": (5120, 40, 32, 8, 14336, 128),
        "22b": (6144, 56, 48, 8, 16384),
        "24b": (5120, 40, 32, 8, 32768, 128),
        "123b": (12288, 88, 96, 8, 28672),
        "qwen-0.5b": (896, 24, 14, 2, 4864),
        "qwen-1.5b": (1536, 28, 12, 2, 8960),
        "qwen-3b": (2048, 36, 16, 2, 11008),
        "qwen-7b": (3584, 28, 28, 4, 18944),
        "qwen-14b": (5120, 48, 40, 8, 13824),
        "qwen-32b": (5120, 64, 40, 8, 27648),
        "qwen-72b": (8192, 80, 64, 8, 29568),
        "qwen3-0.6b": (1024, 28, 16, 8, 3072, 128),
        "qwen3-1.7b": (2048, 28, 16, 8, 6144),
        "qwen3-4b": (2560, 36, 32, 8, 9728, 128),
        "qwen3-8b": (4096, 36, 32, 8, 12288),
        "qwen3-14b": (5120, 40, 40, 8, 17408),
        "qwen3-32b": (5120, 64, 64, 8, 25600, 128),
        "smol-3b": (2048, 36, 16, 4, 11008),
    }
)


def _preset(
    name: str,
    size: str,
    vocab_size: int,
    context_length: int,
    rope_base: float,
    *,
    sliding_window: int | None = None,
    is_tied: bool = False,
    has_rope_freqs: bool = False,
) -> ModelPreset:
    width, num_layers, num_heads, num_key_heads, hidden, *head_sizes = _SIZES[size]
    head_size = head_sizes[0] if head_sizes else width // num_heads
    config = ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        embedding_length=width,
        block_count=num_layers,
        feed_forward_length=hidden,
        head_count=num_heads,
        head_count_kv=num_key_heads,
        head_size=head_size,
        rms_epsilon=1e-5,
        rope=RopeConfig(head_size, rope_base),
        sliding_window=sliding_window,
    )
    return ModelPreset(name, config, is_tied, has_rope_freqs)


def _llama_1(size: str) -> ModelPreset:
    return _preset(f"llama-1-{size}", size, 32000, 2048, 1e4)


def _llama_2(size: str) -> ModelPreset:
    return _preset(f"llama-2-{size}", size, 32000, 4096, 1e4)


def _code_llama(size: str, vocab_size: int) -> ModelPreset:
    return _preset(f"code-llama-{size}", size, vocab_size, 16384, 1e6)


def _llama_3(size: str) -> ModelPreset:
    return _preset(f"llama-3-{size}", size, 128256, 8192, 5e5)


def _llama_3_1(version: str, size: str) -> ModelPreset:
    return _preset(f"llama-{version}-{size}", size, 128256, 131072, 5e5, has_rope_freqs=True)


def _llama_3_2(size: str) -> ModelPreset:
    sizes = (f"3.2-{size}", 128256, 131072, 5e5)
    return _preset(f"llama-3.2-{size}", *sizes, is_tied=True, has_rope_freqs=True)


def _deepseek_r1(size: str) -> ModelPreset:
    return replace(_llama_3_1("3.1", size), name=f"deepseek-r1-distill-llama-{size}")


def _mistral(
    version: str, vocab_size: int, rope_base: float, sliding_window: int | None = None
) -> ModelPreset:
    sizes = ("8b", vocab_size, 32768, rope_base)
    return _preset(f"mistral-7b-{version}", *sizes, sliding_window=sliding_window)


def _smollm2(size: str, rope_base: float) -> ModelPreset:
    return _preset(f"smollm2-{size}", size, 49152, 8192, rope_base, is_tied=True)


def _qwen_2_5(size: str, vocab_size: int) -> ModelPreset:
    sizes = (f"qwen-{size}", vocab_size, 32768, 1e6)
    # From 7B on, with padded vocabularies, the output is a matrix of its own.
    preset = _preset(f"qwen2.5-{size}", *sizes, is_tied=vocab_size == 151936)
    return replace(preset, biased=("attn_q", "attn_k", "attn_v"))


def _qwen_3(size: str, *, is_tied: bool = False) -> ModelPreset:
    preset = _preset(f"qwen3-{size}", f"qwen3-{size}", 151936, 40960, 1e6, is_tied=is_tied)
    config = replace(preset.config, is_half_split=True, has_head_norms=True)
    return replace(preset, config=config)


_TABLE = (
    *(_llama_1(size) for size in ("7b", "13b", "33b", "65b")),
    *(_llama_2(size) for size in ("7b", "13b", "70b")),
    # Without the four infill tokens, the vocabulary of the 34B is Llama 2's.
    *(_code_llama(size, 32016) for size in ("7b", "13b")),
    *(_code_llama("34b", 32000), _code_llama("70b", 32016)),
    *(_llama_3(size) for size in ("8b", "70b")),
    *(_llama_3_1("3.1", size) for size in ("8b", "70b", "405b")),
    *(_llama_3_2(size) for size in ("1b", "3b")),
    _llama_3_1("3.3", "70b"),
    *(_deepseek_r1(size) for size in ("8b", "70b")),
    *(_mistral("v0.1", 32000, 1e4, 4096), _mistral("v0.2", 32000, 1e6)),
    _mistral("v0.3", 32768, 1e6),
    _preset("mistral-nemo-12b", "nemo", 131072, 131072, 1e6),
    _preset("mistral-small-22b", "22b", 32768, 32768, 1e6),
    _preset("mistral-small-24b", "24b", 131072, 32768, 1e8),
    _preset("mistral-large-123b", "123b", 32768, 131072, 1e6),
    _preset("tinyllama-1.1b", "1.1b", 32000, 2048, 1e4),
    *(_smollm2("135m", 1e5), _smollm2("360m", 1e5), _smollm2("1.7b", 1.3e5)),
    _preset("smollm3-3b", "smol-3b", 128256, 65536, 5e6, is_tied=True),
    *(_qwen_2_5(size, 151936) for size in ("0.5b", "1.5b", "3b")),
    *(_qwen_2_5(size, 152064) for size in ("7b", "14b", "32b", "72b")),
    *(_qwen_3(size, is_tied=True) for size in ("0.6b", "1.7b", "4b")),
    *(_qwen_3(size) for size in ("8b", "14b", "32b")),
)
MODEL_PRESETS: Mapping[str, ModelPreset] = MappingProxyType({p.name: p for p in _TABLE})
"""By name, such as ``llama-2-7b``."""


def find_preset(name: str) -> ModelPreset | None:
    """The preset that a user means, whatever the case and punctuation; None if there is none."""
    return _BY_LETTERS.get(_letters(name))


def _letters(name: str) -> str:
    """The name's letters and digits alone: ``Llama 2 7B`` and ``llama2-7b`` are the same."""
    return "".join(character for character in name.lower() if character.isalnum())


_BY_LETTERS: Mapping[str, ModelPreset] = MappingProxyType(
    {_letters(name): preset for name, preset in MODEL_PRESETS.items()}
    | {"tinyllama": MODEL_PRESETS["tinyllama-1.1b"]}
    | {"mistral7b": MODEL_PRESETS["mistral-7b-v0.3"]}
    | {"mistralnemo": MODEL_PRESETS["mistral-nemo-12b"]}
)
