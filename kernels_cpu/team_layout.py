"""Byte offsets in the memory that the threads of a team share, and in a program.

Plain numbers, shared by the compiled executor and the Python that starts it. Every word that
different threads write has a cache line of its own.
"""

from __future__ import annotations

CACHE_LINE = 64

TEAM = 0
"""The memory's own address: the argument record of ``execute`` and ``serve``."""
PROGRAM = 8
NUM_OPS = 16
CANCEL_FLAG = 24
YIELD_FUNCTION = 32
MAX_IDLE_SPINS = 40

ARRIVED = 1 * CACHE_LINE
GENERATION = 2 * CACHE_LINE
JOB = 3 * CACHE_LINE
STOPPED_JOB = 4 * CACHE_LINE
SEEN_JOBS = 5 * CACHE_LINE
"""One line per thread from here on."""

OP_BYTES = 24
"""One op of a program: kernel address, argument record address, whether a barrier follows."""
