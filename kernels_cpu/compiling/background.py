"""Compiles kernels that later models will want, while this process does something else.

One worker of the lowest priority takes one kernel after another. It ends with this process, after
the kernel that it is at; whatever is finished by then need not be compiled again.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from edgellama.kernels_cpu.compiling.compile_pool import start_worker
from edgellama.kernels_cpu.compiling.compile_turn import compile_turn
from edgellama.kernels_cpu.machine.cpu import Tier


def compile_in_background(names: Sequence[str], tier: Tier, folder: Path) -> threading.Thread:
    """Compile what ``folder`` lacks of these kernels; the thread that sees to it.

    A failure is nobody's business here: whoever needs the kernel will meet it. Applications that
    were frozen without a Python compile nothing.
    """
    thread = threading.Thread(
        target=_compile_all, args=(names, tier, folder), name="edgellama-compile", daemon=True
    )
    thread.start()
    return thread


def _compile_all(names: Sequence[str], tier: Tier, folder: Path) -> None:
    def lacking() -> list[str]:
        return [name for name in names if not (folder / f"{name}.o").exists()]

    if getattr(sys, "frozen", False) or not lacking():
        return
    # Engines that start together want the same.
    with compile_turn(folder, "background", lambda: bool(lacking())):
        if left := lacking():
            _compile_one_by_one(left, tier, folder)


def _compile_one_by_one(names: Sequence[str], tier: Tier, folder: Path) -> None:
    with contextlib.suppress(OSError), start_worker(tier, folder, in_background=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        for name in names:
            # Another process may have been faster.
            if not (folder / f"{name}.o").exists():
                print(name, file=worker.stdin, flush=True)
                if not worker.stdout.readline():
                    break
