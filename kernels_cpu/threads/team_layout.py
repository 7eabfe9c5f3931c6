"""Byte offsets in the memory that the threads of a team share, in programs and in counters.

Plain numbers, shared by the compiled executor and the Python that starts it. Every word that
different threads write has a cache line of its own.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import CACHE_LINE

TEAM = 0
"""The memory's own address: the argument record of ``execute`` and ``serve``."""
NUM_THREADS = 8
PROGRAM = 16
CANCEL_FLAG = 24
YIELD_FUNCTION = 32
MAX_IDLE_SPINS = 40
CLOCK_FUNCTION = 48
STAMPS = 56
"""Where a timed job's clock readings go: one before the first op, one after each."""
STAMP_BYTES = 16
"""One reading: seconds and nanoseconds."""

JOB = 1 * CACHE_LINE
"""Number of the job that was posted last."""
STOPPED_JOB = 2 * CACHE_LINE
"""Number of the job that was cancelled last."""
ACTIVE_JOBS = 3 * CACHE_LINE
"""One line per thread from here on: the job that it works on, or 0."""
SEEN_JOB = 8
"""In a thread's line: the last job that it took part in."""

PROGRAM_HEADER = 8
"""A program begins with the number of its ops."""
OP_KERNEL, OP_RECORD, OP_COUNTER, OP_BARRIER = 0, 8, 16, 24
OP_BYTES = 32
"""One op: kernel, argument record and counter addresses, whether the next op must wait."""

NEXT_TASK, NUM_DONE, NUM_TASKS = 0, 8, 16
"""Words of an op's counter: job and next task, tasks done, tasks in all (0 until known)."""
COUNTER_WORDS = 3
COUNTER_BYTES = CACHE_LINE
JOB_SHIFT = 32
TASK_MASK = (1 << JOB_SHIFT) - 1
