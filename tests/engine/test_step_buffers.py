"""Where the rows of a step lie, and how much of them a step touches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness.kernels import model_of
from numpy.typing import NDArray

from edgellama.engine.program.buffers import InputRows, StepBuffers
from edgellama.kernels_cpu.machine.cpu import GENERIC

PHASES = (
    ("residual.f32", "normed.f32", "normed.int8", "query.f32", "key.f32", "value.f32"),
    ("residual.f32", "query.f32", "key.f32", "value.f32", "attended.f32"),
    ("residual.f32", "attended.f32", "attended.int8"),
    ("residual.f32", "normed.f32", "normed.int8", "gate.f32", "up.f32", "gate.int8"),
)
"""What is needed at once: before attention, in it, after it, and in the feed-forward part."""
SHAPES = ((64, 4), (192, 2), (512, 1))
"""Numbers of the feed-forward part, and heads of keys."""


def _buffers(hidden: int, kv_heads: int) -> StepBuffers:
    config = replace(
        model_of(64, head_size=16, heads=4, kv_heads=kv_heads), feed_forward_length=hidden
    )
    return StepBuffers(config, GENERIC, 2, 8)


def _arrays(buffers: StepBuffers, *names: str) -> list[NDArray[Any]]:
    """Rows by their names and kinds."""
    arrays: list[NDArray[Any]] = []
    for name, kind in (name.split(".") for name in names):
        rows: InputRows = getattr(buffers, name)
        arrays += [rows.array] if kind == "f32" else rows.quantized.parts
    return arrays


@pytest.mark.parametrize(("hidden", "kv_heads"), SHAPES)
@pytest.mark.parametrize("names", PHASES)
def test_what_is_needed_at_once_lies_apart(
    hidden: int, kv_heads: int, names: tuple[str, ...]
) -> None:
    """No rows overlap others that a layer needs at the same time."""
    buffers = _buffers(hidden, kv_heads)
    for one, other in itertools.combinations(_arrays(buffers, *names), 2):
        assert not np.may_share_memory(one, other)


@pytest.mark.parametrize(("hidden", "kv_heads"), SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 100_000])
def test_shared_rows_are_counted_once(hidden: int, kv_heads: int, num_tokens: int) -> None:
    """What a step touches is what its rows cover, each byte once."""
    buffers = _buffers(hidden, kv_heads)
    share = min(num_tokens, buffers.num_rows) / buffers.num_rows
    names = sorted({name for phase in PHASES for name in phase})
    arrays = [*_arrays(buffers, *names), buffers.cos_sin]
    covered: set[int] = set()
    for array in arrays:
        start = int(array.ctypes.data)
        covered.update(range(start, start + int(array.nbytes * share)))
    assert buffers.used_bytes(num_tokens, ()) - buffers.scratch.nbytes == len(covered)
    assert len(covered) < sum(int(array.nbytes * share) for array in arrays)
