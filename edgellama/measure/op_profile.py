"""Where the time of a step goes: the seconds of each op beside its bytes and products.

It runs steps on an engine with a timer, and takes the median of each op over the runs that nothing
else disturbed. The figures of a group of ops are sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.program.program import Op
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.measure.op_work import Step, Work, op_work
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass

QUIET_SHARE = 0.1
"""How much longer than the fastest a run may take to count as quiet."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class OpTime:
    """One op of a step, or several summed: ``kernel`` and ``part`` say which, ``layer`` where.

    ``part`` is the part of a layer whose matrix the kernel reads. "" stands for none, or several.
    """

    kernel: str
    part: str
    layer: str
    count: int
    seconds: float
    work: Work

    @property
    def name(self) -> str:
        """The kernel and the part."""
        return f"{self.kernel} {self.part}".strip()

    @property
    def gb_per_second(self) -> float:
        """Bytes moved a second, in 10^9."""
        return self.work.num_bytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gmac_per_second(self) -> float:
        """Multiply-adds a second, in 10^9."""
        return self.work.num_macs / self.seconds / 1e9 if self.seconds else 0.0


def profile_step(
    engine: Engine,
    timer: StepTimer,
    cache: KVCache,
    *,
    num_tokens: int,
    repetitions: int,
    cancelled: CancelToken | None = None,
    progress: Progress | None = None,
) -> list[OpTime]:
    """Times of the ops of one step of ``num_tokens``, logits of the last included.

    ``cache`` holds the tokens before it, and as many afterwards; ``timer`` is the engine's.
    GenerationCancelled if ``cancelled`` is set meanwhile.
    """
    depth = cache.length
    tokens = np.random.default_rng(0).integers(0, engine.config.vocab_size, num_tokens)
    samples = []
    ops: Sequence[Op] = []
    for run in range(repetitions + 1):
        timer.take_jobs()
        engine.forward(tokens.astype(np.int32), cache, cancelled=cancelled)
        cache.truncate(depth)
        jobs = timer.take_jobs()
        ops = [op for job in jobs for op in job.ops]
        if run:  # The first one warms up.
            samples.append(np.concatenate([job.seconds for job in jobs]))
        if progress:
            progress(run, repetitions)
    step = Step.of(num_tokens, depth, cache)
    seconds = quiet_median(np.array(samples))
    return [
        OpTime(op.kernel.name, _part(op), layer, 1, float(time), op_work(op, step))
        for op, layer, time in zip(ops, _layers(ops), seconds, strict=True)
    ]


def quiet_median(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The median time of each op (num_ops,) over the runs (num_runs, num_ops) that were quiet.

    Those take little longer than the fastest. In others somebody else had a core for a while, and
    what the other threads did meanwhile counts for the wrong op.
    """
    totals = samples.sum(axis=1)
    quiet = samples[totals <= (1 + QUIET_SHARE) * totals.min()]
    medians: npt.NDArray[np.float64] = np.median(quiet, axis=0)
    return medians


def by_kind(times: Iterable[OpTime]) -> list[OpTime]:
    """Ops of the same kernel and the same part of a layer together, the slowest first."""
    groups = _summed(times, lambda time: (time.kernel, time.part, ""))
    return sorted(groups, key=lambda group: -group.seconds)


def by_kernel(times: Iterable[OpTime]) -> list[OpTime]:
    """Ops of the same kernel together, the slowest first."""
    groups = _summed(times, lambda time: (time.kernel, "", ""))
    return sorted(groups, key=lambda group: -group.seconds)


def by_layer(times: Iterable[OpTime]) -> list[OpTime]:
    """Ops of a layer together, in order; what is in no layer under its own name."""
    return _summed(
        times, lambda time: ("", "", time.layer) if time.layer else (time.kernel, time.part, "")
    )


def total(times: Sequence[OpTime], name: str) -> OpTime:
    """The times of the whole step."""
    works = sum((time.work for time in times), Work(0, 0))
    return OpTime(name, "", "", len(times), sum(time.seconds for time in times), works)


def _summed(
    times: Iterable[OpTime], group_of: Callable[[OpTime], tuple[str, str, str]]
) -> list[OpTime]:
    """Those of one group, the kernel, part and layer that they are shown as, together."""
    groups: dict[tuple[str, str, str], list[OpTime]] = {}
    for time in times:
        groups.setdefault(group_of(time), []).append(time)
    return [
        OpTime(
            *key,
            len(group),
            sum(time.seconds for time in group),
            sum((time.work for time in group), Work(0, 0)),
        )
        for key, group in groups.items()
    ]


def _part(op: Op) -> str:
    """The part of the layer whose matrix an op reads."""
    return op.label.removesuffix(".weight").rsplit(".", 1)[-1]


def _layers(ops: Sequence[Op]) -> list[str]:
    """The layer of each op: what has no name belongs to the next that has one, a bias before."""
    layers: list[str] = []
    following = ""
    for op in reversed(ops):
        if op.label:
            found = _LAYER.match(op.label)
            following = found[1] if found else ""
        layers.append(following)
    layers.reverse()
    for index, op in enumerate(ops):
        if op.kernel.family == "add_bias":
            layers[index] = layers[index - 1]
    return layers
