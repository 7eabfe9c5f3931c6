"""Calls while they are being written: which tool is called, and the JSON of its arguments so far.

It follows forms whose calls are JSON objects with the name first, as the grammar of calls writes
them. ``reading`` reads everything else, once the reply is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from edgellama.quant.records import dataclass
from edgellama.tools.forms import CallForm
from edgellama.tools.reading import CLOSING_TAG
from edgellama.tools.tool import ID_LENGTH

MAX_HEAD_CHARACTERS = 1000
"""What may stand before a call's arguments; whoever writes more writes no such call."""


@dataclass(frozen=True)
class CallPiece:
    """A piece of the call ``index`` of a reply: the next characters of its ``arguments`` as JSON.

    ``name`` is the tool's name, and ``id`` that of the ``ToolCall`` at the end of the reply.
    ``is_whole`` means that the arguments are complete with these characters.

    Example:
        >>> from edgellama import CallPiece
        >>> CallPiece(0, "a1b2c3d4e", "weather", '{"city": "Ro').is_whole
        False
    """

    index: int
    id: str
    name: str
    arguments: str
    is_whole: bool = False


class CallPieces:
    """Takes the text of calls in one reply, and gives pieces of them.

    Example:
        >>> from edgellama.tools.call_pieces import CallPieces
        >>> from edgellama.tools.forms import FORMS
        >>> pieces = CallPieces(FORMS["tagged"], ["now"])
        >>> pieces.feed('<tool_call>{"name": "now", "argum')
        []
        >>> [piece.arguments for piece in pieces.feed('ents": {"zone": "U')]
        ['{"zone": "U']
        >>> pieces.feed('TC"}}')[0].is_whole
        True
    """

    def __init__(self, form: CallForm, names: Collection[str]) -> None:
        """``names``: the tools that there are."""
        self._names = frozenset(names)
        marks = "|".join(map(re.escape, (form.mark, CLOSING_TAG)))
        self._head = re.compile(
            rf'(?:[\s;,\[\]}}]|{marks})*\{{\s*"name"\s*:\s*"([\w.-]+)"\s*,\s*"{form.key}"\s*:\s*(?=\{{)'
        )
        self._is_followed = bool(form.key)
        self._text = ""
        self._open: CallPiece | None = None
        self._depth = 0
        self._in_string = self._is_escaped = False
        self.ids: list[str] = []

    def feed(self, text: str) -> list[CallPiece]:
        """The pieces of calls that the next piece of text completes."""
        found: list[CallPiece] = []
        self._text += text if self._is_followed else ""
        while self._text:
            if self._open is None and not self._begin():
                break
            found.append(self._arguments())
        return found

    def _begin(self) -> bool:
        """Whether the arguments of another call begin."""
        head = self._head.match(self._text)
        if head is None or head[1] not in self._names:
            self._is_followed = head is None and len(self._text) < MAX_HEAD_CHARACTERS
            return False
        self._text = self._text[head.end() :]
        self.ids.append(os.urandom(ID_LENGTH).hex()[:ID_LENGTH])
        self._open = CallPiece(len(self.ids) - 1, self.ids[-1], head[1], "")
        return True

    def _arguments(self) -> CallPiece:
        """As much of the open call's arguments as there is."""
        assert self._open is not None
        call, text = self._open, self._text
        for place, character in enumerate(text):
            if self._in_string:
                self._in_string = self._is_escaped or character != '"'
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self._open, self._text = None, text[place + 1 :]
                    return CallPiece(call.index, call.id, call.name, text[: place + 1], True)
        self._text = ""
        return CallPiece(call.index, call.id, call.name, text)
