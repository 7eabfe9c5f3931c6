"""The examples of docstrings and pages, type-checked: ``python tests/doc_examples.py``."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from places import REPOSITORY

import edgellama
import edgellama.convert

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
PREAMBLE = """from edgellama import Conversation, Llama

llama: Llama
chat: Conversation
document: str
question: list[int]
prompts: list[str]
"""
"""What the prose around a page's blocks speaks of."""
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def public_objects() -> dict[str, Any]:
    """What users may name, by the name."""
    convert = edgellama.convert
    names = {name: getattr(edgellama, name) for name in edgellama.__all__}
    return names | {"convert": convert.convert, "plan": convert.plan}


def docstring_examples() -> Iterator[tuple[str, str]]:
    """The code of every example in a public docstring, with the name of what it explains."""
    parser = doctest.DocTestParser()
    for name, value in public_objects().items():
        members = {name: value}
        if inspect.isclass(value):
            members |= {f"{name}.{key}": member for key, member in inspect.getmembers(value)}
        for key, member in members.items():
            is_documented = callable(member) or isinstance(member, property)
            examples = parser.get_examples(inspect.getdoc(member) or "" if is_documented else "")
            if examples:
                yield key, "".join(example.source for example in examples)


def page_examples() -> Iterator[tuple[str, str]]:
    """Every block of Python in the pages, with its page and number."""
    for page in PAGES:
        for number, code in enumerate(PYTHON_BLOCK.findall(page.read_text("utf-8"))):
            yield f"{page.stem}.{number}", code


def write_examples(folder: Path) -> list[str]:
    """Write every example as a module of its own into ``folder``; the modules' names."""
    names = []
    for name, code in docstring_examples():
        names.append(_write(folder, name, code))
    for name, code in page_examples():
        names.append(_write(folder, name, PREAMBLE + code))
    return names


def _write(folder: Path, name: str, code: str) -> str:
    module = "example_" + re.sub(r"\W", "_", name)
    folder.joinpath(f"{module}.py").write_text(code, "utf-8")
    return module


def check_examples(folder: Path) -> tuple[int, str]:
    """mypy's exit code and report about all examples, written into ``folder``; it is strict."""
    command = [sys.executable, "-m", "mypy"]
    for name in write_examples(folder):
        command += ["-m", name]
    command += ["--config-file", str(REPOSITORY / "pyproject.toml")]
    command += ["--cache-dir", str(REPOSITORY / ".mypy_cache")]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        exit_code, findings = check_examples(Path(temporary))
    print(findings, end="")
    sys.exit(exit_code)
