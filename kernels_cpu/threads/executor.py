"""The compiled loop in which every thread walks through a program of kernels, outside the GIL.

Threads meet only in the counters of the ops (``tasks``): each takes what tasks it can of an op, and
goes on when all tasks of the op are done. The thread that posted the job checks the cancel flag at
every op. Starting, waking and parking threads is left to ``thread_team``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.simd.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    call_clock,
    call_kernel,
    call_yield,
    pause,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import read_i64
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.kernels_cpu.threads.tasks import is_over

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
def has_ended(team, job):
    """Whether a job was cancelled or another one follows it already."""
    return atomic_load(team + layout.STOPPED_JOB) == job or atomic_load(team + layout.JOB) != job


@device
def wait_for_ops(team, job, first_op, last_op):
    """Wait until the ops are over; False if the job has ended meanwhile."""
    op = first_op
    while op <= last_op:
        counter = read_i64(op + layout.OP_COUNTER)
        spins = 0
        while not is_over(counter):
            if has_ended(team, job):
                return False
            wait_a_little(team, spins)
            spins += 1
        op += layout.OP_BYTES
    return True


@device
def run_program(team, job, thread, stamps):
    """All ops of the program in order, as far as the job is not cancelled.

    ``stamps`` is 0 or where to write the time before the first op and after each.
    """
    program = read_i64(team + layout.PROGRAM)
    op = program + layout.PROGRAM_HEADER
    end = op + read_i64(program) * layout.OP_BYTES
    group = op
    if stamps != 0:
        call_clock(read_i64(team + layout.CLOCK_FUNCTION), stamps)
    while op < end:
        if thread == 0 and atomic_load(read_i64(team + layout.CANCEL_FLAG)) != 0:
            atomic_store(team + layout.STOPPED_JOB, job)
        if has_ended(team, job):
            return
        call_kernel(read_i64(op + layout.OP_KERNEL), read_i64(op + layout.OP_RECORD), thread, job)
        if read_i64(op + layout.OP_BARRIER) != 0:
            if not wait_for_ops(team, job, group, op):
                return
            group = op + layout.OP_BYTES
        if stamps != 0:
            stamps += layout.STAMP_BYTES
            call_clock(read_i64(team + layout.CLOCK_FUNCTION), stamps)
        op += layout.OP_BYTES


@device
def wait_for_workers(team, job):
    """Wait until no worker holds a task of a cancelled job."""
    for thread in range(1, read_i64(team + layout.NUM_THREADS)):
        spins = 0
        while atomic_add(team + layout.ACTIVE_JOBS + thread * CACHE_LINE, 0) == job:
            wait_a_little(team, spins)
            spins += 1


@device
def post_and_run(team, thread, job, stamps):
    """Start a job and take part in it to its end."""
    atomic_add(team + layout.JOB, 1)
    run_program(team, job, thread, stamps)
    if atomic_load(team + layout.STOPPED_JOB) == job:
        wait_for_workers(team, job)


def execute():
    """Post the job whose program the team's memory names, and take part in it as thread 0."""

    def kernel(team, thread, job):
        post_and_run(team, thread, job, 0)

    return kernel


def execute_timed():
    """As ``execute``, with the time taken between ops into the memory that the team names."""

    def kernel(team, thread, job):
        post_and_run(team, thread, job, read_i64(team + layout.STAMPS))

    return kernel


def serve():
    """A worker's loop: take part in every new job; return after a while without one."""

    def kernel(team, thread, job):
        active = team + layout.ACTIVE_JOBS + thread * CACHE_LINE
        seen = active + layout.SEEN_JOB
        spins = 0
        while spins < read_i64(team + layout.MAX_IDLE_SPINS):
            posted = atomic_load(team + layout.JOB)
            if posted != atomic_load(seen):
                atomic_store(seen, posted)
                # Announced before looking for a cancellation: one of the two sees the other.
                atomic_add(active, posted)
                run_program(team, posted, thread, 0)
                atomic_add(active, -posted)
                spins = 0
            else:
                wait_a_little(team, spins)
                spins += 1

    return kernel
