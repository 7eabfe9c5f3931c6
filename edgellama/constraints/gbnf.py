"""Grammars as llama.cpp writes them (GBNF): recognised, and rewritten as Lark.

In GBNF, a text consists of characters. In Lark it consists of words, and the longest word that
matches counts. So every word is one character here, and both grammars say the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError

_RULE = re.compile(r"^[ \t]*([A-Za-z0-9_-]+)[ \t]*::=", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<nothing>\#[^\r\n]*|\s+)
    |(?P<literal>"(?:\\.|[^"\\])*")
    |(?P<set>\[(?:\\.|[^\]\\])*\])
    |(?P<name>[A-Za-z0-9_-]+)
    |(?P<repeat>\{\s*\d+\s*(?:,\s*\d*\s*)?\})
    |(?P<dot>\.)
    |(?P<other>::=|[|()*+?])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\(.)|(.)", re.DOTALL
)
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}
_ANY_CHARACTER = "/[\\x00-\U0010ffff]/"
_START = "root"


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule as GBNF writes rules."""
    return _RULE.search(text) is not None


def lark_of_gbnf(text: str) -> str:
    """The grammar as Lark's; ConstraintError for a mistake, with its line."""
    tokens = list(_tokens(text))
    starts = [
        number
        for number, (token, following) in enumerate(pairwise(tokens))
        if token.kind == "name" and following.text == "::="
    ]
    originals = [tokens[start].text for start in starts]
    if _START not in originals:
        raise ConstraintError(
            f"the grammar has no rule {_START}; it has {', '.join(originals)[:200]}"
        )
    [(commonest, count)] = Counter(originals).most_common(1)
    if count > 1:
        raise ConstraintError(f"the grammar has the rule {shown(commonest)} twice; allowed: once")
    if starts[0] > 0:
        raise _error(tokens[0].line, f"{shown(tokens[0].text)} stands before the first rule")
    names = {
        name: "start" if name == _START else f"{_plain_name(name)}_{number}"
        for number, name in enumerate(originals)
    }
    rules = [
        f"{names[tokens[start].text]}: {_body(tokens[start + 2 : end], names)}\n"
        for start, end in pairwise([*starts, len(tokens)])
    ]
    return "%llguidance {}\n\n" + "".join(rules)


class _Token(NamedTuple):
    """A piece of the grammar that is neither white space nor comment."""

    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _error(line, f"{shown(text[position : position + 20])} is no GBNF")
        position = found.end()
        kind = found.lastgroup or ""
        if kind != "nothing":
            yield _Token(kind, found.group(), line)
        line += found.group().count("\n")


def _body(tokens: Sequence[_Token], names: Mapping[str, str]) -> str:
    """What stands behind a rule's name, on one line."""
    words: list[str] = []
    for token in tokens:
        ends_alternative = token.text in ("|", ")") and token.kind == "other"
        if ends_alternative and (not words or words[-1] in ("|", "(")):
            words.append('""')
        words.append(_word(token, names))
    if not words or words[-1] == "|":
        words.append('""')
    return (
        " ".join(words).replace(" *", "*").replace(" +", "+").replace(" ?", "?").replace(" {", "{")
    )


def _word(token: _Token, names: Mapping[str, str]) -> str:
    if token.kind == "literal":
        return _literal(token.text[1:-1], token.line)
    if token.kind == "set":
        return f"/{_set(token.text[1:-1], token.line)}/"
    if token.kind == "dot":
        return _ANY_CHARACTER
    if token.kind == "name":
        if token.text not in names:
            raise _error(
                token.line,
                f"there is no rule {shown(token.text)}; it has {', '.join(names)[:200]}",
            )
        return names[token.text]
    if token.text == "::=":
        raise _error(token.line, "::= stands behind no name")
    return token.text


def _plain_name(name: str) -> str:
    return "r_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in name.lower())


def _error(line: int, what: str) -> ConstraintError:
    return ConstraintError(f"the grammar, line {line}: {what}")


def _literal(text: str, line: int) -> str:
    """A literal as one word for each character."""
    words = [f"/[{_in_set(character)}]/" for character, _ in _characters(text, line)]
    return f"({' '.join(words)})" if len(words) > 1 else words[0] if words else '""'


def _set(text: str, line: int) -> str:
    is_negated = text.startswith("^")
    items = []
    for character, is_plain in _characters(text[is_negated:], line):
        items.append("-" if is_plain and character == "-" else _in_set(character))
    # A bar at an end of the set stands for itself.
    items = [
        _in_set("-") if item == "-" and number in (0, len(items) - 1) else item
        for number, item in enumerate(items)
    ]
    if not items:
        raise _error(line, "a set is empty; allowed: such as [a-z]")
    return f"[{'^' if is_negated else ''}{''.join(items)}]"


def _in_set(character: str) -> str:
    is_safe = character.isalnum() or (not character.isascii() and character.isprintable())
    return character if is_safe or ord(character) > 0xFF else f"\\x{ord(character):02x}"


def _characters(text: str, line: int) -> Iterator[tuple[str, bool]]:
    """Each character that is meant, and whether it is written as it is."""
    for found in _CHARACTER.finditer(text):
        *codes, named, plain = found.groups()
        code = next(filter(None, codes), None)
        if code is not None:
            number = int(code, 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise _error(line, f"{shown(found.group())} is no Unicode character")
            yield chr(number), False
        elif named is not None:
            if named.isalnum() and named not in _NAMED:
                raise _error(
                    line,
                    f"there is no escape {shown(found.group())}; "
                    "allowed: \\n \\r \\t \\x41 \\u0041 \\U00000041, and signs",
                )
            yield _NAMED.get(named, named), False
        else:
            yield plain, True
