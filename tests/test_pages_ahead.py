"""Pages of weights that are mapped before a step comes to them."""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine import pages_ahead
from edgellama.engine.pages_ahead import PagesAhead, pieces
from edgellama.engine.weights import Matrix, ModelWeights, load_weights
from edgellama.models.pulling import pull
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig


def load(path: Path) -> ModelWeights:
    """The weights of a file."""
    with GGUFFile(path) as file:
        return load_weights(file, ModelConfig.from_gguf(file))


def pages_of(matrix: Matrix) -> set[int]:
    """Numbers of the pages that a matrix lies in."""
    first, last = matrix.address, matrix.address + matrix.data.nbytes - 1
    return {*range(first // mmap.PAGESIZE, last // mmap.PAGESIZE + 1)}


@pytest.mark.parametrize("gap_bytes", [0, pages_ahead.MAX_GAP_BYTES])
@pytest.mark.parametrize("piece_bytes", [mmap.PAGESIZE, pages_ahead.PIECE_BYTES])
def test_pieces_are_the_pages_of_the_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap_bytes: int, piece_bytes: int
) -> None:
    """Every page of a matrix is touched, and of no other pages than those between them."""
    monkeypatch.setattr(pages_ahead, "MAX_GAP_BYTES", gap_bytes)
    monkeypatch.setattr(pages_ahead, "PIECE_BYTES", piece_bytes)
    weights = load(write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(layers=3)))
    matrices = [layer.ffn_up for layer in weights.layers] + [weights.output]
    wanted = set().union(*map(pages_of, matrices))
    touched = {
        (piece.ctypes.data + place * piece.strides[0]) // mmap.PAGESIZE
        for piece in pieces(matrices)
        for place in range(len(piece))
    }
    assert wanted <= touched <= {*range(min(wanted), max(wanted) + 1)}
    if gap_bytes == 0:
        assert touched == wanted


def resident_bytes(path: Path) -> int:
    """Of this process's mappings of a file."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which pages are mapped")
def test_a_model_is_mapped_before_its_first_step() -> None:
    """The thread leaves no page of a small model to the first step, and holds no weights then."""
    path = pull("smollm2")
    weights = load(path)
    ahead = PagesAhead(weights, range(len(weights.layers)))
    ahead._thread.join()
    assert resident_bytes(path) > 0.9 * path.stat().st_size
    del weights
    ahead.stop(is_awaited=True)
    assert resident_bytes(path) == 0


def test_nobody_waits_for_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is stopped, the thread begins with no further piece."""
    begun, is_stopped = [], threading.Event()

    def three_pieces(matrices: Sequence[Matrix]) -> Iterator[pages_ahead.PageBytes]:
        for number in range(3):
            begun.append(number)
            yield np.zeros(1, np.uint8)
            is_stopped.wait()

    monkeypatch.setattr(pages_ahead, "pieces", three_pieces)
    weights = load(write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(layers=1)))
    ahead = PagesAhead(weights, range(1))
    ahead.stop()
    is_stopped.set()
    ahead.stop(is_awaited=True)
    assert len(begun) <= 2
