"""Who may import whom: read from the source, so that an import inside a function counts too."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "quant": "edgellama.quant",
    "kernels_cpu": "edgellama.kernels_cpu",
    "convert": "edgellama.convert",
    "edgellama": "edgellama",
}
# What a layer may import besides itself.
ALLOWED = {
    "edgellama.quant": set[str](),
    "edgellama.kernels_cpu": {"edgellama.quant"},
    "edgellama.convert": {"edgellama.quant", "edgellama.kernels_cpu"},
    "edgellama": {"edgellama.quant", "edgellama.kernels_cpu"},
}
# Where the converter may be called from.
CONVERTING = ("edgellama.cli", "edgellama.checkpoints")
LAYERS = [layer for layer in ALLOWED if layer != "edgellama"]
ENGINE_MODULES = ("engine", "program", "weights", "kv_cache", "rope")
TEXT_MODULES = ("tokenizer", "chat", "chat_template", "session", "llama", "cli", "models")
# Third-party packages that are slow to import, or bound to one place by design: where they may be.
PLACES = {
    "llvmlite": re.compile(r"edgellama\.kernels_cpu\.(simd\w*|jit|code_cache|compile_worker|cpu)"),
    "numba": re.compile(r"edgellama\.kernels_cpu(\.\w+)*"),
    "gguf": re.compile(r"edgellama\.convert(\.\w+)*"),
}


def module_of(path: Path) -> str:
    """The dotted name under which the file ``path`` is imported."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    names = [name for name in rest if name != "__init__"]
    return ".".join([FOLDERS[folder], *names])


def imports_in(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that ``source`` imports; ``from a import b`` gives a.b, perhaps a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            keep = len(parts) - node.level + (1 if is_package else 0)
            prefix = parts[:keep] if node.level else []
            base = ".".join([*prefix, *(node.module or "").split(".")]).strip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_under(name: str, package: str) -> bool:
    """Whether ``name`` is ``package`` or inside it."""
    return name == package or name.startswith(package + ".")


def layer_of(name: str) -> str | None:
    """The layer of ours that a dotted name belongs to; None for another project's."""
    if not is_under(name, "edgellama"):
        return None
    return next((layer for layer in LAYERS if is_under(name, layer)), "edgellama")


def imports() -> list[tuple[str, str]]:
    """Every (module, imported name) of the source folders."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = module_of(path)
            names = imports_in(path.read_text("utf-8"), module, path.name == "__init__.py")
            found += [(module, name) for name in names]
    return found


def broken_rules(pairs: list[tuple[str, str]]) -> list[str]:
    """Each import that no rule allows, with the rule."""
    broken = []
    for module, name in pairs:
        own, other = layer_of(module), layer_of(name)
        may_convert = any(is_under(module, place) for place in CONVERTING)
        allowed = ALLOWED[own or ""] | ({"edgellama.convert"} if may_convert else set())
        if other not in (None, own) and other not in allowed:
            broken.append(f"{module} imports {name}: {own} may import {sorted(allowed)}")
        if name.split(".")[0] in FOLDERS and other is None:
            broken.append(f"{module} imports {name}: say edgellama.{name}")
        place = PLACES.get(name.split(".")[0])
        if place is not None and not place.fullmatch(module):
            broken.append(f"{module} imports {name}: it belongs to {place.pattern}")
        if any(is_under(module, f"edgellama.{engine}") for engine in ENGINE_MODULES) and any(
            is_under(name, f"edgellama.{text}") for text in TEXT_MODULES
        ):
            broken.append(f"{module} imports {name}: the engine knows no text")
        if is_under(module, "edgellama.tokenizer") and any(
            is_under(name, f"edgellama.{engine}") for engine in (*ENGINE_MODULES, "kernels_cpu")
        ):
            broken.append(f"{module} imports {name}: the tokenizer knows no engine")
    return broken


def test_the_source_keeps_the_rules() -> None:
    """No file imports a layer above it, and heavy imports stay where they belong."""
    pairs = imports()
    assert {layer_of(module) for module, _ in pairs} >= {"edgellama", "edgellama.quant"}
    assert broken_rules(pairs) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgellama.quant.formats", "from edgellama import config"),
        ("edgellama.quant.formats", "import edgellama.kernels_cpu.jit"),
        ("edgellama.quant.formats", "from ..kernels_cpu import jit"),
        ("edgellama.quant.formats", "def f():\n    import numba"),
        ("edgellama.quant.formats", "from quant import errors"),
        ("edgellama.kernels_cpu.jit", "from edgellama.engine import Engine"),
        ("edgellama.convert.pipeline", "from edgellama.engine import Engine"),
        ("edgellama.convert.pipeline", "import numba"),
        ("edgellama.kernels_cpu.row_codec", "from edgellama.convert import pipeline"),
        ("edgellama.engine", "from edgellama.convert import pipeline"),
        ("edgellama.engine", "from edgellama import tokenizer"),
        ("edgellama.kv_cache", "from .session import Session"),
        ("edgellama.engine", "from llvmlite import ir"),
        ("edgellama.kernels_cpu.gemv", "from llvmlite import ir"),
        ("edgellama.quant.gguf_file", "import gguf"),
        ("edgellama.tokenizer.bpe", "from edgellama.engine import Engine"),
        ("edgellama.tokenizer.bpe", "from ..engine import Engine"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str) -> None:
    """An import across a rule is found however it is written."""
    names = imports_in(source, module, is_package=False)
    assert broken_rules([(module, name) for name in names]) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgellama.cli.convert", "from edgellama.convert import pipeline"),
        ("edgellama.checkpoints", "from edgellama.convert import convert"),
        ("edgellama.convert.pipeline", "from edgellama.kernels_cpu.row_codec import RowCodec"),
        ("edgellama.convert.output.writer", "import gguf"),
        ("edgellama.engine", "from edgellama.kernels_cpu import executor"),
        ("edgellama.kernels_cpu.simd", "from llvmlite import ir"),
        ("edgellama.kernels_cpu.simd_tiles", "from . import cpu"),
        ("edgellama.kernels_cpu.gemv", "from numba import njit"),
        ("edgellama.session", "import json"),
    ],
)
def test_an_allowed_import_is_not_found(module: str, source: str) -> None:
    """Imports that the rules allow are let through."""
    names = imports_in(source, module, is_package=False)
    assert broken_rules([(module, name) for name in names]) == []
