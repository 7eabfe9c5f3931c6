"""Older processors of x86-64, emulated by QEMU: the tier that they get, and what it computes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest
from places import TESTS

from edgellama.kernels_cpu.machine.cpu import THREADS_VARIABLE, TIER_VARIABLE

QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64") or ""
TIER = "from edgellama.kernels_cpu.machine.cpu import select_tier; print(select_tier().name)"
CHOOSES = (TIER_VARIABLE, THREADS_VARIABLE, "OPENBLAS_CORETYPE")
"""What would choose other code than the processor's own."""
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="starts this Python"),
]


def emulated(processor: str, *arguments: str) -> str:
    """What this Python prints on another processor; it must end well.

    Kernels are compiled outside the emulator, where processes that are started run.
    """
    assert QEMU, "install qemu-user-static"
    done = subprocess.run(
        [QEMU, "-cpu", processor, sys.executable, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TESTS.parent,
        env={key: value for key, value in os.environ.items() if key not in CHOOSES},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("processor", "tier"),
    [
        ("Haswell", "avx2"),
        ("EPYC", "avx2"),
        ("SandyBridge", "sse4"),
        ("Nehalem", "sse4"),
    ],
)
def test_older_processors(processor: str, tier: str) -> None:
    """A processor gets the fastest tier that it has, and computes the golden logits with it."""
    assert emulated(processor, "-c", TIER).splitlines()[-1] == tier
    told = emulated(
        processor, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engine/test_golden.py"
    )
    assert " passed" in told
