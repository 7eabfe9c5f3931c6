"""Texts in llguidance's dialect of Lark: literally, and as patterns.

``after_thinking`` and ``edgellama.tools`` write grammars with them.
"""

from __future__ import annotations

import json


def literal(text: str) -> str:
    """A text as it stands; nothing for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def escaped_pattern(text: str) -> str:
    """A text as a pattern of llguidance's, inside slashes and brackets too."""
    return "".join(
        character if character.isalnum() or character in "_<>" else f"\\{character}"
        for character in text
    )
