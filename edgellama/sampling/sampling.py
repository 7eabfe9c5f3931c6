"""Chooses the next token from logits: pure filters, composed once into a sampler.

Each filter takes logits and returns the indices that it keeps, in rising order, so it can be
checked alone. They run in the order penalties, top-k, top-p, min-p, temperature. A kernel that
comes to the same tokens faster may stand in for them. Where the logits come from and when a
text ends is left to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import EdgellamaError, InvalidOptionError

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels

Logits: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.intp]
Sampler: TypeAlias = Callable[[Logits, Sequence[int]], int]
"""From float32 logits [vocab_size] and the tokens so far to the next token."""

WHOLE_HISTORY = -1
SORTABLE = 1024
"""Up to so many candidates are simply sorted; more are narrowed down first."""
EDGE_BINS = 4096
EDGE_SPAN = 20.0
"""Bins of the histogram for top-p, and how far it reaches below the largest logit."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose among the likely tokens; InvalidOptionError for values outside the ranges.

    ``temperature`` 0 always takes the likeliest token. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and
    ``repeat_penalty`` 1 switch their filter off. The penalty looks at the last ``repeat_last_n``
    tokens (-1: all). The same ``seed`` gives the same choices for the same logits.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, kind, allowed, words in _ALLOWED:
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            # bool counts as a number in Python, but True is no temperature.
            if isinstance(value, bool) or not isinstance(value, kind) or not allowed(value):
                raise InvalidOptionError(f"{name} is {value!r}; allowed: {words}")


_ALLOWED: tuple[tuple[str, type, Callable[[Any], bool], str], ...] = (
    ("temperature", Real, lambda v: 0 <= v < math.inf, "a number from 0"),
    ("top_k", Integral, lambda v: v >= 0, "a whole number from 0 (0: all tokens)"),
    ("top_p", Real, lambda v: 0 < v <= 1, "a number above 0 up to 1"),
    ("min_p", Real, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ("repeat_penalty", Real, lambda v: 0 < v < math.inf, "a number above 0"),
    ("repeat_last_n", Integral, lambda v: v >= WHOLE_HISTORY, "a whole number from -1 (-1: all)"),
    ("seed", Integral, lambda v: v >= 0, "None or a whole number from 0"),
)


def make_sampler(options: SamplingOptions, kernels: CompiledKernels | None = None) -> Sampler:
    """A function from logits and history to a token; it holds its own random generator.

    Use one sampler for one text, whose history only grows. It raises EdgellamaError where the
    likeliest logit is not finite, which only a broken model produces. With ``kernels``, compiled
    code chooses the same tokens in a fraction of the time.
    """
    penalize = _penalty(options)
    if options.temperature == 0:
        return lambda logits, history: greedy(penalize(logits, history))
    filters = _filters(options)
    choose = _kernel_choice(options, kernels) if kernels else None
    generator = np.random.default_rng(options.seed)
    temperature = float(options.temperature)

    def sample(logits: Logits, history: Sequence[int]) -> int:
        kept = penalize(np.asarray(logits, np.float32), history)
        fraction = generator.random()
        token = choose(kept, fraction) if choose else None
        if token is not None:
            return token
        _check_finite(kept.max())
        tokens = np.arange(len(kept))
        for keep in filters:
            indices = keep(kept)
            kept, tokens = kept[indices], tokens[indices]
        return int(tokens[draw(kept, temperature, fraction)])

    return sample


def greedy(logits: Logits) -> int:
    """The index of the largest logit, the first of equals."""
    token = int(logits.argmax())
    _check_finite(logits[token])
    return token


def penalize_repeats(logits: Logits, recent: Collection[int], penalty: float) -> Logits:
    """A copy in which the logits of ``recent`` tokens are weakened, each once.

    Positive ones are divided by ``penalty``, negative ones multiplied, as in CTRL
    (https://arxiv.org/abs/1909.05858) with the sign rule that all runtimes use.
    """
    if not recent:
        return logits
    tokens = np.fromiter(recent, dtype=np.intp, count=len(recent))
    weakened = logits.copy()
    values = weakened[tokens]
    weakened[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return weakened


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
    largest_first = candidates[np.argsort(below_largest[candidates], kind="stable")]
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
    weights = np.exp((logits - logits.max()) / np.float32(temperature))
    cumulated = np.cumsum(weights, dtype=np.float64)
    total = float(cumulated[-1])
    # The product can round up to the total itself, where no index would be left.
    target = min(fraction * total, math.nextafter(total, 0))
    return int(np.searchsorted(cumulated, target, side="right"))


def _penalty(options: SamplingOptions) -> Callable[[Logits, Sequence[int]], Logits]:
    penalty, last_n = float(options.repeat_penalty), int(options.repeat_last_n)
    if penalty == 1 or last_n == 0:
        return lambda logits, history: logits
    if last_n == WHOLE_HISTORY:
        seen = SeenTokens()
        return lambda logits, history: penalize_repeats(logits, seen.of(history), penalty)
    return lambda logits, history: penalize_repeats(logits, history[-last_n:], penalty)


class SeenTokens:
    """The different tokens of one growing history, of which only what is new is looked at."""

    def __init__(self) -> None:
        self._tokens: dict[int, None] = {}
        self._num_seen = 0

    def of(self, history: Sequence[int]) -> Collection[int]:
        """Every token of ``history`` once; it begins as in the last call, or is a shorter one."""
        if len(history) < self._num_seen:
            self._tokens, self._num_seen = {}, 0
        self._tokens.update(dict.fromkeys(history[self._num_seen :]))
        self._num_seen = len(history)
        return self._tokens


def _kernel_choice(
    options: SamplingOptions, kernels: CompiledKernels
) -> Callable[[Logits, float], int | None]:
    """What ``make_sampler`` composes, as one kernel; None where it leaves it to the filters."""
    from edgellama.kernels_cpu.sampling.chooser import TokenChooser

    return TokenChooser(
        kernels,
        top_k=int(options.top_k),
        top_p=float(options.top_p),
        min_p_distance=math.log(options.min_p) if options.min_p > 0 else -math.inf,
        temperature=float(options.temperature),
    ).choose


def _filters(options: SamplingOptions) -> list[Callable[[Logits], Indices]]:
    filters: list[Callable[[Logits], Indices]] = []
    if options.top_k > 0:
        filters.append(lambda logits: keep_top_k(logits, int(options.top_k)))
    if options.top_p < 1:
        filters.append(lambda logits: keep_top_p(logits, float(options.top_p)))
    if options.min_p > 0:
        filters.append(lambda logits: keep_min_p(logits, float(options.min_p)))
    return filters


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
    span = min(float(below_largest.max()), EDGE_SPAN) or 1.0
    bins = np.minimum(below_largest * (EDGE_BINS / span), EDGE_BINS - 1).astype(np.intp)
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


def _check_finite(largest: np.float32) -> None:
    if not math.isfinite(largest):
        raise EdgellamaError(
            f"the model computed {largest} as its largest logit; its weights are damaged"
        )
