"""A base class for what exists in one process only: it has threads, a mapped file, a text.

It can be neither copied nor pickled. Each subclass knows what it holds.
"""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class ProcessBound:
    """Base of what is neither copied nor pickled; a copy would give back what another uses."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse in words, where Python would name a part that nobody knows."""
        raise TypeError(
            f"{self!r} can be neither copied nor pickled; another process opens the model itself, "
            "and the system holds the weights once for all of them"
        )
