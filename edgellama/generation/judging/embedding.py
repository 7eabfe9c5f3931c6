"""Turns texts into vectors: hidden states after the last norm, pooled to one vector.

It reads what a file says about pooling. ``in_order`` decides how many texts run together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.work import Work
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.arguments import prompt_tokens
from edgellama.generation.concurrency.in_order import Begun, BegunTexts, InOrder
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.quant.array_types import FloatRows
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.error_text import shown
from edgellama.quant.errors import (
    ContextLengthError,
    InvalidOptionError,
    ModelFileError,
    UnsupportedModelError,
)
from edgellama.quant.given_values import is_true
from edgellama.quant.pooling import POOLING_KEY, POOLING_TYPES
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way
from edgellama.sampling.options import check_option_names
from edgellama.text.tokenizer import Tokenizer

Pooling: TypeAlias = Literal["mean", "last", "first"]
SMALLEST_LENGTH = 1e-12
"""Vectors that are shorter stay as they are."""


@dataclass(frozen=True)
class Embedding:
    """A text as a vector.

    ``vector`` is float32 (width,). ``num_tokens`` were computed, ``num_dropped`` more were cut off
    its end.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=64) as llama:
        ...     found = list(llama.embed_each(["A cat.", "A dog sleeps."]))
        >>> [(each.vector.shape, each.num_tokens) for each in found]
        [((576,), 3), ((576,), 5)]
    """

    vector: FloatRows
    num_tokens: int
    num_dropped: int = 0


class EmbedOptions(TypedDict, total=False):
    """How texts become vectors, as keyword arguments of ``embed`` and similar calls.

    Arguments:
        pooling: Make the vector from the "mean" of all tokens' states, or from those of the "last"
            or the "first" token. None (the default) does what the file says, else "mean".
        normalize: Scale vectors to length 1, so that a dot product is the cosine. True by default.
        truncate: Drop the end of texts that are longer than the context. False (the default)
            refuses them.
        parse_special: Read control tokens such as "<|im_end|>" in texts. False (the default)
            keeps them as text.
        adapters: Loaded adapters, or their names, with scales, such as ``{"french": 0.5}``. None
            (the default) is none.

    Example:
        >>> from edgellama import EmbedOptions, Llama
        >>> options: EmbedOptions = {"pooling": "last", "normalize": False}
        >>> with Llama("smollm2", context_length=64) as llama:
        ...     llama.embed("A cat.", **options).shape
        (1, 576)
    """

    pooling: Pooling | None
    normalize: bool
    truncate: bool
    parse_special: bool
    adapters: AdapterScales | None


@dataclass(frozen=True)
class HowToEmbed:
    """EmbedOptions, checked; adapters are the engine's to find."""

    pooling: Pooling = "mean"
    normalize: bool = True
    truncate: bool = False
    parse_special: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            allowed = ", ".join(get_args(Pooling))
            raise InvalidOptionError(f"pooling is {self.pooling!r}; allowed: {allowed}, or None")
        for name in ("normalize", "truncate", "parse_special"):
            is_true(name, getattr(self, name))

    @classmethod
    def of(cls, options: Mapping[str, Any], metadata: Mapping[str, Any]) -> HowToEmbed:
        """What was given, and what the file recommends instead of what was not."""
        check_option_names(options, tuple(EmbedOptions.__annotations__))
        given = {name: value for name, value in options.items() if name != "adapters"}
        if given.get("pooling") is None:
            given["pooling"] = recommended_pooling(metadata)
        return cls(**given)


def recommended_pooling(metadata: Mapping[str, Any]) -> Pooling:
    """What a file says of pooling; the mean where it says nothing.

    UnsupportedModelError for models that score texts instead, ModelFileError for what is none.
    """
    key = f"{ConfigKeys(metadata).architecture}.{POOLING_KEY}"
    value = metadata.get(key, 0)
    name = POOLING_TYPES.get(value) if isinstance(value, int) else None
    if name is None:
        allowed = ", ".join(f"{number} ({name})" for number, name in POOLING_TYPES.items())
        raise ModelFileError(f"metadata {key} is {value!r:.80}; allowed: {allowed}")
    if name == "rank":
        raise UnsupportedModelError(
            "the model ranks texts by a head of its own, which cannot run; give pooling to embed "
            "with its hidden states"
        )
    pooling: Pooling = "mean" if name == "none" else name
    return pooling


def as_texts(texts: str | Iterable[str | Sequence[int]]) -> Sequence[str | Sequence[int]]:
    """One text or several as several; InvalidOptionError for what is neither."""
    if isinstance(texts, str):
        return (texts,)
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise InvalidOptionError(f"texts is {texts!r:.80}; allowed: a text, or several")
    return tuple(texts)


