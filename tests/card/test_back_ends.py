"""What holds for sequences in the computer's memory holds for those on a graphics card."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import TESTS

SUITES = (
    *("adapters", "batch", "conversation", "dynamic_rope", "embedding", "hooks", "logprobs"),
    *("reranking", "saved_session", "session", "shared_prompts", "sliding_window", "speculation"),
)


@pytest.mark.slow
def test_suites_on_a_card() -> None:
    """The tests of texts, forks, batches, hooks and adapters pass with every engine on a card."""
    files = [path for suite in SUITES for path in TESTS.rglob(f"test_{suite}.py")]
    assert len(files) == len(SUITES)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "on_card", *map(str, files)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]
