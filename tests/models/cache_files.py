"""Files of a model cache, as tests make them and look at them."""

from __future__ import annotations

from pathlib import Path


def everything_below(folder: Path) -> list[Path]:
    """Files and folders below ``folder``, which need not exist."""
    return sorted(folder.rglob("*"))


def files_below(folder: Path) -> list[Path]:
    """Files below ``folder`` that still exist while this looks."""
    return [path for path in everything_below(folder) if path.is_file()]


def touch(path: Path) -> Path:
    """An empty file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path
