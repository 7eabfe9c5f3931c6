"""Tells PyInstaller where edgellama's hook lies (entry point ``pyinstaller40``)."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """The folders that PyInstaller looks into for hooks."""
    return [str(Path(__file__).parent)]
