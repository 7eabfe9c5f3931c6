"""Who may import whom: read from the source, so that an import inside a function counts too."""

import ast
import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import REPOSITORY

FOLDERS = {
    "quant": "edgellama.quant",
    "kernels_cpu": "edgellama.kernels_cpu",
    "convert": "edgellama.convert",
    "edgellama": "edgellama",
}
# What each room may import besides itself; files that lie beside the rooms of a folder are a room
# of the folder's name. The order is the direction in which data flows, from the bottom up.
QUANT = {"quant", "quant.gguf", "quant.vocabulary"}
ENGINE = {"engine", "engine.pages", "engine.scheduling", "engine.weights"}
"""What most of those see of an engine who have it compute texts."""
ALLOWED: dict[str, set[str]] = {
    "quant": {"quant.gguf"},
    "quant.gguf": {"quant"},
    "quant.vocabulary": {"quant", "quant.gguf"},
    "kernels_cpu": QUANT,
    "kernels_cpu.machine": QUANT,
    "kernels_cpu.simd": {"kernels_cpu", "kernels_cpu.machine"},
    "kernels_cpu.compiling": {"kernels_cpu", "kernels_cpu.machine", "kernels_cpu.simd", *QUANT},
    "kernels_cpu.threads": {"kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.simd", *QUANT},
    "kernels_cpu.formats": {"kernels_cpu", "kernels_cpu.simd", "quant"},
    "kernels_cpu.rows": {
        *("kernels_cpu", "kernels_cpu.formats", "kernels_cpu.simd", "kernels_cpu.threads"),
        "quant",
    },
    "kernels_cpu.matrices": {
        *("kernels_cpu", "kernels_cpu.formats", "kernels_cpu.rows", "kernels_cpu.simd"),
        *("kernels_cpu.threads", *QUANT),
    },
    "kernels_cpu.attention": {
        *("kernels_cpu", "kernels_cpu.matrices", "kernels_cpu.simd", "kernels_cpu.threads"),
    },
    "kernels_cpu.sampling": {
        *("kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.simd", "kernels_cpu.threads"),
    },
    "kernels_cpu.quantizers": {
        *("kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.simd", "kernels_cpu.threads"),
        *QUANT,
    },
    "convert.sources": QUANT,
    "convert.vocabulary": {"convert", "convert.sources", *QUANT},
    "convert.dequantize": {"convert.sources", *QUANT},
    "convert.model": {
        *("convert", "convert.dequantize", "convert.sources", "convert.vocabulary", *QUANT),
    },
    "convert.planning": {"convert", "convert.model", "convert.sources", *QUANT},
    "convert.output": {
        *("convert", "convert.planning", "convert.sources", "kernels_cpu.quantizers", *QUANT),
    },
    "convert.adapter": {"convert.model", "convert.output", "convert.sources", *QUANT},
    "convert": {
        *("convert.output", "convert.planning", "convert.sources", "kernels_cpu.machine", *QUANT),
    },
    "cuda": {
        *("kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.machine", "kernels_cpu.simd"),
        *QUANT,
    },
    "engine.weights": {"kernels_cpu", "kernels_cpu.compiling", *QUANT},
    "engine.pages": {"cuda", "engine.weights", "kernels_cpu", *QUANT},
    "engine.saved": {"engine.pages", "kernels_cpu", *QUANT},
    "engine.program": {
        *("engine.pages", "engine.weights", "kernels_cpu", "kernels_cpu.compiling"),
        *("kernels_cpu.machine", "kernels_cpu.threads", *QUANT),
    },
    "engine.steps": {
        *("engine.pages", "engine.program", "engine.weights", "kernels_cpu"),
        *("kernels_cpu.machine", *QUANT),
    },
    "engine.scheduling": {
        *("engine.pages", "engine.program", "engine.steps", "kernels_cpu", *QUANT),
    },
    "engine.running": {
        *("engine.pages", "engine.program", "engine.scheduling", "engine.steps"),
        *("engine.weights", "kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.machine"),
        *("kernels_cpu.sampling", "kernels_cpu.threads", *QUANT),
    },
    "engine.card": {
        *("cuda", "engine.pages", "engine.program", "engine.running", "engine.scheduling"),
        *("engine.steps", "engine.weights", "kernels_cpu", "kernels_cpu.compiling"),
        *("kernels_cpu.machine", *QUANT),
    },
    "engine": {
        *("engine.card", "engine.pages", "engine.program", "engine.running", "engine.saved"),
        *("engine.scheduling", "engine.steps", "engine.weights", "kernels_cpu"),
        *("kernels_cpu.compiling", "kernels_cpu.machine", "kernels_cpu.sampling", *QUANT),
    },
    "text": QUANT,
    "constraints": {"sampling", "text", *QUANT},
    "tools": {"constraints", "text", *QUANT},
    "sampling": {"kernels_cpu.compiling", "kernels_cpu.sampling", *QUANT},
    "generation.concurrency": {
        *("engine", "engine.pages", "engine.running", "engine.scheduling", *QUANT),
    },
    "generation.speculation": {"engine", "engine.scheduling", "text", *QUANT},
    "generation": {
        *("constraints", "engine.scheduling", "engine.weights", "generation.speculation"),
        *("sampling", "text", "tools", *QUANT),
    },
    "generation.decoding": {
        *("constraints", "engine.program", "engine.steps", "generation"),
        *("generation.speculation", "sampling", "text", "tools", *ENGINE, *QUANT),
    },
    "generation.sessions": {
        *("generation", "generation.concurrency", "generation.decoding"),
        *("generation.speculation", "text", *ENGINE, *QUANT),
    },
    "generation.chat": {
        *("engine.pages", "engine.scheduling", "generation", "generation.sessions"),
        *("sampling", "text", "tools", *QUANT),
    },
    "generation.judging": {
        *("generation", "generation.chat", "generation.concurrency", "generation.decoding"),
        *("sampling", "text", *ENGINE, *QUANT),
    },
    "generation.batches": {
        *("engine", "engine.pages", "engine.scheduling", "generation", "generation.chat"),
        *("generation.concurrency", "generation.decoding", "generation.speculation"),
        *("sampling", "text", *QUANT),
    },
    "models": {"convert", "convert.output", "kernels_cpu.machine", *QUANT},
    "measure": {
        *("cuda", "engine.card", "engine.program", "engine.running", "engine.steps"),
        *("generation.sessions", "generation.speculation", "sampling", "text", "kernels_cpu"),
        *("kernels_cpu.machine", "kernels_cpu.threads", *ENGINE, *QUANT),
    },
    "server": {
        *("", "constraints", "generation", "generation.chat", "generation.judging"),
        *("generation.sessions", "measure", "models", "sampling", "text", "tools"),
        *("kernels_cpu.machine", *QUANT),
    },
    "cluster.stages": {
        *("engine.program", "engine.saved", "engine.steps", "sampling", "kernels_cpu"),
        *("kernels_cpu.compiling", *ENGINE, *QUANT),
    },
    "cluster.connections": {"cluster.stages", "sampling"},
    "cluster.driver": {
        *("cluster.stages", "engine.program", "engine.saved", "engine.steps", "sampling"),
        *("kernels_cpu", "kernels_cpu.compiling", "kernels_cpu.sampling", *ENGINE, *QUANT),
    },
    "cluster": {
        *("", "cluster.connections", "cluster.driver", "cluster.stages", "generation.batches"),
        *("engine", "engine.pages", "engine.weights", "generation.speculation", "measure"),
        *("models", "server", "text", *QUANT),
    },
    "": {
        *("engine.card", "engine.program", "generation", "generation.batches"),
        *("generation.chat", "generation.concurrency", "generation.judging"),
        *("generation.sessions", "generation.speculation", "measure", "models", "sampling"),
        *("text", "tools", "kernels_cpu.machine", *ENGINE, *QUANT),
    },
}
FLOORS = {
    "edgellama.cli": ("application", "commands", "chat", "inputs", "options", "output", ""),
    "edgellama.server": (
        *("", "llama_cpp", "judging", "ollama", "openai", "anthropic", "browser"),
        *("answers", "models", "stores", "connections", "fields", "settings", "errors"),
    ),
}
"""Folders and files of a room from the top down; the empty name is all that has no other."""
PUBLIC_NAMES = "edgellama"
"""``import edgellama``, for annotations: ``edgellama.Batch`` is imported once it is asked for."""
UNBOUND = ("cli", "pyinstaller", "__main__")
"""Rooms that may import every other."""
# Third-party packages that are slow to import, or bound to one place by design: where they may be.
PLACES = {
    "llvmlite": re.compile(
        r"edgellama\.(kernels_cpu\.(simd\.\w+|compiling\.(front_end|jit))"
        r"|cuda\.(kernels\.\w+|ptx_target))"
    ),
    "numba": re.compile(r"edgellama\.(kernels_cpu(\.\w+)*|cuda\.(kernels\.\w+|ptx_target))"),
    "gguf": re.compile(r"edgellama\.convert(\.\w+)*"),
    "ray": re.compile(r"edgellama\.cluster\.\w+"),
    "starlette": re.compile(r"edgellama\.(server(\.\w+)+|cluster\.ray_serve)"),
    "uvicorn": re.compile(r"edgellama\.server(\.\w+)+"),
    "msgspec": re.compile(
        r"edgellama\.(server(\.\w+)+|constraints\.answer_types|cluster\.(affinity|stream_replay))"
    ),
    **dict.fromkeys(("llguidance", "pydantic"), re.compile(r"edgellama\.constraints\.\w+")),
}


