"""When a command's process searches for garbage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

START = """
import gc, sys
from edgellama.cli import garbage, main

searches = []
usual_end = garbage.end_start

def end():
    print(len(searches), end=" ")
    usual_end()
    print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0], gc.isenabled())

garbage.end_start = end
gc.callbacks.append(lambda phase, info: searches.append(phase))
main(["generate", sys.argv[1], "-p", "a", "-n", "1"])
"""
PROGRAM = """
import gc
from edgellama.cli import garbage

before = gc.get_threshold()
garbage.end_start()
print(gc.get_threshold() == before, gc.get_freeze_count())
"""


def test_a_start_is_not_searched(tiny_path: Path) -> None:
    """Nothing is searched until the model is loaded; then as usual, without what is there."""
    assert _printed(START, str(tiny_path)).startswith("0 True 10000 True\n")


def test_other_programs_keep_their_ways() -> None:
    """A program that did not begin as the command leaves its own collector as it is."""
    assert _printed(PROGRAM) == "True 0\n"


def _printed(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout
