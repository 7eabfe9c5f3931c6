"""Orders a step's segments by their adapters, so that ops run over ranges of rows.

Segments with equal adapters stand together. This module provides the values that their ops need;
``adapter_ops`` uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgellama.engine.program.adapter_ops import AdaptedGroup, num_rows, row_address
from edgellama.engine.program.step_values import Batch
from edgellama.engine.steps.segments import Segment
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class RowRange:
    """``count`` rows of a step, from ``first`` on, that are computed with the same adapters."""

    adapters: AdapterSet
    first: int
    count: int


def adapted_order(segments: Sequence[Segment]) -> list[int] | None:
    """Numbers of segments with equal adapters side by side; None if there are no adapters."""
    if not any(segment.cache.adapters for segment in segments):
        return None
    return sorted(range(len(segments)), key=lambda i: segments[i].cache.adapters.origin)


def adapted_ranges(segments: Sequence[Segment]) -> list[RowRange]:
    """The ranges of rows of ordered segments that have adapters."""
    ranges: list[RowRange] = []
    row = 0
    for segment in segments:
        adapters, count = segment.cache.adapters, segment.num_tokens
        if ranges and ranges[-1].adapters is adapters:
            ranges[-1] = RowRange(adapters, ranges[-1].first, ranges[-1].count + count)
        elif adapters:
            ranges.append(RowRange(adapters, row, count))
        row += count
    return ranges


def ranges_among(
    ranges: Iterable[RowRange], rows: Sequence[int], name: str | None = None
) -> list[RowRange]:
    """The same ranges counted in ``rows``, which ascend; of adapters to ``name`` alone."""
    found = []
    for part in ranges:
        chosen = [i for i, row in enumerate(rows) if part.first <= row < part.first + part.count]
        if chosen and (name is None or part.adapters.adapts(name)):
            found.append(RowRange(part.adapters, chosen[0], len(chosen)))
    return found


def groups_of(
    ranges: Iterable[RowRange], batch_of: Callable[[int], Batch], num_tokens: int
) -> tuple[AdaptedGroup, ...]:
    """What the ops of ranges depend on, in a step of ``num_tokens``."""
    return tuple(
        AdaptedGroup(part.adapters, batch_of(part.count), part.count == num_tokens)
        for part in ranges
    )


def bound_values(ranges: Sequence[RowRange], prefix: str, strides: Iterable[int]) -> dict[str, int]:
    """What ``num_rows`` and ``row_address`` stand for in a step."""
    if not ranges:
        return {}
    values = {num_rows(prefix, number).name: part.count for number, part in enumerate(ranges)}
    for stride in strides:
        for number, part in enumerate(ranges):
            values[row_address(prefix, number, 0, stride).name] = part.first * stride
    return values