def module_of(path: Path) -> str:
    """The dotted name under which the file ``path`` is imported."""
    folder, *rest = path.relative_to(REPOSITORY).with_suffix("").parts
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


def room_of(name: str) -> str | None:
    """The room of ours that a dotted name belongs to; None for another project's."""
    if not is_under(name, "edgellama"):
        return None
    parts = name.split(".")[1:]
    rooms = (".".join(parts[:length]) for length in (2, 1))
    return next((room for room in rooms if room in ALLOWED or room in UNBOUND), "")


@functools.cache
def imports() -> list[tuple[str, str]]:
    """Every (module, imported name) of the source folders."""
    found = []
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            module = module_of(path)
            names = imports_in(path.read_text("utf-8"), module, path.name == "__init__.py")
            found += [(module, name) for name in names]
    return found


def broken_rules(pairs: list[tuple[str, str]]) -> list[str]:
    """Each import that no rule allows, with the rule."""
    broken = []
    for module, name in pairs:
        if name == PUBLIC_NAMES:
            continue
        own, other = room_of(module), room_of(name)
        if own not in UNBOUND and other not in (None, own):
            allowed = ALLOWED[own or ""]
            if other not in allowed:
                broken.append(f"{module} imports {name}: {own} may import {sorted(allowed)}")
        if name.split(".")[0] in FOLDERS and other is None:
            broken.append(f"{module} imports {name}: say edgellama.{name}")
        place = PLACES.get(name.split(".")[0])
        if place is not None and not place.fullmatch(module):
            broken.append(f"{module} imports {name}: it belongs to {place.pattern}")
    return broken


