"""Writes an offending value into an error's message, and guesses which other value was meant.

It also has the form of an error about a file. The caller knows which values are right.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgellama.quant.errors import ModelFileError

MAX_SHOWN_CHARACTERS = 80
LIKE_A_SLIP, NEARLY_THE_SAME = 0.6, 0.8
"""How like another a name must be to be taken for a slip, by ``difflib``; the second where names
are alike by nature, as those of models, or where what is no name may be meant as it stands."""
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


def nearest(name: object, known: Iterable[str], likeness: float = LIKE_A_SLIP) -> str | None:
    """The known name that is meant where another one is given; None if none is like it."""
    from difflib import get_close_matches  # which is needed for errors alone

    given = str(name)[:MAX_SHOWN_CHARACTERS]
    return next(iter(get_close_matches(given, list(known), n=1, cutoff=likeness)), None)


def did_you_mean(meant: str | None) -> str:
    """The question behind a name that there is not, with a space; nothing if none is meant."""
    return "" if meant is None else f"did you mean {meant}? "


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
