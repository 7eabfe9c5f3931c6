"""Grammars as llama.cpp writes them (GBNF), told from Lark ones and rewritten as those.

llguidance converts the structure. What it would misread is written in another way before: names
that are one to it, escapes, and the dot, which stands for any character here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgellama.constraints.guidance import llguidance
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ConstraintError

_RULE = re.compile(r"^[ \t]*([A-Za-z0-9_-]+)[ \t]*::=", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<comment>\#[^\r\n]*)
    |(?P<literal>"(?:\\.|[^"\\])*")
    |(?P<set>\[(?:\\.|[^\]\\])*\])
    |(?P<name>[A-Za-z0-9_-]+)
    |(?P<repeat>\{[\s\d,]*\})
    |(?P<dot>\.)
    |(?P<other>::=|[\s|()*+?])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\(.)|(.)", re.DOTALL
)
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}
_ANY_CHARACTER = "[\\x00-\U0010ffff]"
_START = "root"


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule as GBNF writes rules."""
    return _RULE.search(text) is not None


def lark_of_gbnf(text: str) -> str:
    """The grammar as Lark's; ConstraintError for a mistake, with its line."""
    llguidance()
    from llguidance.gbnf_to_lark import gbnf_to_lark

    rules = _RULE.findall(text)
    if _START not in rules:
        raise ConstraintError(f"the grammar has no rule {_START}; it has {', '.join(rules)[:80]}")
    doubled = next((name for name in rules if rules.count(name) > 1), None)
    if doubled is not None:
        raise ConstraintError(f"the grammar has the rule {shown(doubled)} twice; allowed: once")
    names = {name: _START if name == _START else f"rule_{n}" for n, name in enumerate(rules)}
    rewritten = "".join(_rewritten(text, names))
    try:
        return str(gbnf_to_lark(rewritten))
    except Exception as error:
        raise ConstraintError(
            f"the grammar is no GBNF: {_with_names(str(error), names):.200}; allowed: rules such "
            'as root ::= "a" | "b"'
        ) from None


def _rewritten(text: str, names: dict[str, str]) -> Iterator[str]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        line = text.count("\n", 0, position) + 1
        if found is None:
            raise ConstraintError(
                f"the grammar, line {line}: {shown(text[position : position + 20])} is no GBNF"
            )
        position = found.end()
        kind, token = found.lastgroup, found.group()
        if kind == "literal":
            yield _literal(token[1:-1], line)
        elif kind == "set":
            yield _set(token[1:-1], line)
        elif kind == "dot":
            yield _ANY_CHARACTER
        elif kind == "name":
            if token not in names:
                raise ConstraintError(
                    f"the grammar, line {line}: there is no rule {shown(token)}; it has "
                    f"{', '.join(names)[:200]}"
                )
            yield names[token]
        elif kind != "comment":
            yield token


def _literal(text: str, line: int) -> str:
    """A literal without escapes that Lark has not; control characters as sets."""
    parts = [""]
    for character, _ in _characters(text, line):
        if character.isprintable() or character == "\n":
            parts[-1] += {"\n": "\\n", '"': '\\"', "\\": "\\\\"}.get(character, character)
        else:
            parts += [f"[{_in_set(character)}]", ""]
    written = [part if number % 2 else f'"{part}"' for number, part in enumerate(parts)]
    return f"({' '.join(written)})" if len(written) > 1 else written[0]


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
        raise ConstraintError(f"the grammar, line {line}: a set is empty; allowed: such as [a-z]")
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
                raise ConstraintError(
                    f"the grammar, line {line}: {shown(found.group())} is no Unicode character"
                )
            yield chr(number), False
        elif named is not None:
            if named.isalnum() and named not in _NAMED:
                raise ConstraintError(
                    f"the grammar, line {line}: there is no escape {shown(found.group())}; "
                    "allowed: \\n \\r \\t \\x41 \\u0041 \\U00000041, and signs"
                )
            yield _NAMED.get(named, named), False
        else:
            yield plain, True


def _with_names(message: str, names: dict[str, str]) -> str:
    originals = {made: name for name, made in names.items()}
    return re.sub(r"rule_\d+", lambda found: originals.get(found.group(), found.group()), message)
