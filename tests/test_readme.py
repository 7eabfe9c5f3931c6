"""What the README, the other pages and the CI script promise is what happens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click
import pytest
from places import REPOSITORY

from edgellama.cli.application import root
from edgellama.llama import Llama

README = (REPOSITORY / "README.md").read_text("utf-8")
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
OWN_PATH = re.compile(r"(?<![\w~.])/(?:home|root|work|tmp|Users)/\S+")
INLINE_COMMAND = re.compile(r"`edgellama ([^`]+)`")
OPTION = re.compile(r"(?<!\S)--?[a-z][a-z-]*")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def code_blocks(language: str, page: str = README) -> list[str]:
    """A page's fenced blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def edgellama_commands() -> list[list[str]]:
    """Arguments of every ``edgellama`` command in the pages' shell blocks and in the help."""
    blocks = [block for page in PAGES for block in code_blocks("sh", page.read_text("utf-8"))]
    blocks += [command.help.partition("Examples:")[2] for command in all_commands() if command.help]
    return [words for block in blocks for words in commands_in(block)]


def commands_in(block: str) -> Iterator[list[str]]:
    """The arguments of each ``edgellama`` command in lines for a shell."""
    for line in re.split(r"(?<!\\)\n", block):
        shell = shlex.shlex(line, posix=True, punctuation_chars=True)
        shell.whitespace_split = True
        for is_operator, words in groupby(shell, lambda word: word in ("&&", "|", ">", "<", "&")):
            command = [] if is_operator else list(words)
            if command and Path(command[0]).name == "edgellama":
                yield command[1:]


def all_commands(group: click.Command = root) -> Iterator[click.Command]:
    """A group's commands and all below them, and the group itself."""
    yield group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from all_commands(command)


def inline_commands() -> list[str]:
    """Every ``edgellama`` command that a page's prose names, with what stands in capitals."""
    texts = [page.read_text("utf-8") for page in PAGES]
    return sorted({command for text in texts for command in INLINE_COMMAND.findall(text)})


def test_ci_runs_the_second_command() -> None:
    """.ci/run has exactly the README's test command, which is its last shell block.

    It needs no environment but the one that the first command makes. What it leaves out for
    taking long comes after it.
    """
    (command,) = code_blocks("sh")[-1].strip().splitlines()
    steps = [shlex.split(step) for step in command.split("&&")]
    assert [step[0] for step in steps] == [".venv/bin/python"] * 2
    assert steps[-1][1:] == ["-m", "pytest"]
    script = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    assert script[-3:] == ["python3 -m venv .venv", command, f"{shlex.join(steps[-1])} -m slow"]


def test_first_command_needs_nothing_but_python() -> None:
    """The README begins with one line that makes its own environment and ends in an answer."""
    (command,) = code_blocks("sh")[0].strip().splitlines()
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert all(step[0].startswith(".venv/bin/") for step in steps[1:])
    assert steps[-1][1] == "generate"


@pytest.mark.parametrize("arguments", edgellama_commands(), ids=" ".join)
def test_commands_of_pages_and_help_parse(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command line of the pages and of the help is one that the program accepts."""
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text("key")  # what an option must find there
    with root.make_context("edgellama", list(arguments)) as context:
        name, command, rest = root.resolve_command(context, list(arguments))
        assert command is not None
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", inline_commands())
def test_commands_of_the_prose_exist(line: str) -> None:
    """Every command that a page's prose names exists, and has each option that it is shown with."""
    command: click.Command = root
    known = {"--help", "--version"}
    for word in line.removeprefix("help ").split():
        if isinstance(command, click.Group) and not word.startswith("-") and not word.isupper():
            found = command.get_command(click.Context(command), word)
            assert found is not None, word
            command = found
            known |= {
                name for each in command.params for name in (*each.opts, *each.secondary_opts)
            }
    assert set(OPTION.findall(line)) - known == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quick-start", "applications", "performance"])
def test_examples_of_guides_run(name: str, smollm2_path: Path) -> None:
    """Every block of Python in a guide runs by itself, beside what the prose speaks of."""
    for code in code_blocks("python", (REPOSITORY / "docs" / f"{name}.md").read_text("utf-8")):
        with Llama(smollm2_path, context_length=512) as llama, llama.chat() as chat:
            spoken_of = {"llama": llama, "chat": chat, "document": "word " * 300}
            exec(compile(code, name, "exec"), {"__name__": name, **spoken_of})


def test_python_example_runs(smollm2_path: Path, tmp_path: Path) -> None:
    """The README's example has at most ten lines and prints what it says it does."""
    (example,) = code_blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    script = tmp_path / "example.py"
    script.write_text(example, "utf-8")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "Paris" in result.stdout.splitlines()[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link points to a file of the repository."""
    targets = LINK.findall(page.read_text("utf-8"))
    assert targets or page.name not in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
    assert [target for target in targets if not (page.parent / target).exists()] == []


def anchors(page: Path) -> set[str]:
    """What links to places of a page may name: its headings, spelled as GitHub does."""
    headings = HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    """Every link to a place of a page names one of that page's headings."""
    for target, anchor in ANCHOR.findall(page.read_text("utf-8")):
        there = (page.parent / target).resolve() if target else page
        assert there.suffix != ".md" or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_listed() -> None:
    """The table of contents of docs/ names every page."""
    contents = REPOSITORY / "docs" / "README.md"
    listed = set(LINK.findall(contents.read_text("utf-8")))
    assert {page.name for page in contents.parent.glob("*.md")} - listed == {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_path_of_one_machine(page: Path) -> None:
    """No page names a folder that only its writer has."""
    assert OWN_PATH.findall(page.read_text("utf-8")) == []
