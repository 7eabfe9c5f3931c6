"""Filters of logits: each says which tokens may be chosen; then one of them is chosen.

A filter takes float32 logits and returns the indices that it keeps, in rising order, so that it can
be checked alone. ``penalties`` and ``dry`` weaken logits, and ``stages`` knows the order.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import EdgellamaError

Logits: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

SORTABLE = 1024
"""Up to so many candidates are simply sorted; more are narrowed down first."""
EDGE_BINS = 4096
EDGE_SPAN = 20.0
"""Bins of the histogram for top-p, and how far it reaches below the largest logit."""
LEAST_SPAN = 1e-30
"""Over a smaller one f32 could not be divided into bins."""


def greedy(logits: Logits) -> int:
    """The index of the largest logit, the first of equals."""
    token = int(logits.argmax())
    check_finite(logits[token])
    return token


def keep_top_k(logits: Logits, k: int) -> Indices:
    """Indices of the ``k`` largest logits, of equals those with the lower index."""
    size = len(logits)
    if k < size and size > SORTABLE:
        candidates = np.flatnonzero(logits >= _lower_bound_of_top(logits, k))
    else:
        candidates = np.arange(size)
    # Where the bound is poor, one partition brings the candidates down before the sort.
    if k < len(candidates) and len(candidates) > SORTABLE:
        values = logits[candidates]
        kth_largest = np.partition(values, len(values) - k)[len(values) - k]
        candidates = _exactly(values, candidates, kth_largest, k)
    order = np.argsort(-logits[candidates], kind="stable")
    return np.sort(candidates[order[:k]])


def keep_top_p(logits: Logits, top_p: float) -> Indices:
    """Indices of the fewest largest logits whose probabilities reach ``top_p`` together.

    Of equals, those with the lower index.
    """
    below_largest = logits.max() - logits
    weights = np.exp(-below_largest)
    wanted = top_p * float(weights.sum(dtype=np.float64))
    surely = np.empty(0, dtype=np.intp)
    candidates = np.arange(len(logits))
    if len(logits) > SORTABLE:
        surely, candidates, mass = _around_the_edge(below_largest, weights, wanted)
        wanted -= mass
    # By the logits themselves: differences from the largest are rounded, and may be equal.
    largest_first = candidates[np.argsort(-logits[candidates], kind="stable")]
    cumulated = np.cumsum(weights[largest_first], dtype=np.float64)
    count = int(np.searchsorted(cumulated, wanted)) + 1
    return np.sort(np.concatenate([surely, largest_first[:count]]))


def keep_min_p(logits: Logits, min_p: float) -> Indices:
    """Indices whose probability is at least ``min_p`` times the largest one."""
    if min_p == 0:
        return np.arange(len(logits))
    return np.flatnonzero(logits >= logits.max() + math.log(min_p))


def draw(logits: Logits, temperature: float, fraction: float) -> int:
    """The index on which a random ``fraction`` in [0, 1) of softmax(logits / temperature) falls."""
    # A tiny temperature leaves nothing but the largest.
    with np.errstate(over="ignore"):
        weights = np.exp((logits - logits.max()) / np.float32(temperature))
    cumulated = np.cumsum(weights, dtype=np.float64)
    total = float(cumulated[-1])
    # The product can round up to the total itself, where no index would be left.
    target = min(fraction * total, math.nextafter(total, 0))
    return int(np.searchsorted(cumulated, target, side="right"))


def _lower_bound_of_top(logits: Logits, k: int) -> float:
    """A value that at least ``k`` logits reach: the k-th largest maximum of equal groups.

    Maxima of groups need one quick pass, where a partition of all logits needs many.
    """
    num_groups = min(len(logits), max(SORTABLE, 4 * k))
    group_size = len(logits) // num_groups
    whole = logits[: num_groups * group_size].reshape(group_size, num_groups)
    maxima = whole.max(axis=0)
    return float(np.partition(maxima, num_groups - k)[num_groups - k])


def _around_the_edge(
    below_largest: Logits, weights: Logits, wanted: float
) -> tuple[Indices, Indices, float]:
    """Indices that surely belong to the largest of mass ``wanted``, those that may, the sure mass.

    A histogram of the logits stands in for a sort of all of them.
    """
    span = max(min(float(below_largest.max()), EDGE_SPAN), LEAST_SPAN)
    reached = np.minimum(below_largest, span) * (EDGE_BINS / span)
    bins = np.minimum(reached, EDGE_BINS - 1).astype(np.intp)
    cumulated = np.cumsum(np.bincount(bins, weights))
    edge = min(int(np.searchsorted(cumulated, wanted)), len(cumulated) - 1)
    mass = float(cumulated[edge - 1]) if edge else 0.0
    return np.flatnonzero(bins < edge), np.flatnonzero(bins == edge), mass


def _exactly(values: Logits, candidates: Indices, kth_largest: float, k: int) -> Indices:
    """The ``k`` candidates with the largest values, in rising order of index."""
    above = values > kth_largest
    equal = np.flatnonzero(values == kth_largest)[: k - int(np.count_nonzero(above))]
    above[equal] = True
    return candidates[above]


def check_finite(largest: np.float32) -> None:
    """EdgellamaError unless the largest logit is a number."""
    if not math.isfinite(largest):
        raise EdgellamaError(
            f"the model computed {largest} as its largest logit; its weights are damaged"
        )