def as_rows(embeddings: Iterable[Embedding], width: int) -> FloatRows:
    """Their vectors, (texts, width)."""
    rows = [embedding.vector for embedding in embeddings]
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


@dataclass(frozen=True)
class Embedder:
    """Makes vectors with one model; ``context_length`` is how long a text may be.

    ``line``: where texts wait for their turn.
    """

    engine: TextEngine
    tokenizer: Tokenizer
    context_length: int
    options: HowToEmbed
    adapters: AdapterSet
    line: WaitingLine

    def each(self, texts: Iterable[str | Sequence[int]]) -> InOrder[Embedding]:
        """An embedding for each text, in their order; read as far as there is room.

        Raises ContextLengthError and InvalidOptionError with a text's number, from 0.
        """
        if isinstance(texts, (str, bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
            raise InvalidOptionError(f"texts is {shown(texts)}; allowed: an iterable of texts")
        return InOrder(self.engine, self.line, partial(self._begun, texts))

    def _begun(
        self, texts: Iterable[str | Sequence[int]], cancel: CancelToken
    ) -> BegunTexts[Embedding]:
        # The norm is asked for once, because each time waits for a step of others.
        norm = self.engine.output_norm
        for index, text in enumerate(texts):
            tokens, num_dropped = self._fitting(index, self._tokens(index, text))
            cache = self.engine.new_cache(len(tokens), adapters=self.adapters, is_passing=True)
            work = self.engine.work(
                tokens, cache, logits="rows", cancelled=cancel, kept=partial(self._kept, norm)
            )
            yield Begun(work, cache, partial(self._result, norm, work, len(tokens), num_dropped))

    def _tokens(self, index: int, text: str | Sequence[int]) -> list[int]:
        """The tokens of a text as the model wants them, with BOS and EOS; of ids these alone."""
        if isinstance(text, str):
            tokens = self.tokenizer.encode(text, parse_special=self.options.parse_special)
        else:
            try:
                tokens = prompt_tokens(self.tokenizer, text, parse_special=False)
            except InvalidOptionError as error:
                raise error.within(f"text {index}") from None
        if not tokens or text == "":
            raise InvalidOptionError(f"text {index} is empty; allowed: at least one token")
        return tokens

    def _fitting(self, index: int, tokens: list[int]) -> tuple[list[int], int]:
        """The tokens that fit, and how many do not; an EOS at the end stays there."""
        length, most = len(tokens), self.context_length
        if length <= most:
            return tokens, 0
        if not self.options.truncate:
            raise ContextLengthError(
                f"text {index} has {length} tokens, the context {most}",
                length,
                most,
                way=Way(
                    "cut it into parts, raise context_length, or let truncate=True drop its end",
                    "cut it into parts, raise --context, or let --truncate drop its end",
                ),
            )
        has_end = tokens[-1] == self.tokenizer.special.eos_id and most > 1
        kept = [*tokens[: most - 1], tokens[-1]] if has_end else tokens[:most]
        return kept, length - most

    def _kept(self, norm: FloatRows, rows: FloatRows) -> FloatRows:
        """What pooling needs of the residual rows of some neighbours among a text's tokens."""
        if self.options.pooling == "first":
            return rows[:1]
        if self.options.pooling == "last":
            return rows[-1:]
        total: FloatRows = self._normed(norm, rows).sum(axis=0, keepdims=True)
        return total

    def _normed(self, norm: FloatRows, rows: FloatRows) -> FloatRows:
        """The model's last norm."""
        squares = np.mean(np.square(rows), axis=1, keepdims=True, dtype=np.float64)
        scale = 1.0 / np.sqrt(squares + self.engine.config.rms_epsilon)
        normed: FloatRows = (rows * scale * norm).astype(np.float32)
        return normed

    def _result(self, norm: FloatRows, work: Work, num_tokens: int, num_dropped: int) -> Embedding:
        """The embedding of a text that is over; raises what went wrong with it."""
        parts = work.result(self.engine.config.embedding_length)
        if self.options.pooling == "mean":
            vector = parts.sum(axis=0) / num_tokens
        else:
            row = parts[:1] if self.options.pooling == "first" else parts[-1:]
            vector = self._normed(norm, row)[0]
        length = float(np.linalg.norm(vector))
        if self.options.normalize and length > SMALLEST_LENGTH:
            vector = vector / length
        return Embedding(vector.astype(np.float32, copy=False), num_tokens, num_dropped)
