"""The threads that run programs together: started once, woken by a job, asleep when idle.

The caller of ``run`` takes part as thread 0 and never waits for a worker that is late. Workers
spin for a short while after a job, since the next usually follows at once, and then sleep on a
lock of their own and use no CPU. No lock is ever held, so Ctrl-C can leave none taken.
"""

from __future__ import annotations

import ctypes
import sys
import threading

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.layouts import CACHE_LINE
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.quant.errors import KernelError
from edgellama.quant.typing_backports import Self

MAX_IDLE_SPINS = 8_000
"""About a millisecond between jobs before a worker goes to sleep."""
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
ENTRY_KERNELS = ("execute", "serve")
"""Names of the kernels that a team needs to be compiled."""
TIMED_ENTRY = "execute_timed"
"""What a team needs besides, to run programs with ``stamps``."""
Words = npt.NDArray[np.int64]


def yield_address() -> int:
    """Address of the operating system's function that gives up the core."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def clock_address() -> int:
    """Address of the C library's ``timespec_get``, which kernels can call without the GIL."""
    if sys.platform == "win32":
        function = ctypes.CDLL("ucrtbase")._timespec64_get
    else:
        function = ctypes.CDLL(None).timespec_get
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def aligned_words(num_bytes: int) -> Words:
    """Zeroed memory that begins on a cache line."""
    words = np.zeros((num_bytes + CACHE_LINE) // 8, np.int64)
    start = -words.ctypes.data % CACHE_LINE // 8
    return words[start : start + num_bytes // 8]


class ThreadTeam:
    """Threads over one set of compiled kernels; ``run`` is for one caller at a time."""

    def __init__(self, kernels: CompiledKernels, num_threads: int) -> None:
        """A team whose threads ``start`` starts: first somebody must know whom to close."""
        self.num_threads = num_threads
        self._words = aligned_words(layout.ACTIVE_JOBS + num_threads * CACHE_LINE)
        self._address = int(self._words.ctypes.data)
        self._never_cancelled = np.zeros(1, np.int64)
        self._always_cancelled = np.ones(1, np.int64)
        self._kernels = kernels
        self._execute = ENTRY(kernels.address("execute"))
        self._serve = ENTRY(kernels.address("serve"))
        self._set(layout.TEAM, self._address)
        self._set(layout.NUM_THREADS, num_threads)
        self._set(layout.YIELD_FUNCTION, yield_address())
        self._set(layout.MAX_IDLE_SPINS, MAX_IDLE_SPINS)
        self._announced = 0
        self._owners: dict[int, object] = {}
        self._asleep = [False] * num_threads
        self._alarms = [threading.Lock() for _ in range(num_threads)]
        for alarm in self._alarms:
            alarm.acquire()
        self._closing = False
        self._workers = [
            threading.Thread(target=self._work, args=(i,), name=f"edgellama-{i}", daemon=True)
            for i in range(1, num_threads)
        ]

    def start(self) -> Self:
        """Start the threads, once; KernelError if the system has no more."""
        try:
            for worker in self._workers:
                worker.start()
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError):
                number = self.num_threads
                raise KernelError(f"no {number} threads can be started: {error}") from None
            raise
        return self

    @property
    def cancel_word(self) -> int:
        """Where the address of the running job's cancel flag lies."""
        return self._address + layout.CANCEL_FLAG

    @property
    def worker_ids(self) -> tuple[int, ...]:
        """The system's numbers of the threads that the team has started."""
        return tuple(worker.native_id or 0 for worker in self._workers)

    @property
    def next_job(self) -> int:
        """The number that the next ``run`` will have; the program's counters must carry it."""
        return int(self._words[layout.JOB // 8]) + 1

    def run(
        self,
        program: Words,
        cancel_flag: Words | None = None,
        *,
        owner: object = None,
        stamps: Words | None = None,
    ) -> bool:
        """Run a program on all threads; False if the cancel flag stopped it, or was set already.

        ``stamps`` (num_ops + 1, 2) takes the time before the first op and after each, as seconds
        and nanoseconds. The kernel TIMED_ENTRY must be there for it.

        ``owner`` owns the program's records and counters: it is kept as long as the team, since
        a late thread may still glance at them.
        """
        if cancel_flag is not None and cancel_flag[0]:
            return False
        self._owners[id(owner)] = owner
        flag = self._never_cancelled if cancel_flag is None else cancel_flag
        self._set(layout.PROGRAM, program.ctypes.data)
        self._set(layout.CANCEL_FLAG, flag.ctypes.data)
        # A signal's handler may close the team before this place, or behind it.
        if self._closing:
            return False
        job = self.next_job
        try:
            self._announced = job
            if True in self._asleep:
                self._wake_up()
            if stamps is None:
                self._execute(self._address, 0, job)
            else:
                self._set(layout.CLOCK_FUNCTION, clock_address())
                self._set(layout.STAMPS, stamps.ctypes.data)
                ENTRY(self._kernels.address(TIMED_ENTRY))(self._address, 0, job)
        except BaseException:
            # A signal came before the job was posted: workers must not stay awake for it.
            self._announced = self.next_job - 1
            raise
        return bool(self._words[layout.STOPPED_JOB // 8] != job)

    def stop(self, job: int) -> None:
        """Let the running job end as a cancelled one; its caller also takes away its tasks."""
        self._set(layout.STOPPED_JOB, job)

    def close(self) -> None:
        """Stop the workers; no job may be running. One that comes after all runs nothing."""
        self._closing = True
        self._set(layout.CANCEL_FLAG, self._always_cancelled.ctypes.data)
        # A worker that is late at the last job must not wait for it.
        self._set(layout.STOPPED_JOB, self._announced)
        self._set(layout.MAX_IDLE_SPINS, 0)
        self._wake_up()
        for worker in self._workers:
            # The garbage collector may end a forgotten team on one of its own threads.
            if worker.is_alive() and worker is not threading.current_thread():
                worker.join()

    def _wake_up(self) -> None:
        """Ring for all who sleep or are about to; at worst one wakes up in vain."""
        for asleep, alarm in zip(self._asleep, self._alarms, strict=True):
            if asleep and alarm.locked():
                alarm.release()

    def _set(self, offset: int, value: int) -> None:
        self._words[offset // 8] = value

    def _work(self, thread: int) -> None:
        seen = (layout.ACTIVE_JOBS + thread * CACHE_LINE + layout.SEEN_JOB) // 8
        while not self._closing:
            self._serve(self._address, thread, 0)
            # First said, then looked: what is announced later finds it and rings.
            self._asleep[thread] = True
            if self._announced == self._words[seen] and not self._closing:
                self._alarms[thread].acquire()
            self._asleep[thread] = False
