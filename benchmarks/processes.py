"""Runs one child process and tells how long, how much memory and how undisturbed. POSIX only.

What the child does is its own; whether a noisy run is taken again is decided here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

KEEP_ERROR_CHARACTERS = 2000
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
"""Would have every start compile all modules anew, as no user's does."""
PIPE_BYTES = 1 << 16
BUSY_CPUS = 0.25
"""More work than this by other processes makes a figure doubtful: spinning threads suffer most."""
LOOK_S = 0.5


@dataclass(frozen=True)
class Finished:
    """A child that succeeded; times are from before its start."""

    output: str
    errors: str
    first_output_s: float
    seconds: float
    peak_memory_bytes: int
    other_cpus: float
    """Cores that everything else on the machine kept busy meanwhile; 0 where unknown."""


def run_child(command: Sequence[str]) -> Finished:
    """Run ``command`` to its end. Raises RuntimeError, with its last words, if it fails."""
    with tempfile.TemporaryFile() as errors:
        busy_before, started = busy_cpu_s(), perf_counter()
        with subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={name: value for name, value in os.environ.items() if name != NO_BYTECODE},
        ) as child:
            assert child.stdout is not None
            output = child.stdout.read(PIPE_BYTES)
            first_output_s = perf_counter() - started
            while piece := child.stdout.read(PIPE_BYTES):
                output += piece
            _, status, usage = os.wait4(child.pid, 0)
            seconds = perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        error_text = errors.read().decode(errors="replace")
    if child.returncode:
        last_words = error_text[-KEEP_ERROR_CHARACTERS:]
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{last_words}")
    own_s = usage.ru_utime + usage.ru_stime
    return Finished(
        output=output.decode(errors="replace"),
        errors=error_text,
        first_output_s=first_output_s,
        seconds=seconds,
        peak_memory_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        other_cpus=max(0.0, busy_cpu_s() - busy_before - own_s) / seconds,
    )


def run_undisturbed(command: Sequence[str], patience_s: float) -> Finished:
    """Run ``command`` when the machine is quiet, again if it did not stay so.

    After ``patience_s`` the run counts as it is.
    """
    deadline = perf_counter() + patience_s
    while True:
        while perf_counter() < deadline and other_cpus_now() > BUSY_CPUS:
            sleep(LOOK_S)
        child = run_child(command)
        if child.other_cpus <= BUSY_CPUS or perf_counter() >= deadline:
            return child


def other_cpus_now() -> float:
    """Cores in use while this process sleeps."""
    before, started = busy_cpu_s(), perf_counter()
    sleep(LOOK_S)
    return (busy_cpu_s() - before) / (perf_counter() - started)


def busy_cpu_s() -> float:
    """CPU seconds that all processes have used since boot; 0 where /proc/stat is missing."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, steal = (
        int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]
    )
    ticks = user + nice + system + interrupts + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")
