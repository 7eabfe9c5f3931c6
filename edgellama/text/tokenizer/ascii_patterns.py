"""Split patterns for texts of ASCII alone, which Python's own ``re`` can match.

``re`` knows no Unicode properties, but each has only a few characters in ASCII. So a prompt in
English does without ``regex``, whose import and compiler cost 10 ms of every start.
"""

from __future__ import annotations

import re
from itertools import groupby
from string import ascii_lowercase, ascii_uppercase, digits

ASCII = tuple(map(chr, range(128)))
CATEGORIES = {
    "Cc": "".join((*ASCII[:32], ASCII[127])), "Lu": ascii_uppercase, "Ll": ascii_lowercase,
    "Nd": digits, "Pc": "_", "Pd": "-", "Ps": "([{", "Pe": ")]}", "Po": "!\"#%&'*,./:;?@\\",
    "Sc": "$", "Sk": "^`", "Sm": "+<=>|~", "Zs": " ",
}  # fmt: skip
"""As ``unicodedata`` tells them, whose table takes half a megabyte."""
_WHITE_SPACE = "\t\n\v\f\r "
"""Python's own ``\\s`` has four control characters more than Unicode's White_Space."""
_PIECE = re.compile(r"\\[pP]\{(\w+)\}|\\.|[][]|.", re.DOTALL)
_KEPT_ESCAPES = frozenset([r"\r", r"\n", r"\t", r"\d", r"\-", r"\[", r"\]", r"\\"])
_CATEGORY = re.compile("[CLMNPSZ][a-z]?")


def ascii_pattern(pattern: str) -> re.Pattern[str] | None:
    """What matches as ``pattern`` does in texts of ASCII; None if this module cannot tell."""
    pieces: list[str] = []
    in_class = False
    for match in _PIECE.finditer(pattern):
        piece = match[0]
        if piece in "[]":
            if in_class == (piece == "["):
                return None
            in_class = not in_class
        elif piece.startswith("\\") and piece not in _KEPT_ESCAPES:
            content = _content(piece, match[1])
            if content is None:
                return None
            piece = content if in_class else f"[{content or _NOTHING}]"
        pieces.append(piece)
    text = "".join(pieces).replace("[]", f"[{_NOTHING}]").replace("[^]", f"[^{_NOTHING}]")
    try:
        return re.compile(f"({text})")
    except re.error:  # Possessive quantifiers, before Python 3.11.
        return None


_NOTHING = "\x80"
"""A character that no text of ASCII has."""


def _content(escape: str, category: str | None) -> str | None:
    """The ASCII characters of an escape, as they are written between brackets."""
    if category is not None:
        if not _CATEGORY.fullmatch(category):
            return None
        found = {c for name, some in CATEGORIES.items() if name.startswith(category) for c in some}
    elif escape in ("\\s", "\\S"):
        found = set(_WHITE_SPACE)
    else:
        return None
    if escape[1].isupper():
        found = set(ASCII) - found
    return _ranges(sorted(map(ord, found)))


def _ranges(codes: list[int]) -> str:
    """Characters from one to another, as far as they follow each other: ``re`` reads few fast."""
    pieces = []
    for _, run in groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
        first, *others = [f"\\x{code:02x}" for _, code in run]
        pieces.append(f"{first}-{others[-1]}" if others else first)
    return "".join(pieces)