def unused_rules(pairs: list[tuple[str, str]]) -> list[str]:
    """Each room that another may import without doing so; the files of QUANT count as one."""
    used = {(room_of(module), room_of(name)) for module, name in pairs}
    unused = []
    for own, allowed in ALLOWED.items():
        others = {other for other in allowed if (own, other) not in used}
        if others & QUANT != allowed & QUANT:
            others -= QUANT
        unused += [f"{own} does not import {other}" for other in sorted(others)]
    return unused


def import_circles(pairs: list[tuple[str, str]]) -> list[str]:
    """Modules that cannot be told apart by their imports, late ones included."""
    modules = {module for module, _ in pairs}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, name in pairs:
        target = name if name in modules else name.rpartition(".")[0]
        if name != PUBLIC_NAMES and target in modules and target != module:
            graph[module].add(target)
    while free := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for module in free:
            del graph[module]
    while loose := graph.keys() - set[str]().union(*graph.values()):
        for module in loose:
            del graph[module]
    return sorted(graph)


def test_the_source_keeps_the_rules() -> None:
    """No file imports a layer above it, and heavy imports stay where they belong."""
    pairs = imports()
    assert {room_of(module) for module, _ in pairs} == {*ALLOWED, *UNBOUND}
    assert broken_rules(pairs) == []


def test_every_rule_is_used() -> None:
    """No room may import what it does not need."""
    assert unused_rules(imports()) == []


def test_an_unused_rule_is_found() -> None:
    """An import that is gone leaves a rule behind; one of QUANT stands for all of it."""
    pairs = [pair for pair in imports() if room_of(pair[0]) != "tools"]
    pairs += [("edgellama.tools.tool", f"edgellama.{name}") for name in ("text.x", "quant.x")]
    assert unused_rules(pairs) == ["tools does not import constraints"]


def test_no_two_files_import_each_other() -> None:
    """The imports of all files, late ones included, have no circle."""
    assert import_circles(imports()) == []


def floor_of(module: str, room: str) -> int:
    """How far down a module of a room stands."""
    names = module.removeprefix(room).split(".")[1:]
    floors = FLOORS[room]
    return floors.index(names[0] if names[0] in floors else "") if names else 0


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_of_floors_imports_downwards(room: str) -> None:
    """A file of a room imports nothing of a floor above its own."""
    pairs = imports()
    modules = {module for module, _ in pairs if is_under(module, room)}
    ends = ((own, other if other in modules else other.rpartition(".")[0]) for own, other in pairs)
    found = [(own, other) for own, other in ends if own in modules and other in modules]
    assert found
    rising = [ends for ends in found if floor_of(ends[0], room) > floor_of(ends[1], room)]
    assert rising == []


def uses_of_public_names(source: str) -> tuple[list[int], list[int]]:
    """Lines that read ``edgellama.NAME``: in annotations, and elsewhere."""
    in_annotations, elsewhere = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == PUBLIC_NAMES:
            elsewhere.add(node)
        written = getattr(node, "annotation", None), getattr(node, "returns", None)
        for annotation in filter(None, written):
            in_annotations |= set(ast.walk(annotation))
    return (
        [node.lineno for node in elsewhere & in_annotations],
        [node.lineno for node in elsewhere - in_annotations],
    )


def test_public_names_are_for_annotations_alone() -> None:
    """What a module below the public names has of them stands in annotations, read later."""
    for module, name in imports():
        if name == PUBLIC_NAMES and room_of(module) not in UNBOUND:
            path = Path(str(find_spec(module).origin))
            annotated, run = uses_of_public_names(path.read_text("utf-8"))
            assert annotated and not run, f"{module}, lines {run}"


def test_a_public_name_that_runs_is_found() -> None:
    """A name that is called is told from one in an annotation."""
    source = "import edgellama\ndef f(a: edgellama.Tool) -> edgellama.Batch:\n    edgellama.pull(a)"
    assert uses_of_public_names(source) == ([2, 2], [3])


def test_a_circle_is_found() -> None:
    """Two modules that import each other are named, and those before and behind them are not."""
    pairs = [("a", "b.f"), ("b", "c.g"), ("c", "b.h"), ("c", "d.i"), ("d", "json.loads")]
    assert import_circles(pairs) == ["b", "c"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgellama.quant.formats", "from edgellama.engine import engine"),
        ("edgellama.quant.formats", "import edgellama.kernels_cpu.compiling.jit"),
        ("edgellama.quant.formats", "from ..kernels_cpu import machine"),
        ("edgellama.quant.formats", "def f():\n    import numba"),
        ("edgellama.quant.formats", "from quant import errors"),
        ("edgellama.kernels_cpu.compiling.jit", "from edgellama.engine.engine import Engine"),
        ("edgellama.convert.pipeline", "from edgellama.engine.engine import Engine"),
        ("edgellama.convert.pipeline", "import numba"),
        ("edgellama.kernels_cpu.quantizers.row_codec", "from edgellama.convert import pipeline"),
        ("edgellama.engine.engine", "from edgellama.convert import pipeline"),
        ("edgellama.engine.engine", "from edgellama.text import tokenizer"),
        ("edgellama.engine.pages.kv_cache", "from ...generation.session import Session"),
        ("edgellama.engine.pages.kv_cache", "from edgellama.engine.steps.step import StepRunner"),
        ("edgellama.engine.steps.step", "from ..card.step import CardStep"),
        ("edgellama.engine.running.step_runs", "from edgellama.engine.engine import Engine"),
        ("edgellama.generation.sessions.session", "from edgellama.engine.card import placement"),
        ("edgellama.engine.engine", "from llvmlite import ir"),
        ("edgellama.kernels_cpu.matrices.gemv", "from llvmlite import ir"),
        ("edgellama.quant.gguf.file", "import gguf"),
        ("edgellama.text.tokenizer.bpe", "from edgellama.engine.engine import Engine"),
        ("edgellama.text.tokenizer.bpe", "from ...engine import Engine"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str) -> None:
    """An import across a rule is found however it is written."""
    names = imports_in(source, module, is_package=False)
    assert broken_rules([(module, name) for name in names]) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgellama.cli.commands.convert", "from edgellama.convert import pipeline"),
        ("edgellama.models.checkpoints", "from edgellama.convert import convert"),
        (
            "edgellama.convert.output.row_work",
            "from edgellama.kernels_cpu.quantizers.row_codec import RowCodec",
        ),
        ("edgellama.convert.output.writer", "import gguf"),
        ("edgellama.engine.running.machinery", "from edgellama.kernels_cpu.threads import team"),
        ("edgellama.engine.steps.step", "from edgellama.engine.pages.kv_cache import KVCache"),
        ("edgellama.kernels_cpu.simd.vectors", "from llvmlite import ir"),
        ("edgellama.kernels_cpu.simd.tiles", "from ..machine import cpu"),
        ("edgellama.kernels_cpu.matrices.gemv", "from numba import njit"),
        ("edgellama.generation.sessions.session", "import json"),
    ],
)
def test_an_allowed_import_is_not_found(module: str, source: str) -> None:
    """Imports that the rules allow are let through."""
    names = imports_in(source, module, is_package=False)
    assert broken_rules([(module, name) for name in names]) == []
