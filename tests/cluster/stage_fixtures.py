"""A tiny model of four layers, and the engines of one process that stages are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.stage_harness import MODEL
from reference.tiny_models import write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.quant.gguf.file import GGUFFile


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A tiny model of four layers."""
    with GGUFFile(write_tiny_llama(tmp_path_factory.mktemp("stages") / "tiny.gguf", MODEL)) as file:
        yield file


@pytest.fixture(scope="module", params=[True, False], ids=["exact", "fast"])
def whole(request: pytest.FixtureRequest, file: GGUFFile) -> Iterator[tuple[Engine, bool]]:
    """The same model in one process, and whether it is exact."""
    with Engine(file, num_threads=1, exact=request.param) as engine:
        yield engine, request.param


@pytest.fixture(scope="module")
def exact(file: GGUFFile) -> Iterator[Engine]:
    """The same model in one process, with the same bits in any step."""
    with Engine(file, num_threads=1, exact=True) as engine:
        yield engine
