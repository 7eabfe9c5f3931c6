"""Attention of one layer on a graphics card: launches the card's kernels and waits for them.

This kernel calls the driver's functions by their addresses, so that no Python thread is needed
between two layers. ``layouts`` says where the words of its records lie. The card's own kernels and
all memory are left to ``edgellama.cuda``.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import (
    CARD_CONTEXT,
    CARD_COPY,
    CARD_IS_READY,
    CARD_LAUNCH,
    CARD_POP,
    CARD_POPPED,
    CARD_PUSH,
    CARD_STATUS,
    CARD_STREAM,
    LAUNCH_ARGUMENTS,
    LAUNCH_AT_ONCE,
    LAUNCH_FIRST,
    LAUNCH_FUNCTION,
    LAUNCH_SHARED_BYTES,
    LAUNCH_THREADS,
    LAUNCH_Y,
    LAUNCH_Z,
    NOT_READY,
)
from edgellama.kernels_cpu.simd.atomics import (
    atomic_load,
    atomic_store,
    call_driver,
    call_launch,
    pause,
)
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import read_i64
from edgellama.kernels_cpu.threads.tasks import tasks_of

PAUSES = 64
"""Between two questions whether the card is done: a few microseconds."""


@device
def is_done(card):
    """The status of what the card was given; asking makes the driver send what it has held back."""
    return call_driver(read_i64(card + CARD_IS_READY), read_i64(card + CARD_STREAM), 0, 0, 0)


@device
def launch(card, record, num_blocks):
    """Launch a kernel with so many blocks in a row, none where there are none; the status.

    Where only some may be launched at once the driver sends them before it gets the next.
    """
    status, first, at_once = 0, 0, read_i64(read_i64(record + LAUNCH_AT_ONCE))
    while first < num_blocks and (status == 0 or status == NOT_READY):
        atomic_store(read_i64(record + LAUNCH_FIRST), first)
        status = call_launch(
            read_i64(card + CARD_LAUNCH),
            read_i64(record + LAUNCH_FUNCTION),
            min(num_blocks - first, at_once),
            read_i64(record + LAUNCH_Y),
            read_i64(record + LAUNCH_Z),
            read_i64(record + LAUNCH_THREADS),
            read_i64(record + LAUNCH_SHARED_BYTES),
            read_i64(card + CARD_STREAM),
            read_i64(record + LAUNCH_ARGUMENTS),
        )
        first += at_once
        if status == 0 and first < num_blocks:
            status = is_done(card)
    return status


@device
def wait(card, cancel_word):
    """Wait until the card has done all that it was given; the status, 0 where it was cancelled."""
    status = is_done(card)
    while status == NOT_READY:
        if atomic_load(read_i64(cancel_word)) != 0:
            return 0
        for _ in range(PAUSES):
            pause()
        status = is_done(card)
    return status


@device
def attend_there(card, table, table_source, table_bytes, store, few, many, num_tokens,
                 num_few_tasks, num_many_tasks, cancel_word):  # fmt: skip
    """Copy the table, launch what there is, and wait; the first status that is not 0, or 0."""
    status = 0
    if table_bytes != 0:
        status = call_driver(read_i64(card + CARD_COPY), table, table_source, table_bytes,
                             read_i64(card + CARD_STREAM))  # fmt: skip
    if status == 0:
        status = launch(card, store, num_tokens)
    if status == 0:
        status = launch(card, few, num_few_tasks)
    if status == 0:
        status = launch(card, many, num_many_tasks)
    if status == 0:
        status = wait(card, cancel_word)
    return status


def attend_on_card():
    """Store a layer's new keys and values on the card, and attend there; one task.

    ``table_bytes``: how much of the table of segments is copied first. ``cancel_word``: where the
    address of the flag lies that cancels the running job. Once a call has failed its
    status stays in the card's record, and nothing is launched any more. The thread may be the
    user's own: it gets its own context back.
    """

    def kernel(
        card, table, table_source, table_bytes, store, few, many, num_tokens, num_few_tasks,
        num_many_tasks, cancel_word, counter, thread, job,
    ):  # fmt: skip
        for _ in tasks_of(counter, job, 1):
            status = atomic_load(card + CARD_STATUS)
            if status == 0:
                context = read_i64(card + CARD_CONTEXT)
                status = call_driver(read_i64(card + CARD_PUSH), context, 0, 0, 0)
                if status == 0:
                    status = attend_there(
                        card, table, table_source, table_bytes, store, few, many, num_tokens,
                        num_few_tasks, num_many_tasks, cancel_word,
                    )  # fmt: skip
                    call_driver(read_i64(card + CARD_POP), card + CARD_POPPED, 0, 0, 0)
            atomic_store(card + CARD_STATUS, status)

    return kernel
