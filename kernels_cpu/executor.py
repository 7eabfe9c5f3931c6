"""Walks a program of kernels on all threads, outside the GIL.

Threads meet at a spin barrier after the ops that ask for it. The last to arrive looks at the
cancel flag and decides for all, so that every thread leaves at the same op. The layout of the
shared memory is in ``team_layout``; starting, waking and parking threads is the team's.
"""

from __future__ import annotations

from edgellama.kernels_cpu import team_layout as layout
from edgellama.kernels_cpu.device import device
from edgellama.kernels_cpu.simd import read_i64
from edgellama.kernels_cpu.simd_atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    call_kernel,
    call_yield,
    pause,
)

SPINS_BEFORE_YIELD = 4096
"""About 50 microseconds: past that, the awaited thread has probably lost its core."""


@device
def wait_a_little(team, spins):
    """Spin, or give up the core when spinning has gone on for long."""
    if spins < SPINS_BEFORE_YIELD:
        pause()
    else:
        call_yield(read_i64(team + layout.YIELD_FUNCTION))


@device
def meet(team, num_threads, generation, job):
    """Wait for all threads; the last to arrive passes a cancellation on."""
    if atomic_add(team + layout.ARRIVED, 1) == num_threads - 1:
        if atomic_load(read_i64(team + layout.CANCEL_FLAG)) != 0:
            atomic_store(team + layout.STOPPED_JOB, job)
        atomic_store(team + layout.ARRIVED, 0)
        atomic_store(team + layout.GENERATION, generation + 1)
    else:
        spins = 0
        while atomic_load(team + layout.GENERATION) == generation:
            wait_a_little(team, spins)
            spins += 1


@device
def run_program(team, job, thread, num_threads):
    """All ops of the program in order; the last one must end with a barrier."""
    op = read_i64(team + layout.PROGRAM)
    end = op + read_i64(team + layout.NUM_OPS) * layout.OP_BYTES
    generation = atomic_load(team + layout.GENERATION)
    while op < end:
        call_kernel(read_i64(op), read_i64(op + 8), thread, num_threads)
        if read_i64(op + 16) != 0:
            meet(team, num_threads, generation, job)
            generation += 1
            if atomic_load(team + layout.STOPPED_JOB) == job:
                return
        op += layout.OP_BYTES


def execute():
    """Post the job whose program the team's memory names, and take part in it as thread 0."""

    def kernel(team, thread, num_threads):
        job = atomic_add(team + layout.JOB, 1) + 1
        run_program(team, job, thread, num_threads)

    return kernel


def serve():
    """A worker's loop: take part in every job; return after a while without one, or at the end."""

    def kernel(team, thread, num_threads):
        seen = team + layout.SEEN_JOBS + thread * layout.CACHE_LINE
        spins = 0
        while spins < read_i64(team + layout.MAX_IDLE_SPINS):
            job = atomic_load(team + layout.JOB)
            if job != atomic_load(seen):
                atomic_store(seen, job)
                run_program(team, job, thread, num_threads)
                spins = 0
            else:
                wait_a_little(team, spins)
                spins += 1

    return kernel
