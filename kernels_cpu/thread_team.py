"""The threads that run programs together: started once, woken by a job, asleep when idle.

The caller of ``run`` takes part as thread 0. Workers spin for a short while after a job, since
the next usually follows at once, and then sleep on a condition variable and use no CPU.
"""

from __future__ import annotations

import ctypes
import sys
import threading

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu import team_layout as layout
from edgellama.kernels_cpu.code_cache import CompiledKernels

MAX_IDLE_SPINS = 40_000
"""About a millisecond between jobs before a worker goes to sleep."""
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
ENTRY_KERNELS = ("execute", "serve")
"""Names of the kernels that a team needs to be compiled."""


def yield_address() -> int:
    """Address of the operating system's function that gives up the core."""
    library = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
    function = library.SwitchToThread if sys.platform == "win32" else library.sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class ThreadTeam:
    """Threads over one set of compiled kernels; ``run`` is for one caller at a time."""

    def __init__(self, kernels: CompiledKernels, num_threads: int) -> None:
        self.num_threads = num_threads
        num_words = (layout.SEEN_JOBS + num_threads * layout.CACHE_LINE) // 8
        self._memory = np.zeros(num_words + layout.CACHE_LINE // 8, np.int64)
        start = -self._memory.ctypes.data % layout.CACHE_LINE // 8
        self._words = self._memory[start:]
        self._address = int(self._words.ctypes.data)
        self._never_cancelled = np.zeros(1, np.int64)
        self._kernels = kernels
        self._execute = ENTRY(kernels.address("execute"))
        self._serve = ENTRY(kernels.address("serve"))
        self._words[layout.TEAM // 8] = self._address
        self._words[layout.YIELD_FUNCTION // 8] = yield_address()
        self._words[layout.MAX_IDLE_SPINS // 8] = MAX_IDLE_SPINS
        self._words[layout.STOPPED_JOB // 8] = -1
        self._condition = threading.Condition()
        self._num_posted = 0
        self._num_asleep = 0
        self._closing = False
        self._workers = [
            threading.Thread(target=self._work, args=(i,), name=f"edgellama-{i}", daemon=True)
            for i in range(1, num_threads)
        ]
        for worker in self._workers:
            worker.start()

    def run(
        self, program: npt.NDArray[np.int64], cancel_flag: npt.NDArray[np.int64] | None = None
    ) -> bool:
        """Run a program (ops, 3) on all threads; False if the cancel flag stopped it."""
        words = self._words
        flag = self._never_cancelled if cancel_flag is None else cancel_flag
        words[layout.PROGRAM // 8] = program.ctypes.data
        words[layout.NUM_OPS // 8] = len(program)
        words[layout.CANCEL_FLAG // 8] = flag.ctypes.data
        self._num_posted += 1
        if self._num_asleep:
            with self._condition:
                self._condition.notify_all()
        self._execute(self._address, 0, self.num_threads)
        return bool(words[layout.STOPPED_JOB // 8] != words[layout.JOB // 8])

    def close(self) -> None:
        """Stop the workers; no job may be running."""
        with self._condition:
            self._closing = True
            self._words[layout.MAX_IDLE_SPINS // 8] = 0
            self._condition.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self, thread: int) -> None:
        while not self._closing:
            num_posted = self._num_posted
            self._serve(self._address, thread, self.num_threads)
            with self._condition:
                self._num_asleep += 1
                while self._num_posted == num_posted and not self._closing:
                    self._condition.wait()
                self._num_asleep -= 1
