"""A kernel that reads memory and does nothing with it.

Its speed is the upper limit of every kernel that decodes one token, since each of these must read
all weights. ``edgellama.measure`` compares the two.
"""

from __future__ import annotations

from edgellama.kernels_cpu.simd.integers import merge
from edgellama.kernels_cpu.simd.vectors import f32_zeros, lane_count, load_bytes, store
from edgellama.kernels_cpu.threads.tasks import count_tasks, tasks_of

READ_BYTES = 1 << 18
"""Bytes of one task: long enough to stream, and many tasks in a matrix."""


def read_bytes():
    """Read ``num_bytes`` from ``address`` on; what they are merged to goes to the thread's line.

    Bytes past the last whole four vectors are left out. ``sink`` has a cache line a thread.
    """

    def kernel(address, num_bytes, sink, counter, thread, job):
        like = f32_zeros()
        step = 4 * lane_count()
        num_tasks = count_tasks(num_bytes, READ_BYTES)
        for task in tasks_of(counter, job, num_tasks):
            at = address + task * READ_BYTES
            end = min(at + READ_BYTES, address + num_bytes) - 4 * step
            first = load_bytes(sink + 64 * thread, like)
            second, third, fourth = first, first, first
            while at <= end:
                first = merge(first, load_bytes(at, like))
                second = merge(second, load_bytes(at + step, like))
                third = merge(third, load_bytes(at + 2 * step, like))
                fourth = merge(fourth, load_bytes(at + 3 * step, like))
                at += 4 * step
            store(sink + 64 * thread, merge(merge(first, second), merge(third, fourth)))

    return kernel
