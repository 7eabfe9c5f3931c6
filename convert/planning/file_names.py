"""The names of a conversion's files until they are complete.

``output.writer`` writes them, ``output.journal`` knows what the journal says.
"""

from __future__ import annotations

from pathlib import Path

PARTIAL_SUFFIX = ".partial"
JOURNAL_SUFFIX = ".partial.journal"


def partial_path(path: Path) -> Path:
    """Where a file lies until it is complete."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def journal_path(output: Path) -> Path:
    """Where the journal of the conversion to ``output`` lies."""
    return output.with_name(output.name + JOURNAL_SUFFIX)
