"""Where the rows of a step lie, and how much of them a step touches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_harness import model_of
from numpy.typing import NDArray

from edgellama.engine.buffers import InputRows, Rows, StepBuffers
from edgellama.kernels_cpu.machine.cpu import GENERIC

ATTENTION = ("query", "key", "value", "attended")
FEED_FORWARD = ("gate", "up")
KEPT = ("residual", "normed")
"""Rows that live as long as a step."""
SHAPES = ((64, 4), (192, 2), (512, 1))
"""Numbers of the feed-forward part, and heads of keys."""


def _buffers(hidden: int, kv_heads: int) -> StepBuffers:
    config = replace(
        model_of(64, head_size=16, heads=4, kv_heads=kv_heads), feed_forward_length=hidden
    )
    return StepBuffers(config, GENERIC, 2, 8)


def _arrays(buffers: StepBuffers, *names: str) -> list[NDArray[Any]]:
    """The f32 and the int8 of some rows, each once."""
    rows: list[Rows] = [getattr(buffers, name) for name in names]
    arrays = [row.array for row in rows]
    arrays += [part for row in rows if isinstance(row, InputRows) for part in row.quantized.parts]
    return list({id(array): array for array in arrays}.values())


@pytest.mark.parametrize(("hidden", "kv_heads"), SHAPES)
def test_rows_that_are_needed_together_lie_apart(hidden: int, kv_heads: int) -> None:
    """Rows of attention overlap neither each other nor the residual stream; nor do the others."""
    buffers = _buffers(hidden, kv_heads)
    for names in (ATTENTION, FEED_FORWARD):
        for one, other in itertools.combinations(_arrays(buffers, *KEPT, *names), 2):
            assert not np.may_share_memory(one, other)


@pytest.mark.parametrize(("hidden", "kv_heads"), SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 100_000])
def test_shared_rows_are_counted_once(hidden: int, kv_heads: int, num_tokens: int) -> None:
    """What a step touches is what its rows cover, each byte once."""
    buffers = _buffers(hidden, kv_heads)
    share = min(num_tokens, buffers.num_rows) / buffers.num_rows
    arrays = [*_arrays(buffers, *KEPT, *ATTENTION, *FEED_FORWARD), buffers.cos_sin]
    covered: set[int] = set()
    for array in arrays:
        start = int(array.ctypes.data)
        covered.update(range(start, start + int(array.nbytes * share)))
    assert buffers.used_bytes(num_tokens, ()) - buffers.scratch.nbytes == len(covered)
    assert len(covered) < sum(int(array.nbytes * share) for array in arrays)
