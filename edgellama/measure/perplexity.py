"""How well a model predicts a text, and how far another model's predictions are from its own.

Scoring is that of llama.cpp's perplexity tool, so that figures can be compared: each chunk of a
text is computed on its own, and its second half is scored. ``text_chunks`` cuts the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt

from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.quant.array_types import FloatRows
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass

MIN_CHUNK_TOKENS = 8
MOST_NATS = 700.0
"""Losses from here on have no perplexity that is a number."""
Chunks = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-probability, with the standard error of that mean's exp."""

    value: float
    uncertainty: float
    num_tokens: int
    num_chunks: int


@dataclass(frozen=True)
class Divergence:
    """Of a base model's distributions from another's: means over the scored positions.

    ``kl`` is KL(base || other) in nats, ``top_agreement`` the share of positions at which both
    find the same token likeliest.
    """

    kl: float
    top_agreement: float


class _Moments:
    """Count, mean and squared deviations of what was added, chunk by chunk."""

    def __init__(self) -> None:
        self._values: list[npt.NDArray[np.float64]] = []

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self._values.append(values)

    def mean(self) -> float:
        return float(np.concatenate(self._values).mean())

    def standard_error(self) -> float:
        values = np.concatenate(self._values)
        return float(values.std(ddof=1) / math.sqrt(len(values)))


def measure_perplexity(
    engine: Engine,
    chunks: Chunks,
    *,
    adapters: AdapterSet = NO_ADAPTERS,
    cancelled: CancelToken | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Perplexity over ``chunks`` (n, tokens); ``progress`` hears of (chunks done, chunks).

    ``adapters``: what the chunks are computed with. Raises InvalidOptionError for chunks too short
    to score.
    """
    losses = _Moments()
    for chunk, logits in _scored_logits(engine, chunks, adapters, cancelled, progress):
        losses.add(_losses(log_softmax(logits), chunk))
    return _perplexity(losses, chunks)


def compare_models(
    engine: Engine,
    base: Engine,
    chunks: Chunks,
    *,
    adapters: AdapterSet = NO_ADAPTERS,
    cancelled: CancelToken | None = None,
    progress: Progress | None = None,
) -> tuple[Perplexity, Perplexity, Divergence]:
    """Perplexities of ``engine`` and ``base``, and how far the first is from the second.

    ``adapters``: what the first computes with.
    Raises InvalidOptionError when the vocabularies have different sizes.
    """
    sizes = engine.config.vocab_size, base.config.vocab_size
    if sizes[0] != sizes[1]:
        raise InvalidOptionError(
            f"the models have {sizes[0]} and {sizes[1]} tokens; their distributions do not compare"
        )
    own_losses, base_losses, divergences, agreements = (_Moments() for _ in range(4))
    pairs = zip(
        _scored_logits(engine, chunks, adapters, cancelled, progress),
        _scored_logits(base, chunks, NO_ADAPTERS, cancelled, None),
        strict=True,
    )
    for (chunk, own_logits), (_, base_logits) in pairs:
        own, other = log_softmax(own_logits), log_softmax(base_logits)
        own_losses.add(_losses(own, chunk))
        base_losses.add(_losses(other, chunk))
        difference = (np.exp(other) * (other - own)).sum(axis=1, dtype=np.float64)
        divergences.add(difference)
        agreements.add((own.argmax(axis=1) == other.argmax(axis=1)).astype(np.float64))
    return (
        _perplexity(own_losses, chunks),
        _perplexity(base_losses, chunks),
        Divergence(divergences.mean(), agreements.mean()),
    )


def _scored_logits(
    engine: Engine,
    chunks: Chunks,
    adapters: AdapterSet,
    cancelled: CancelToken | None,
    progress: Progress | None,
) -> Iterator[tuple[Chunks, FloatRows]]:
    """Each chunk with the logits of its second half, the last position excepted."""
    if chunks.shape[1] < MIN_CHUNK_TOKENS:
        raise InvalidOptionError(
            f"chunks of {chunks.shape[1]} tokens; allowed: at least {MIN_CHUNK_TOKENS}"
        )
    with closing(engine.new_cache(len(chunks[0]), adapters=adapters)) as cache:
        for number, chunk in enumerate(chunks, 1):
            half = len(chunk) // 2
            cache.truncate(0)
            engine.forward(chunk[:half], cache, logits="none", cancelled=cancelled)
            yield chunk, engine.forward(chunk[half:-1], cache, logits="all", cancelled=cancelled)
            if progress:
                progress(number, len(chunks))


def log_softmax(logits: FloatRows) -> FloatRows:
    """Logarithms of the probabilities, row by row."""
    shifted: FloatRows = logits - logits.max(axis=1, keepdims=True)
    totals = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    shifted -= np.log(totals).astype(np.float32)
    return shifted


def _losses(scores: FloatRows, chunk: Chunks) -> npt.NDArray[np.float64]:
    targets = chunk[len(chunk) - len(scores) :]
    losses: npt.NDArray[np.float64] = -scores[np.arange(len(scores)), targets].astype(np.float64)
    return losses


def _perplexity(losses: _Moments, chunks: Chunks) -> Perplexity:
    mean = losses.mean()
    if not mean < MOST_NATS:
        raise EdgellamaError(
            f"the model gives the text's tokens {-mean:g} nats each on average; its weights are "
            "damaged"
        )
    value = math.exp(mean)
    scored = len(chunks[0]) - 1 - len(chunks[0]) // 2
    return Perplexity(
        value=value,
        uncertainty=value * losses.standard_error(),
        num_tokens=scored * len(chunks),
        num_chunks=len(chunks),
    )
