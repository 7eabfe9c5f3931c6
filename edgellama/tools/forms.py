"""The forms in which models write calls: the marks around them, and how a call begins.

``reading`` reads a form, ``presentation`` finds out which form a model knows, and ``call_grammar``
says what may follow token by token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from edgellama.quant.records import dataclass
from edgellama.tools.reading import CLOSING_TAG, OPENING_TAG, PYTHON_TAG, TOOL_CALLS


@dataclass(frozen=True)
class CallForm:
    """One way to write calls.

    ``mark`` stands before calls wherever they are in a reply. Where ``needs_mark`` is false, they
    may begin a reply without it, by what ``opening`` matches for the names of tools: a pattern, or
    None for forms that need the mark. ``start``, ``between`` and ``end`` stand around several.
    A call is an object of JSON with the arguments under ``key``, or without a key an expression
    of Python. ``tail`` stands behind the arguments.
    """

    name: str
    mark: str
    tail: str
    key: str = ""
    start: str = ""
    between: str = ""
    end: str = ""
    opening: Callable[[Collection[str]], str] | None = None
    repeats_mark: bool = False

    @property
    def is_plain_json(self) -> bool:
        """Whether a reply may be a call's object of JSON and nothing else."""
        return bool(self.key) and self.opening is not None

    def head(self, name: str) -> str:
        """What stands before the arguments of a call."""
        return f'{{"name": {json.dumps(name)}, "{self.key}": ' if self.key else f"{name}("

    def written(self, name: str, arguments: Mapping[str, Any]) -> str:
        """One call with its mark, for forms whose arguments are JSON."""
        text = json.dumps(arguments, ensure_ascii=False)
        return f"{self.mark}{self.start}{self.head(name)}{text}{self.tail}{self.end}"


def _any_of(names: Collection[str]) -> str:
    return "|".join(map(re.escape, names))


def _json_opening(names: Collection[str]) -> str:
    return (
        rf'{_SPACE}\{{{_SPACE}"name"{_SPACE}:{_SPACE}"(?:{_any_of(names)})"{_SPACE},'
        rf'{_SPACE}"parameters"{_SPACE}:'
    )


def _python_opening(names: Collection[str]) -> str:
    return rf"{_SPACE}\[{_SPACE}(?:{_any_of(names)}){_SPACE}\("


_SPACE = r"\s{0,16}"


FORMS: Mapping[str, CallForm] = MappingProxyType(
    {
        form.name: form
        for form in (
            CallForm(
                "tagged",
                mark=OPENING_TAG,
                start="\n",
                key="arguments",
                tail="}\n" + CLOSING_TAG,
                between="\n",
                repeats_mark=True,
            ),
            CallForm(
                "mistral",
                mark=TOOL_CALLS,
                start="[",
                key="arguments",
                tail="}",
                between=", ",
                end="]",
            ),
            CallForm(
                "json",
                mark=PYTHON_TAG,
                key="parameters",
                tail="}",
                between="; ",
                opening=_json_opening,
            ),
            CallForm(
                "python",
                mark=PYTHON_TAG,
                start="[",
                tail=")",
                between=", ",
                end="]",
                opening=_python_opening,
            ),
        )
    }
)
"""By the names that reading.READERS has for them."""
