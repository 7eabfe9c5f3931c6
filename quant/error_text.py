"""How an offending value is written into an error's message, and the form of a file's error."""

from __future__ import annotations

from pathlib import Path

from edgellama.quant.errors import ModelFileError

MAX_SHOWN_CHARACTERS = 80
INCOMPLETE = "the file is incomplete: download it again"
"""What to do about a file that ends too early."""


def shown(value: object) -> str:
    """``value`` for an error message: ASCII alone, about 80 characters at most, cheap to make."""
    if isinstance(value, (str, bytes)):
        text = ascii(value[:MAX_SHOWN_CHARACTERS])
    elif value is None or isinstance(value, (bool, int, float)):
        text = str(value)
    else:
        text = f"of type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def shape_text(shape: tuple[int, ...]) -> str:
    """A tensor's shape, such as "2048 x 512"; "none" for a single number."""
    return " x ".join(map(str, shape)) or "none"


def system_error_text(error: OSError) -> str:
    """What the system refused, on one line: the file and the reason, without a number."""
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def file_error(path: Path, what: str, allowed: str) -> ModelFileError:
    """The error for ``path``: ``what`` names the offending value."""
    return ModelFileError(f"{path}: {what}; allowed: {allowed}")
