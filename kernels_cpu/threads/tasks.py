"""How threads share an op: its work is cut into tasks, and whichever thread is free takes the next.

An op is over when its tasks are done, not when all threads have passed it, so a thread that lost
its core delays the others only if it holds a task. ``team_layout`` defines the words of an op's
counter. The number of the next task includes the number of the job, so a thread that wakes up late
finds nothing to take.
"""

from __future__ import annotations

from edgellama.kernels_cpu.simd.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    compare_exchange,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.threads import team_layout as layout

MAX_TOKENS_AT_ONCE = 8
"""Enough that threads seldom meet, few enough that many threads share a long step evenly."""


@device
def _claim(counter, job, num_tasks):
    """The next task of an op, or ``num_tasks`` when none is left for this job."""
    word = atomic_load(counter + layout.NEXT_TASK)
    while True:
        task = word & layout.TASK_MASK
        if word >> layout.JOB_SHIFT != job or task >= num_tasks:
            return num_tasks
        found = compare_exchange(counter + layout.NEXT_TASK, word, word + 1)
        if found == word:
            return task
        word = found


@device
def tasks_of(counter, job, num_tasks):
    """The tasks of an op that this thread gets; one is done when the next is asked for.

    For loops that run to their end: only then the other threads hear of what was done.
    """
    num_done = 0
    task = _claim(counter, job, num_tasks)
    while task < num_tasks:
        yield task
        num_done += 1
        task = _claim(counter, job, num_tasks)
    if num_done > 0:
        atomic_store(counter + layout.NUM_TASKS, num_tasks)
        atomic_add(counter + layout.NUM_DONE, num_done)


@device
def is_over(counter):
    """Whether all tasks of an op are done."""
    num_tasks = atomic_load(counter + layout.NUM_TASKS)
    return num_tasks > 0 and atomic_load(counter + layout.NUM_DONE) == num_tasks


@device
def tokens_at_once(num_tokens):
    """Tokens of one task where a token is little work.

    A few in long steps: threads that take turns at neighbouring tokens wait for each other, at
    the counter and at the cache lines where neighbours' numbers meet.
    """
    return 1 + min(num_tokens // 64, MAX_TOKENS_AT_ONCE - 1)


@device
def count_tasks(num_items, items_at_once):
    """Tasks of ``items_at_once`` items, the last one of what is left."""
    return (num_items + items_at_once - 1) // items_at_once
