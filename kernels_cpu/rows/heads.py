"""The kernel along heads: norms of queries and keys, and halves of a head as neighbouring pairs.

Some models, such as Qwen 3, have such norms. Some rotate an element together with the one half a
head behind it, where a Llama's file has the two side by side, as the kernels of attention take
them. Positions are left to ``attention.rope``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.rows.kernels import inverse_rms, scaled
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import (
    f32_zeros,
    lane_count,
    load_f32,
    read_f32,
    splat_f32,
    store,
    store_in_turn,
    write_f32,
)
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of, tokens_at_once


@device
def norm_head(head, head_size, weight, epsilon):
    """head = head / rms(head) * weight, in place."""
    factor = inverse_rms(head, head_size, epsilon)
    scale = splat_f32(factor, f32_zeros())
    whole = 4 * (head_size // lane_count() * lane_count())
    for i in range(0, whole, 4 * lane_count()):
        store(head + i, scaled(head + i, weight + i, scale))
    for i in range(whole, 4 * head_size, 4):
        write_f32(head + i, read_f32(head + i) * factor * read_f32(weight + i))


@device
def pair_halves(head, num_pairs, first_half):
    """x0 x1 … y0 y1 … become x0 y0 x1 y1 …, in place.

    ``first_half``: room for ``num_pairs`` numbers. What is written never passes what is read.
    """
    like = f32_zeros()
    whole, end = 4 * (num_pairs // lane_count() * lane_count()), 4 * num_pairs
    for i in range(0, whole, 4 * lane_count()):
        store(first_half + i, load_f32(head + i, like))
    for i in range(whole, end, 4):
        write_f32(first_half + i, read_f32(head + i))
    for i in range(0, whole, 4 * lane_count()):
        store_in_turn(head + 2 * i, load_f32(first_half + i, like), load_f32(head + end + i, like))
    for i in range(whole, end, 4):
        second = read_f32(head + end + i)
        write_f32(head + 2 * i, read_f32(first_half + i))
        write_f32(head + 2 * i + 4, second)


def arrange_heads():
    """Norm heads unless ``weight`` is 0, and pair the halves of their first ``num_pairs`` pairs.

    In place; a few tokens a task.
    """

    def kernel(
        x, x_stride, head_size, num_heads, num_tokens, weight, epsilon, num_pairs,
        scratch, scratch_stride, counter, thread, job,
    ):  # fmt: skip
        first_half = scratch + thread * scratch_stride
        at_once = tokens_at_once(num_tokens)
        for task in tasks_of(counter, job, count_tasks(num_tokens, at_once)):
            for token in range(task * at_once, min((task + 1) * at_once, num_tokens)):
                for number in range(num_heads):
                    head = x + token * x_stride + number * head_size * 4
                    if weight != 0:
                        norm_head(head, head_size, weight, epsilon)
                    pair_halves(head, num_pairs, first_half)

    return kernel
