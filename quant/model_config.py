"""What a GGUF file says about the model: sizes and constants of a Llama.

Read from the metadata and checked against each other. The engine reads a file by these rules,
and the converter checks by them what it is about to write; tensors are ``llama_tensors``'.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.records import dataclass

ARCHITECTURES = ("llama",)
ROPE_SCALINGS = ("none", "linear", "dynamic", "yarn")
FILE_SCALINGS = ("none", "linear", "yarn")
"""What GGUF's own key may say; dynamic scaling has a key of ours, which others pass over."""
DYNAMIC_FACTOR_KEY = "edgellama.rope.dynamic_factor"
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0
EMBEDDING = "token_embd.weight"
MAX_SIZE = 1 << 24
"""No size of a real model comes near; a larger one is a damaged file."""


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: rotated elements per head, base and scaling (GGUF ``rope.*``).

    "dynamic" is NTK scaling by the text's length, beyond the original one. Of YaRN, ``beta_fast``
    and ``beta_slow`` are the rotations over the original context above which a pair is kept, and
    below which it is interpolated; ``extrapolation`` is how much of those above are kept.
    """

    dimension_count: int
    freq_base: float
    scaling: str = "none"
    factor: float = 1.0
    attention_factor: float = 1.0
    original_context_length: int = 0
    beta_fast: float = YARN_BETA_FAST
    beta_slow: float = YARN_BETA_SLOW
    extrapolation: float = 1.0

    def __post_init__(self) -> None:
        if self.scaling not in ROPE_SCALINGS:
            raise UnsupportedModelError(
                f"rope scaling {self.scaling!r}; supported: {', '.join(ROPE_SCALINGS)}"
            )
        if self.dimension_count < 2 or self.dimension_count % 2:
            raise UnsupportedModelError(
                f"rope dimension count {self.dimension_count}; it must be even and positive"
            )
        if not (self.freq_base > 0 and self.factor > 0):
            raise ModelFileError(
                f"rope base {self.freq_base} and factor {self.factor} must be positive"
            )
        if not self.attention_factor > 0:
            raise ModelFileError(
                f"rope attention factor {self.attention_factor}; it must be positive"
            )
        if self.scaling == "dynamic" and not (
            self.dimension_count > 2
            and 1 <= self.factor <= MAX_SIZE
            and 1 <= self.original_context_length <= MAX_SIZE
        ):
            raise ModelFileError(
                f"dynamic rope scaling of {self.dimension_count} elements by {self.factor} beyond "
                f"{self.original_context_length} tokens; needed: more than 2 elements, a factor "
                f"from 1, and a length from 1 to {MAX_SIZE}"
            )
        if self.scaling == "yarn" and not (
            self.freq_base > 1 and 1 <= self.original_context_length <= MAX_SIZE
        ):
            raise ModelFileError(
                f"YaRN with rope base {self.freq_base} and original context length "
                f"{self.original_context_length}; the base must be above 1, "
                f"the length from 1 to {MAX_SIZE}"
            )
        if not 0 < self.beta_slow <= self.beta_fast:
            raise ModelFileError(
                f"YaRN with beta {self.beta_fast} and {self.beta_slow}; "
                "both must be positive, the first no less than the second"
            )
        if not 0 <= self.extrapolation <= 1:
            raise ModelFileError(
                f"YaRN with extrapolation {self.extrapolation}; it must be from 0 to 1"
            )

    @property
    def dynamic_from(self) -> int | None:
        """Tokens beyond which positions are scaled by a text's length; None: they never are."""
        return self.original_context_length if self.scaling == "dynamic" else None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a Llama; counts are elements, heads, layers or tokens.

    ``vocab_size`` tokens, of which ``context_length`` were seen together in training;
    ``block_count`` layers of ``embedding_length`` numbers a token, ``feed_forward_length`` inside;
    ``head_count`` query heads and ``head_count_kv`` key heads of ``head_size`` numbers;
    ``rms_epsilon`` of the norms; ``rope``, the rotary positions. ``sliding_window``: a token sees
    itself and the ``sliding_window - 1`` tokens before it, as in Mistral 7B v0.1; None where it
    sees all.

    Example:
        >>> from edgellama import GGUFFile, ModelConfig, pull
        >>> with GGUFFile(pull("smollm2")) as file:
        ...     ModelConfig.from_gguf(file).block_count
        30
    """

    vocab_size: int
    context_length: int
    embedding_length: int
    block_count: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_size: int
    rms_epsilon: float
    rope: RopeConfig
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "head_count",
            "head_count_kv",
            "head_size",
        )
        for name in sizes:
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIZE:
                raise ModelFileError(f"{name} is {value}; it must be from 1 to {MAX_SIZE}")
        if self.head_count % self.head_count_kv:
            raise ModelFileError(
                f"{self.head_count} query heads cannot share {self.head_count_kv} key heads evenly"
            )
        if self.rope.dimension_count > self.head_size:
            raise ModelFileError(
                f"rope rotates {self.rope.dimension_count} of {self.head_size} elements of a head"
            )
        if self.sliding_window is not None and not 1 <= self.sliding_window <= MAX_SIZE:
            raise ModelFileError(
                f"the sliding window is {self.sliding_window}; it must be from 1 to {MAX_SIZE}"
            )
        if not 0 < self.rms_epsilon < 1:
            raise ModelFileError(
                f"the norm's epsilon is {self.rms_epsilon}; it must be between 0 and 1"
            )

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key head."""
        return self.head_count // self.head_count_kv

    @property
    def query_length(self) -> int:
        """Elements of all query heads of one token."""
        return self.head_count * self.head_size

    @property
    def key_length(self) -> int:
        """Elements of all key heads, or of all value heads, of one token."""
        return self.head_count_kv * self.head_size

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelConfig:
        """The configuration of a model file.

        Raises UnsupportedModelError for another architecture, ModelFileError for missing or
        impossible values; both name the file.
        """
        embedding = file.tensors.get(EMBEDDING)
        try:
            return cls.from_metadata(file.metadata, embedding.shape[0] if embedding else None)
        except (ModelFileError, UnsupportedModelError) as error:
            raise error.within(file.path) from None

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, object], embedding_rows: int | None = None
    ) -> ModelConfig:
        """The configuration that metadata gives; errors as for a file, without its name.

        ``embedding_rows`` is what logits are made of, so it is the size of the vocabulary
        whatever the metadata says.
        """
        return _read(metadata, embedding_rows)


