"""Imports the optional package llguidance when a form is first asked for.

Every use of it begins here, so that its version is checked in one place, its absence gets one
error, and its messages become one line.
"""

from __future__ import annotations

import re
from typing import Any

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.ways import Way, install_command

EXTRA = "edgellama[grammar]"
"""The extra with all packages of answers in a form."""
OLDEST = (1, 9)
"""What this package was written for and is tested with."""


def llguidance() -> Any:
    """The module; EdgellamaError if it is not installed, or too old."""
    way = install_way()
    try:
        import llguidance as module
    except ImportError as error:
        raise EdgellamaError(
            f"schemas, regexes, grammars, choices and tools need the package llguidance ({error})",
            way=way,
        ) from None
    version = str(module.__version__)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise EdgellamaError(f"llguidance {version} is installed; allowed: from {needed}", way=way)
    return module


def install_way() -> Way:
    """How to come by what is missing."""
    text = f"install it: {install_command(EXTRA)}"
    return Way(text, text)


def plain_message(message: str) -> str:
    """llguidance's own words on one line, without its state."""
    words = message.split("<state>")[0].split("<non-verbose/>")[0]
    return " ".join(words.split())[:400]
