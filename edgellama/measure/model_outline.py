"""What a model's header tells about its size: shapes, formats and the length of its vocabulary.

An outline comes from a GGUF file, from a preset, or from the sizes in a configuration. No weights
are read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sized

from edgellama.measure.model_presets import ModelPreset
from edgellama.quant.file_type import type_of
from edgellama.quant.formats import Format
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.llama_tensors import (
    LONGROPE_TENSORS,
    OUTPUT,
    ROPE_FREQS,
    ROPE_TENSORS,
    Shape,
    tensor_shapes,
)
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class VocabularySize:
    """Counts of a vocabulary, and ``header_bytes``, what a file's header takes with it."""

    num_tokens: int
    num_merges: int
    header_bytes: int

    @property
    def is_byte_pair(self) -> bool:
        """Whether text is merged by a list rather than by SentencePiece."""
        return self.num_merges > 0


@dataclass(frozen=True)
class ModelOutline:
    """Shapes of all tensors by GGUF name; ``formats`` and ``type`` where they lie in a file."""

    name: str
    config: ModelConfig
    shapes: Mapping[str, Shape]
    vocabulary: VocabularySize
    formats: Mapping[str, Format] | None = None
    file_bytes: int = 0
    type: str | None = None

    @property
    def num_parameters(self) -> int:
        """Weights of the model; divisors of the rotation are none."""
        shapes = (shape for name, shape in self.shapes.items() if name not in ROPE_TENSORS)
        return sum(map(math.prod, shapes))

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return OUTPUT not in self.shapes

    @classmethod
    def from_gguf(cls, file: GGUFFile, name: str | None = None) -> ModelOutline:
        """The outline of a file, named by its path by default; raises as ``ModelConfig``."""
        tensor_bytes = sum(tensor.num_bytes for tensor in file.tensors.values())
        config = ModelConfig.from_gguf(file)
        return cls(
            name=str(file.path) if name is None else name,
            config=config,
            shapes={name: tensor.shape for name, tensor in file.tensors.items()},
            vocabulary=VocabularySize(
                _length(file, "tokenizer.ggml.tokens") or config.vocab_size,
                _length(file, "tokenizer.ggml.merges"),
                file.file_bytes - tensor_bytes,
            ),
            formats={name: tensor.format for name, tensor in file.tensors.items()},
            file_bytes=file.file_bytes,
            type=type_of(file),
        )

    @classmethod
    def from_preset(cls, preset: ModelPreset) -> ModelOutline:
        """The outline of a published model."""
        return cls.from_sizes(
            preset.name,
            preset.config,
            is_tied=preset.is_tied,
            has_rope_freqs=preset.has_rope_freqs,
            biased=preset.biased,
        )

    @classmethod
    def from_sizes(
        cls,
        name: str,
        config: ModelConfig,
        *,
        is_tied: bool,
        has_rope_freqs: bool = False,
        biased: Collection[str] = (),
    ) -> ModelOutline:
        """The outline of a model of these sizes; ``biased`` names parts such as ``attn_q``."""
        shapes = dict(tensor_shapes(config, is_tied=is_tied, biased=biased))
        if has_rope_freqs:
            shapes[ROPE_FREQS] = (config.rope.dimension_count // 2,)
        if config.rope.divisors is not None:
            shapes |= dict.fromkeys(LONGROPE_TENSORS, (config.rope.dimension_count // 2,))
        return cls(name, config, shapes, usual_vocabulary(config.vocab_size))


def usual_vocabulary(num_tokens: int) -> VocabularySize:
    """What to expect of a vocabulary of which only the size is known.

    Llama 1 and 2 have SentencePiece's of 32 thousand tokens; larger ones are byte pairs.
    """
    if num_tokens <= MAX_SENTENCEPIECE_TOKENS:
        return VocabularySize(num_tokens, 0, round(SENTENCEPIECE_TOKEN_BYTES * num_tokens))
    num_merges = KNOWN_MERGES.get(num_tokens, num_tokens)
    num_bytes = BYTE_PAIR_TOKEN_BYTES * num_tokens + MERGE_BYTES * num_merges
    return VocabularySize(num_tokens, num_merges, round(num_bytes))


MAX_SENTENCEPIECE_TOKENS = 40000
KNOWN_MERGES: Mapping[int, int] = {
    49152: 48900,
    128256: 280147,
    131072: 269443,
    151936: 151387,
    152064: 151387,
}
"""SmolLM2's; Llama 3's and Tekken's, where every way to split a token counts; Qwen's, padded."""
# Bytes in a GGUF header, from the files of SmolLM2, Llama 3.2 and a SentencePiece model of 32k.
SENTENCEPIECE_TOKEN_BYTES, BYTE_PAIR_TOKEN_BYTES, MERGE_BYTES = 22.4, 18.5, 19.2


def _length(file: GGUFFile, key: str) -> int:
    value = file.metadata.get(key)
    return len(value) if isinstance(value, Sized) else 0
