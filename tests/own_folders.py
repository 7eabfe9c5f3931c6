"""Folders that tests use instead of the user's: a cache, what is kept, temporary files.

The cache stays from run to run, since it holds compiled kernels and downloads; everything else ends
with a run, unless a test fails. The processes that tests start use the same folders.

What is kept is moved by the variables of XDG, which platformdirs knows on Linux alone in all of its
versions: on Windows, and perhaps on macOS, chats and answers go to the user's own folders.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from platformdirs import user_cache_path

TEST_CACHE_VARIABLE = "EDGELLAMA_TEST_CACHE"
KEPT_VARIABLES = ("XDG_DATA_HOME", "XDG_STATE_HOME")
"""Where programs keep chats, answers and lines of input."""
TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")


def use_own_cache() -> Path:
    """Let this process, and matplotlib in it, use the cache of tests; its folder."""
    chosen = os.environ.get(TEST_CACHE_VARIABLE)
    folder = Path(chosen) if chosen else user_cache_path("edgellama-tests", appauthor=False)
    os.environ["EDGELLAMA_CACHE"] = str(folder.absolute())
    os.environ["MPLCONFIGDIR"] = str(folder.absolute() / "matplotlib")
    return folder


def use_own_folders(kept: Path, temporary: Path, patch: pytest.MonkeyPatch) -> None:
    """Let this process keep things in one folder, and temporary files in another."""
    for name in KEPT_VARIABLES:
        patch.setenv(name, str(kept))
    for name in TEMPORARY_VARIABLES:
        patch.setenv(name, str(temporary))
    patch.setattr("tempfile.tempdir", str(temporary))
