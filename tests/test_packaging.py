"""What an installation holds, and what type checkers see of it, for both kinds of install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import REPOSITORY
from typecheck import LINKED

import edgellama
from edgellama.cuda.ptx_text import card_source_hash
from edgellama.kernels_cpu.compiling.source_hash import BOUND_NAME, source_hash

USER_FILE = """
from edgellama import Conversation, Llama, __version__
from edgellama.quant.errors import EdgellamaError

def ask(llama: Llama, question: str) -> str:
    with llama.chat(messages=[{"role": "user", "content": question}], temperature=0.5) as chat:
        chat.messages = [*chat.messages, {"role": "assistant", "content": "I see."}]
        try:
            return chat.send([{"type": "text", "text": __version__}], max_tokens=8).text
        except EdgellamaError as error:
            return str(error)

def misuse(llama: Llama, chat: Conversation) -> None:
    llama.generate(7)
    llama.chat(temprature=0)
    chat.send("x", max_tokens="many")
"""
COMPLAINTS = (
    '14: error: Argument 1 to "generate" of "Llama" has incompatible type "int"',
    '15: error: Unexpected keyword argument "temprature" for "chat" of "Llama"',
    '16: error: Argument "max_tokens" to "send" of "Conversation" has incompatible type "str"',
)


def copy_checkout(folder: Path, *, with_links: bool) -> Path:
    """A copy of what git has of the sources; without links, files with their targets' names."""
    folder.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml", "setup.py"):
        shutil.copy(REPOSITORY / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("edgellama", *LINKED):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=ignored)
    for name in () if with_links else LINKED:
        link = folder / "edgellama" / name
        link.unlink()
        link.write_text(f"../{name}", "utf-8")
    return folder


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    """Run pip for an interpreter; builds use the setuptools of the test extra, fetched once."""
    start = [sys.executable, "-m", "pip", "--python", python]
    command = [*start, arguments[0], "-q", "--no-deps", "--no-build-isolation", *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def source_names() -> set[str]:
    """Every file that a wheel must have, by its place below the import path."""
    names = set()
    for top in ("edgellama", *LINKED):
        for path in (REPOSITORY / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                place = path.relative_to(REPOSITORY).as_posix()
                names.add(place if top == "edgellama" else f"edgellama/{place}")
    return names


@pytest.mark.parametrize("extra", ["server", "ray"])
def test_what_serves_has_what_schemas_and_tools_need(extra: str) -> None:
    """Every protocol of the server offers both; agents send them with each request."""
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    needed = {each for each in extras["grammar"] if not each.startswith("docstring_parser")}
    assert needed <= {*extras[extra]}


@pytest.mark.parametrize("with_links", [True, False], ids=["links", "no links"])
def test_a_wheel_has_every_file(with_links: bool, tmp_path: Path) -> None:
    """Whether a checkout has the links or not, its wheel holds the same sources, each once."""
    checkout = copy_checkout(tmp_path / "checkout", with_links=with_links)
    pip("wheel", "-w", tmp_path, checkout)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"edgellama-{edgellama.__version__}-")
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert len(set(names)) == len(names)
    bound = {f"edgellama/kernels_cpu/{BOUND_NAME}": source_hash(),
             f"edgellama/cuda/{BOUND_NAME}": card_source_hash()}  # fmt: skip
    assert {name for name in names if ".dist-info/" not in name} == {*source_names(), *bound}
    assert {name: archive.read(name).decode() for name in bound} == bound


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True], ids=["pip install .", "pip install -e ."])
def test_type_checkers_see_an_install(editable: bool, tmp_path: Path) -> None:
    """mypy --strict on a user's file finds what is wrong in it and nothing else."""
    checkout = copy_checkout(tmp_path / "checkout", with_links=True)
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment, "--without-pip"], check=True)
    python = next(environment.glob("[bS]*/python*"))
    (site,) = environment.rglob("site-packages")
    # What edgellama needs is there, as after an install with dependencies.
    folders = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(folders), "utf-8")
    target = ["install", *(["-e"] if editable else []), checkout]
    pip(*target, python=python)
    user = tmp_path / "user"
    user.mkdir()
    (user / "app.py").write_text(USER_FILE, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "app.py"]
    result = subprocess.run(
        command, cwd=user, capture_output=True, text=True, check=False,
        env={**os.environ, "MYPY_CACHE_DIR": str(user / "cache")},
    )  # fmt: skip
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(COMPLAINTS), result.stdout
    for line, complaint in zip(errors, COMPLAINTS, strict=True):
        assert line.startswith(f"app.py:{complaint}")
