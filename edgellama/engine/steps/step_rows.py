"""The rows of a step: which tokens they are, which ones are wanted, and whose they are.

Rows are counted through all segments of a step in order. ``step`` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgellama.engine.program.hooks import StepRows
from edgellama.engine.steps.segments import ROWS, Segment
from edgellama.quant.array_types import FloatRows


def rows_of(segments: Sequence[Segment]) -> StepRows:
    """Which tokens the rows of a step belong to."""
    counts = [segment.num_tokens for segment in segments]
    positions = [
        np.arange(segment.position, segment.position + segment.num_tokens) for segment in segments
    ]
    return StepRows(
        tokens=np.concatenate([segment.tokens for segment in segments]),
        positions=np.concatenate(positions),
        sequences=np.repeat(np.arange(len(segments)), counts),
    )


def wanted_rows(segments: Sequence[Segment]) -> list[int]:
    """Rows of a step whose logits are wanted."""
    rows: list[int] = []
    start = 0
    for segment in segments:
        end = start + segment.num_tokens
        rows += range(end - segment.num_logits, end)
        start = end
    return rows


def residual_rows(segments: Sequence[Segment], residual: FloatRows) -> list[FloatRows]:
    """Copies of the residual stream's rows of the segments that want them, in order."""
    found, start = [], 0
    for segment in segments:
        end = start + segment.num_tokens
        if segment.wanted in ROWS:
            found.append(residual[start:end].copy())
        start = end
    return found


def shares_of(
    segments: Sequence[Segment], logits: FloatRows, residual: Sequence[FloatRows]
) -> list[FloatRows]:
    """Each segment's own rows: parts of ``logits``, or of ``residual``.

    One array for all segments: one for each would be new memory of the system's every time, which
    costs ten times as much as the copy.
    """
    shares: list[FloatRows] = []
    start, others = 0, iter(residual)
    for segment in segments:
        if segment.wanted in ROWS:
            shares.append(next(others))
            continue
        end = start + segment.num_logits
        shares.append(logits[start:end])
        start = end
    return shares
