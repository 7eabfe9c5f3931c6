"""The pages on how edgellama works name files that are there, and draw what is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import REPOSITORY
from test_import_rules import ALLOWED, imports, room_of

PAGES = [
    REPOSITORY / "ARCHITECTURE.md",
    *(REPOSITORY / "docs" / f"{name}.md" for name in ("kernels", "server-inside", "decisions")),
]
PICTURE = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHARED = {"convert/options.py", "convert/imatrix.py"}
"""Files that belong to several rooms."""
LABEL = re.compile(r"(?:^|\| +)((?:edgellama|convert|kernels_cpu|quant)(?:/[\w.]+){0,2})(?= |$)")


def named_paths(line: str) -> Iterator[tuple[str, bool]]:
    """Every path in backticks, and whether it is there: below the root or a folder before it."""
    folders = [REPOSITORY]
    for name in re.findall(r"`([\w./-]+(?:/|\.(?:py|md|jinja)))`", line):
        yield name, any((folder / name).exists() for folder in folders)
        if name.endswith("/"):
            folders.append(REPOSITORY / name)


def floors() -> dict[str, int]:
    """The rooms of the picture, and files that stand for one, with their line from the top."""
    (picture,) = PICTURE.findall(PAGES[0].read_text("utf-8"))
    found = [(label, number) for number, line in enumerate(picture.splitlines())
             for label in LABEL.findall(line)]  # fmt: skip
    assert len(found) == len(dict(found))
    return dict(found)


def label_of(module: str) -> str:
    """The picture's name for the room of a module."""
    room = room_of(module)
    if room == "":
        return "edgellama/llama.py"
    if module == "edgellama.convert":
        return "convert/pipeline.py"
    if room == "convert":
        return f"convert/{module.split('.')[2]}.py"
    if room == "kernels_cpu":
        return f"kernels_cpu/{module.split('.')[2]}.py"
    if room in ("quant", "quant.gguf"):
        return "quant"
    assert room is not None
    folder = room.replace(".", "/")
    is_of_top_level = folder.startswith(("convert/", "kernels_cpu/", "quant/"))
    return folder if is_of_top_level else f"edgellama/{folder}"


def module_in(name: str, modules: set[str]) -> str | None:
    """The module of ours that an imported name is, or is in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    """Every path that a page names is a file or folder of the repository."""
    paths = [path for line in page.read_text("utf-8").splitlines() for path in named_paths(line)]
    assert paths
    assert [name for name, exists in paths if not exists] == []


def test_the_picture_shows_the_imports() -> None:
    """Every room is in the picture, and imports only what stands below it."""
    lines = floors()
    rooms = {"edgellama/cli", "convert/pipeline.py", "edgellama/llama.py", "quant"}
    folders = {*ALLOWED} - {"", "convert", "kernels_cpu", "quant", "quant.gguf"}
    assert rooms | {label_of(f"edgellama.{folder}") for folder in folders} <= lines.keys()
    pairs = imports()
    modules = {module for module, _ in pairs}
    wrong = set()
    for module, name in pairs:
        target = module_in(name, modules)
        if target in (None, "edgellama") or room_of(module) in ("pyinstaller", "__main__"):
            continue
        own, other = label_of(module), label_of(str(target))
        if own == other or not SHARED.isdisjoint({own, other}):
            continue
        if lines[own] >= lines[other]:
            wrong.add((own, other))
    assert wrong == set()


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("`quant/formats.py`, `quant/gguf/`: `file.py`", []),
        ("`file.py`, `quant/gguf/`", ["file.py"]),
        ("`docs/nothing.md` and `edgellama/nowhere/`", ["docs/nothing.md", "edgellama/nowhere/"]),
    ],
)
def test_a_missing_path_is_found(line: str, missing: list[str]) -> None:
    """A path that does not exist is told from one that does."""
    assert [name for name, exists in named_paths(line) if not exists] == missing
