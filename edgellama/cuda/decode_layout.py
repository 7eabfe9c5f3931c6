"""Sizes that the host and the kernel for a few tokens must agree on.

The functions tell how query heads are divided among warps, how much shared memory a warp needs, and
how long the results are that a part of the keys leaves. They are plain functions like those of
``layouts``: the host calls them, and the kernels inline them.
"""

from __future__ import annotations

from edgellama.cuda.layouts import WARP
from edgellama.kernels_cpu.layouts import count_splits, round_up

MAX_ROWS = 8
"""Query heads of a KV head that a warp attends with together."""
PARTIAL_NUMBERS_AT = 16
"""Of a partial result, where its numbers begin; before them the largest score and the sum of the
weights, f32."""


def head_parts(group: int) -> int:
    """Parts of ``group`` query heads of a KV head, each a warp's; the grid's third dimension."""
    return (group + MAX_ROWS - 1) // MAX_ROWS


def part_rows(group: int) -> int:
    """Rows of the kernel for ``group`` query heads of a KV head.

    >>> [(part_rows(group), head_parts(group)) for group in (1, 4, 8, 9, 16)]
    [(1, 1), (4, 1), (8, 1), (5, 2), (8, 2)]
    """
    parts = head_parts(group)
    return (group + parts - 1) // parts


def lane_keys(rows: int) -> int:
    """Keys whose scores a lane holds at once: fewer where many rows need the registers."""
    return 4 if rows <= 4 else 2


def keys_at_once(rows: int) -> int:
    """Keys whose scores a warp holds at once: a page, or half of it."""
    return WARP * lane_keys(rows)


def padded_head(head_size: int) -> int:
    """Elements of a head in whole warps."""
    return round_up(head_size, WARP)


def queries_bytes(head_size: int, rows: int) -> int:
    """Bytes of a warp's queries in shared memory, and of its results, which take their place."""
    return 4 * rows * padded_head(head_size)


def weights_bytes(rows: int) -> int:
    """Bytes of the weights in shared memory, which come next; a page's value scales are last."""
    return 4 * rows * keys_at_once(rows)


def partial_bytes(head_size: int) -> int:
    """Bytes of what one query head leaves for one part of its keys."""
    return PARTIAL_NUMBERS_AT + round_up(4 * head_size, 16)


def decode_tasks(position: int, num_tokens: int, split_keys: int, window: int) -> int:
    """Tasks of a segment of a few tokens: the parts of the keys of each of them.

    A segment needs room for ``partial_bytes`` of each query head and task, and a ticket (int32)
    of each token, KV head and one of ``head_parts``.
    """
    return sum(count_splits(position + token, 1, split_keys, window) for token in range(num_tokens))