class _Keys:
    """Typed access to metadata under ``llama.``, and to keys of our own by their whole names."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata

    def get(self, name: str) -> object:
        return self._metadata.get(_full(name))

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size:
            value = int(value[0]) if (value == value[0]).all() else value
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFileError(
                f"metadata {_full(name)} is {value!r:.80}; a whole number is needed"
            )
        return value

    def size(self, name: str, default: int | None = None) -> int:
        value = self.integer(name, default)
        if not 1 <= value <= MAX_SIZE:
            raise ModelFileError(
                f"metadata {_full(name)} is {value}; it must be from 1 to {MAX_SIZE}"
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
            raise ModelFileError(f"metadata {_full(name)} is {value!r:.80}; a number is needed")
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ModelFileError(f"metadata {_full(name)} is {value!r:.80}; text is needed")
        return value


def _full(name: str) -> str:
    return name if name.startswith("edgellama.") else f"llama.{name}"


def _read(metadata: Mapping[str, object], embedding_rows: int | None) -> ModelConfig:
    keys = _Keys(metadata)
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"architecture {architecture!r:.80} cannot run; supported: {', '.join(ARCHITECTURES)}"
        )
    if keys.integer("expert_count", 0):
        raise UnsupportedModelError("mixtures of experts cannot run; supported: dense Llama models")
    width, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    head_size = keys.size("attention.key_length", width // heads)
    if keys.integer("attention.value_length", head_size) != head_size:
        raise UnsupportedModelError("keys and values of different sizes cannot run")
    context_length = keys.integer("context_length")
    rope = _rope(keys, head_size, context_length)
    if rope.scaling == "dynamic":
        # The file tells programs that do not know the scaling how far they get without.
        context_length = int(context_length * rope.factor)
    return ModelConfig(
        vocab_size=keys.integer("vocab_size") if embedding_rows is None else embedding_rows,
        context_length=context_length,
        embedding_length=width,
        block_count=keys.integer("block_count"),
        feed_forward_length=keys.integer("feed_forward_length"),
        head_count=heads,
        head_count_kv=keys.integer("attention.head_count_kv", heads),
        head_size=head_size,
        rms_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        rope=rope,
        # Writers without a window leave the key out, or say 0.
        sliding_window=keys.integer("attention.sliding_window", 0) or None,
    )


def _rope(keys: _Keys, head_size: int, context_length: int) -> RopeConfig:
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    # A factor alone is linear scaling.
    scaling = keys.text("rope.scaling.type", "linear" if factor != 1.0 else "none")
    if scaling not in FILE_SCALINGS:
        raise UnsupportedModelError(
            f"rope scaling {scaling!r:.80} cannot run; supported: {', '.join(FILE_SCALINGS)}"
        )
    dynamic_factor = keys.number(DYNAMIC_FACTOR_KEY, 1.0)
    if scaling == "none" and dynamic_factor != 1.0:
        scaling, factor = "dynamic", dynamic_factor
    return RopeConfig(
        dimension_count=keys.integer("rope.dimension_count", head_size),
        freq_base=keys.number("rope.freq_base", 10000.0),
        scaling=scaling,
        factor=factor,
        attention_factor=keys.number("rope.scaling.attn_factor", 1.0)
        * keys.number("rope.scaling.yarn_attn_factor", 1.0),
        original_context_length=keys.integer(
            "rope.scaling.original_context_length", context_length
        ),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", YARN_BETA_FAST),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", YARN_BETA_SLOW),
        extrapolation=_extrapolation(keys),
    )


def _extrapolation(keys: _Keys) -> float:
    """YaRN's; a negative number says that the file leaves it to the reader."""
    given = keys.number("rope.scaling.yarn_ext_factor", 1.0)
    return 1.0 if given < 0 else given
