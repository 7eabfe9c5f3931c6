"""Filters that look at the shape of the whole distribution: spread, entropy, surprise.

They have the same interface as those in ``filters``, and compute numbers as llama.cpp does, so that
results agree. Random numbers for XTC and Mirostat come from elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellama.sampling.filters import SORTABLE, Indices, Logits, keep_top_k

MIROSTAT_SAMPLE = 100
"""Of so many likeliest tokens Mirostat 1 learns how fast probabilities fall."""
MASS_DOUBT = 1e-9
"""How far two orders of summing up probabilities may differ, and more."""
Floats = npt.NDArray[np.float64]


def keep_top_n_sigma(logits: Logits, num_sigmas: float) -> Indices:
    """Indices at most ``num_sigmas`` standard deviations below the largest logit.

    Source: https://arxiv.org/abs/2411.07641. Tokens that are masked do not count as spread.
    """
    spread = float(np.std(logits[logits > -np.inf], dtype=np.float64))
    return np.flatnonzero(logits >= np.float32(float(logits.max()) - num_sigmas * spread))


def keep_typical(logits: Logits, mass: float) -> Indices:
    """Indices of the fewest tokens above ``mass`` whose surprise is nearest to the entropy.

    Source: https://arxiv.org/abs/2202.00666.
    """
    surprises = _surprises(logits)
    chances = np.exp(-surprises)
    atypicality = np.abs(surprises - _entropy(surprises))
    candidates, num_tried = np.arange(len(logits)), SORTABLE
    while num_tried < len(logits):
        edge = np.partition(atypicality, num_tried)[num_tried]
        nearest = np.flatnonzero(atypicality <= edge)
        # The final sum adds up in another order, so this one must exceed the mass beyond rounding.
        if chances[nearest].sum() > mass + MASS_DOUBT:
            candidates = nearest
            break
        num_tried *= 8
    most_typical_first = candidates[np.argsort(atypicality[candidates], kind="stable")]
    cumulated = np.cumsum(chances[most_typical_first])
    count = int(np.searchsorted(cumulated, mass, side="right")) + 1
    return np.sort(most_typical_first[:count])


def without_top_choices(logits: Logits, threshold: float) -> Indices:
    """Indices of all but the tokens of probability ``threshold`` or more, and the least of those.

    Where fewer than two are so likely, all stay. Source: XTC,
    https://github.com/oobabooga/text-generation-webui/pull/6335.
    """
    surprises = _surprises(logits)
    # A masked token is none of them, not even where every probability is enough.
    likely = np.flatnonzero((np.exp(-surprises) >= threshold) & (surprises < np.inf))
    if len(likely) < 2:
        return np.arange(len(logits))
    # Of equals the later one counts as less likely, as in a stable sort.
    least = likely[len(likely) - 1 - int(np.argmin(logits[likely][::-1]))]
    return np.setdiff1d(np.arange(len(logits)), likely[likely != least], assume_unique=True)


def dynamic_temperature(logits: Logits, temperature: float, reach: float, exponent: float) -> float:
    """A temperature between ``temperature`` - ``reach`` (but not below 0) and + ``reach``.

    It rises with the entropy of the distribution, as a share of the largest possible one, to the
    power of ``exponent``. Source: https://arxiv.org/abs/2309.02772 and llama.cpp.
    """
    if len(logits) < 2:
        return temperature
    share = min(1.0, _entropy(_surprises(logits)) / math.log(len(logits)))
    lowest = max(0.0, temperature - reach)
    return float(lowest + (temperature + reach - lowest) * share**exponent)


def keep_surprising_up_to(logits: Logits, limit_bits: float) -> Indices:
    """Indices whose surprise is at most ``limit_bits``; the likeliest one in any case.

    This is how Mirostat 2 cuts.
    """
    kept = np.flatnonzero(_surprises(logits) <= limit_bits * math.log(2))
    return kept if len(kept) else np.array([logits.argmax()], dtype=np.intp)


def keep_by_zipf(logits: Logits, limit_bits: float) -> Indices:
    """Indices of the k likeliest tokens; k by Zipf's law gives a mean surprise of ``limit_bits``.

    This is how Mirostat 1 cuts: it guesses the law's exponent from the likeliest tokens.
    """
    surprises = np.sort(_surprises(logits[keep_top_k(logits, MIROSTAT_SAMPLE)]))
    surprises = surprises[np.isfinite(surprises)]
    if len(surprises) < 2:
        return keep_top_k(logits, len(surprises))
    ranks = np.arange(1, len(surprises), dtype=np.float64)
    steps, falls = np.log((ranks + 1) / ranks), np.diff(surprises)
    exponent = float((steps * falls).sum() / (steps**2).sum())
    return keep_top_k(logits, _zipf_count(exponent, limit_bits, len(logits)))


def surprise_bits(logits: Logits, index: int) -> float:
    """How surprising one of the candidates is, in bits."""
    return float(_surprises(logits)[index]) / math.log(2)


def _zipf_count(exponent: float, limit_bits: float, size: int) -> int:
    excess = exponent - 1
    if exponent <= 0:
        return size
    with np.errstate(all="ignore"):
        # 1 / log(size) is the limit of the quotient at an exponent of 1.
        scale = excess / -np.expm1(-excess * math.log(size)) if excess else 1 / math.log(size)
        count = np.power(scale * np.exp2(np.float64(limit_bits)), 1 / exponent)
    return size if not count < size else max(1, int(count))


def _surprises(logits: Logits) -> Floats:
    """Negative logarithms of the probabilities; infinite for what is masked."""
    below = (float(logits.max()) - logits).astype(np.float64)
    return below + math.log(float(np.exp(-below).sum()))


def _entropy(surprises: Floats) -> float:
    possible = surprises[np.isfinite(surprises)]
    return float((np.exp(-possible) * possible).sum())
