"""Shows warnings of the library as lines on stderr, in words for a terminal.

The library decides what deserves a warning.
"""

from __future__ import annotations

import logging
import sys

from edgellama.quant.ways import in_terminal


def show_warnings() -> None:
    """From now on, warnings of the library are lines on stderr."""
    logger = logging.getLogger("edgellama")
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Lines("edgellama: warning: %(message)s"))
    # That a context is full is said in the line after the reply, not within its text.
    handler.addFilter(lambda record: record.name != "edgellama.generation.decoding.text_end")
    logger.addHandler(handler)


class _Lines(logging.Formatter):
    """Records in words for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, which itself stays as it is for other handlers."""
        shown = logging.makeLogRecord(record.__dict__)
        shown.args = in_terminal(record.args)  # type: ignore[assignment]
        return super().format(shown)
