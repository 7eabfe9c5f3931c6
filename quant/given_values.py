"""Checks the kind of a value that a caller gave: number, path, function, name of an option.

The module of each option knows which numbers and texts it allows.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgellama.quant.error_text import did_you_mean, nearest, shown
from edgellama.quant.errors import InvalidOptionError

MAX_DEPTH = 100
"""Of lists and mappings inside each other that a caller may give."""


def is_whole(value: Any, lowest: int) -> bool:
    """Whether it is a whole number from ``lowest`` on, of NumPy's too; True and False are none."""
    is_truth = isinstance(value, bool)
    return isinstance(value, Integral) and not is_truth and int(value) >= lowest


def whole_number(name: str, value: Any, lowest: int) -> int:
    """A whole number from ``lowest`` on; InvalidOptionError names the argument of anything else."""
    if not is_whole(value, lowest):
        raise InvalidOptionError(f"{name} is {shown(value)}; allowed: a whole number from {lowest}")
    return int(value)


def whole_or_none(name: str, value: Any, lowest: int) -> int | None:
    """The same where None may be given, too."""
    if value is not None and not is_whole(value, lowest):
        raise InvalidOptionError(
            f"{name} is {shown(value)}; allowed: None or a whole number from {lowest}"
        )
    return None if value is None else int(value)


def is_number(value: Any) -> bool:
    """Whether it is a whole or a real number, perhaps no finite one; True and False are none."""
    is_truth = isinstance(value, bool)
    return isinstance(value, Real) and not is_truth


def check_names(
    names: Collection[str],
    allowed: Sequence[str],
    parameters: Sequence[str] = (),
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """InvalidOptionError for the first name that is not allowed; it says which one is meant.

    ``parameters``: what the call takes beside its options, which may be meant, too.
    ``elsewhere``: what an option of ours is called in other programs.
    """
    known = (*parameters, *allowed)
    for name in names:
        if name not in allowed:
            same = elsewhere.get(str(name))
            meant = same if same in known else nearest(name, known)
            hint = did_you_mean(meant).rstrip() or f"allowed: {', '.join(known)}"
            raise InvalidOptionError(f"there is no option {shown(name)}; {hint}")


def is_shallow(value: object) -> bool:
    """Whether whoever walks through lists and mappings comes to an end: MAX_DEPTH of them.

    Python's own limit of calls inside each other ends a walk with RecursionError.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        holders = [item for item in level if isinstance(item, (list, tuple, Mapping))]
        if not holders:
            return True
        level = [
            item
            for holder in holders
            for item in (holder.values() if isinstance(holder, Mapping) else holder)
        ]
    return False


def is_true(name: str, value: object) -> bool:
    """A value that is True or False; InvalidOptionError names the argument of any other."""
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{name} is {shown(value)}; allowed: True or False")
    return value


def given_path(name: str, value: object) -> Path:
    """A path that a file may have, given as a text or a path object.

    InvalidOptionError names the argument of anything else: numbers, which Python would take for
    open files, bytes, an empty text, and texts that the system has no bytes for.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise InvalidOptionError(f"{name} is {shown(path)}; allowed: a text or a path object")
    if not path or "\0" in path or not _has_bytes(path):
        raise InvalidOptionError(f"{name} is {shown(path)}; allowed: the path of a file or folder")
    return Path(path)


def _has_bytes(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def check_function(name: str, value: object, arguments: str) -> None:
    """InvalidOptionError for what is neither None nor can be called with ``arguments``."""
    if value is not None and not callable(value):
        raise InvalidOptionError(
            f"{name} is {shown(value)}; allowed: None or a function of {arguments}"
        )
