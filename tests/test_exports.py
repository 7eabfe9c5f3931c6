"""What ``import edgellama`` offers, and what it costs."""

import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import edgellama
from edgellama.quant import errors

HEAVY = ("numpy", "numba", "llvmlite", "jinja2", "click", "rich", "tiktoken", "sentencepiece")
PROMISED = {
    "Chunk",
    "Conversation",
    "Engine",
    "GGUFFile",
    "Generation",
    "Llama",
    "SamplingOptions",
    "Session",
    "Statistics",
    "Stream",
    "Tokenizer",
    "load_tokenizer",
    "pull",
}


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout


@pytest.mark.parametrize("name", edgellama.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    """Each name can be fetched, is kept for the next time, and is listed by dir()."""
    value: Any = getattr(edgellama, name)
    assert getattr(edgellama, name) is value
    assert name in dir(edgellama)
    assert value.__name__ == name


def test_promised_names_are_exported() -> None:
    """The names of the documented API are exported, and nothing is exported twice."""
    assert set(edgellama.__all__) >= PROMISED
    assert len(set(edgellama.__all__)) == len(edgellama.__all__)


def test_every_error_is_reachable() -> None:
    """Each class of the error tree is an attribute of the package under its own name."""
    tree = [errors.EdgellamaError]
    for kind in tree:
        tree += kind.__subclasses__()
    ours = {kind for kind in tree if kind.__module__ == errors.__name__}
    assert len(ours) >= 11
    for kind in ours:
        assert getattr(edgellama, kind.__name__) is kind
        assert kind.__name__ in edgellama.__all__


def test_unknown_names_are_refused() -> None:
    """A name that does not exist is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        edgellama.nothing_of_this_name  # noqa: B018


def test_import_is_light() -> None:
    """Importing the package imports none of the libraries that it uses."""
    code = f"import sys, edgellama; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_the_api_does_not_import_numba() -> None:
    """Loading the facade, the engine and a session's modules does not import Numba."""
    code = (
        "import sys, edgellama; edgellama.Llama; edgellama.Engine; edgellama.Session;"
        "print([m for m in ('numba', 'jinja2', 'click', 'rich') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_version() -> None:
    """The package says its version without importing anything, as its metadata does."""
    code = "import sys, edgellama; print(edgellama.__version__, 'numpy' in sys.modules)"
    assert run_python(code) == f"{version('edgellama')} False\n"
