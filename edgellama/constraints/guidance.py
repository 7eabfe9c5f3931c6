"""The door to llguidance, an optional package: imported late, with a plain word where it lacks."""

from __future__ import annotations

from typing import Any

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.ways import Way

INSTALL = 'pip install "edgellama[grammar]"'


def llguidance() -> Any:
    """The module; EdgellamaError where it is not installed."""
    try:
        import llguidance as module
    except ImportError as error:
        raise EdgellamaError(
            f"schemas, regexes, grammars and choices need the package llguidance ({error})",
            way=Way(f"install it: {INSTALL}", f"install it: {INSTALL}"),
        ) from None
    return module


def plain_message(message: str) -> str:
    """llguidance's own words on one line, without its state."""
    words = message.split("<state>")[0].split("<non-verbose/>")[0]
    return " ".join(words.split())[:400]
