"""A conversion's plan as text: every tensor, the total, and whether disk and memory suffice.

``convert.planning`` makes the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgellama.convert.planning.planner import free_disk_bytes, memory_estimate_bytes
from edgellama.quant.free_memory import available_memory_bytes

if TYPE_CHECKING:
    from edgellama.convert.planning.conversion_plan import ConversionPlan


def plan_lines(plan: ConversionPlan) -> Iterator[str]:
    """The text, line by line."""
    width = max(len(tensor.name) for tensor in plan.tensors)
    yield f"{'tensor':<{width}}  {'shape':<15}  {'from':<7}  {'to':<7}  {'bytes':>15}"
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape))
        formats = f"{tensor.source.format.name:<7}  {tensor.format.name:<7}"
        yield f"{tensor.name:<{width}}  {shape:<15}  {formats}  {tensor.num_bytes:>15,}"
    yield ""
    yield from _total_lines(plan)


def _total_lines(plan: ConversionPlan) -> Iterator[str]:
    for file in plan.files:
        yield f"file    {file.path} ({file.num_bytes:,} bytes)"
    yield (
        f"total   {plan.num_bytes:,} bytes, {plan.num_weights:,} weights, "
        f"{plan.bits_per_weight:.3f} bits per weight"
    )
    yield _room_line("disk", plan.num_bytes, free_disk_bytes(plan))
    yield _room_line("memory", memory_estimate_bytes(plan), available_memory_bytes())


def _room_line(what: str, needed: int, free: int | None) -> str:
    line = f"{what:<8}{needed / 1e6:,.0f} MB needed, "
    if free is None:
        return line + "free: unknown"
    return line + f"{free / 1e6:,.0f} MB free: {'enough' if needed <= free else 'NOT ENOUGH'}"
