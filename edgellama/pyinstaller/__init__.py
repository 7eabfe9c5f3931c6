"""Tells PyInstaller where edgellama's hook lies (entry point ``pyinstaller40``).

What an application needs of edgellama is known to the hook itself, ``hook-edgellama.py``.
"""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """The folders that PyInstaller looks into for hooks."""
    return [str(Path(__file__).parent)]
