"""The Llama family's sizes by name, so that questions about a model need no file of it.

Sizes are those of the published checkpoints. What a size means for memory is left to
``footprint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.quant.model_config import ModelConfig, RopeConfig


@dataclass(frozen=True)
class ModelPreset:
    """One published size; counts are elements, heads, layers or tokens."""

    name: str
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    feed_forward_length: int
    vocab_size: int
    context_length: int
    rope_base: float
    sliding_window: int | None = None
    is_tied: bool = False
    has_rope_freqs: bool = False

    @property
    def config(self) -> ModelConfig:
        """The sizes as a file of the model would give them."""
        head_size = self.embedding_length // self.head_count
        return ModelConfig(
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            embedding_length=self.embedding_length,
            block_count=self.block_count,
            feed_forward_length=self.feed_forward_length,
            head_count=self.head_count,
            head_count_kv=self.head_count_kv,
            head_size=head_size,
            rms_epsilon=1e-5,
            rope=RopeConfig(head_size, self.rope_base),
            sliding_window=self.sliding_window,
        )


_SIZES = {
    # width, layers, query heads, key heads, feed-forward
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
}


def _llama_1(size: str) -> ModelPreset:
    return ModelPreset(f"llama-1-{size}", *_SIZES[size], 32000, 2048, 1e4)


def _llama_2(size: str) -> ModelPreset:
    return ModelPreset(f"llama-2-{size}", *_SIZES[size], 32000, 4096, 1e4)


def _code_llama(size: str, vocab_size: int) -> ModelPreset:
    return ModelPreset(f"code-llama-{size}", *_SIZES[size], vocab_size, 16384, 1e6)


def _llama_3(size: str) -> ModelPreset:
    return ModelPreset(f"llama-3-{size}", *_SIZES[size], 128256, 8192, 5e5)


def _llama_3_1(version: str, size: str) -> ModelPreset:
    return ModelPreset(
        f"llama-{version}-{size}", *_SIZES[size], 128256, 131072, 5e5, has_rope_freqs=True
    )


def _llama_3_2(size: str) -> ModelPreset:
    return ModelPreset(
        *(f"llama-3.2-{size}", *_SIZES[f"3.2-{size}"], 128256, 131072, 5e5),
        is_tied=True,
        has_rope_freqs=True,
    )


def _mistral(
    version: str, vocab_size: int, rope_base: float, sliding_window: int | None = None
) -> ModelPreset:
    sizes = (*_SIZES["8b"], vocab_size, 32768, rope_base, sliding_window)
    return ModelPreset(f"mistral-7b-{version}", *sizes)


def _smollm2(size: str, rope_base: float) -> ModelPreset:
    return ModelPreset(f"smollm2-{size}", *_SIZES[size], 49152, 8192, rope_base, is_tied=True)


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
    *(_mistral("v0.1", 32000, 1e4, 4096), _mistral("v0.2", 32000, 1e6)),
    _mistral("v0.3", 32768, 1e6),
    ModelPreset("tinyllama-1.1b", *_SIZES["1.1b"], 32000, 2048, 1e4),
    *(_smollm2("135m", 1e5), _smollm2("360m", 1e5), _smollm2("1.7b", 1.3e5)),
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
)
