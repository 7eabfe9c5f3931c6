"""Halves of UTF-16's surrogate pairs, which Python's strings may contain and UTF-8 cannot write.

They come from JSON and from file names. This module decides what becomes of them in a text.
"""

from __future__ import annotations

import re

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = "[\ud800-\udfff]"


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if text.isascii() or not re.search(_SURROGATE, text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def replace_surrogates(text: str) -> str:
    """The text with every surrogate replaced by U+FFFD."""
    return text if text.isascii() else re.sub(_SURROGATE, REPLACEMENT_CHARACTER, text)
