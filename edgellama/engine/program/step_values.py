"""The kernels of a step, and the names of the numbers that differ from step to step.

A program is written once for each ``StepKind``. Numbers that change with every step, such as its
number of tokens, are bound under these names when it runs. ``step_kinds`` defines the kinds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgellama.engine.program.program import Bound
from edgellama.quant.records import dataclass

Batch: TypeAlias = Literal["one", "four_alike", "eight_alike", "two", "four", "eight", "many"]
"""How matrices are multiplied: with one token, with so many that each has the bits that it has
alone, with up to so many at a time, or with many."""
Method: TypeAlias = Literal["direct", "packed"]
"""How attention reads the cache: as it is, or packed to integers that many tokens share."""
Attending: TypeAlias = Literal[Method, "both"]
"""The method of all segments, or each by its own: packed for those of many tokens."""
Reach: TypeAlias = Literal["stored", "attended", "end"]
"""How far a body goes in its last layer: until keys and values are stored, until its attention is
done, or to its end."""
NUM_TOKENS, NUM_OUTPUTS = Bound("num_tokens"), Bound("num_outputs")
LOGITS = Bound("logits")
NUM_SEGMENTS = Bound("num_segments")
NUM_STORE_TASKS, NUM_ATTEND_TASKS = Bound("num_store_tasks"), Bound("num_attend_tasks")
NUM_PACKED_TASKS = Bound("num_packed_tasks")


@dataclass(frozen=True)
class StepKind:
    """Which kernels a step takes."""

    batch: Batch
    attending: Attending
