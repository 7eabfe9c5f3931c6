"""Writes tests/data/split_patterns.json: the split patterns that llama.cpp knows, by name.

Run in ``tests`` with the path of llama.cpp's ``src/llama-vocab.cpp``, which the source package of
llama-cpp-python 0.3.36 has: ``python -m reference.make_split_patterns llama-vocab.cpp``. Where a
comment there has the pattern that the tokenizer was published with, that counts.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PATTERNS = Path(__file__).parent.parent / "data" / "split_patterns.json"
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CASE = re.compile(r"case LLAMA_VOCAB_PRE_TYPE_(\w+):|(default):")
_TYPE = re.compile(r"pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+)")
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\r": "\r", r"\n": "\n"}


def patterns_by_type(source: str) -> dict[str, list[str]]:
    """The patterns of each kind, from the switch that sets them."""
    start = source.index("switch (vocab.get_pre_type())")
    lines = source[start : source.index("std::vector<std::string> regex_exprs;", start)].split("\n")
    found: dict[str, list[str]] = {}
    kinds: list[str] = []
    published = None
    for line in map(str.strip, lines):
        case, literal = _CASE.match(line), _LITERAL.search(line)
        if case:
            kinds.append(case[1] or "DEFAULT")
        elif line.startswith("//") and literal:
            published = literal[1]
        elif line.startswith('"') and literal:
            for kind in kinds:
                found.setdefault(kind, []).append(_unescaped(published or literal[1]))
            published = None
        elif line.startswith("break"):
            kinds, published = [], None
    return found


def names(source: str) -> dict[str, dict[str, Any]]:
    """The kind of each name, and whether words that are tokens are taken whole, and BOS added."""
    start = source.index("if (tokenizer_pre.empty())")
    lines = source[start : source.index("unknown pre-tokenizer type", start)].split("\n")
    found: dict[str, dict[str, Any]] = {}
    waiting: list[str] = []
    current: list[str] = []
    for line in lines:
        waiting += re.findall(r'tokenizer_pre == "([^"]+)"', line)
        kind = _TYPE.search(line)
        if kind and waiting:
            current, waiting = waiting, []
            found |= {name: {"type": kind[1]} for name in current}
        for flag in ("ignore_merges", "add_bos"):
            if f"{flag} = true" in line:
                for name in current:
                    found[name][flag] = True
    return found


def _unescaped(literal: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPES[found[0]], literal)


def main(path: str) -> None:
    """Write the file."""
    source = Path(path).read_text("utf-8")
    content = {"patterns": patterns_by_type(source), "names": names(source)}
    PATTERNS.write_text(json.dumps(content, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main(sys.argv[1])
