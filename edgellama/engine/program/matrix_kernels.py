"""Chooses the kernel that multiplies a matrix, and how many of its rows a thread takes at a time.

``row_ops`` and ``llama_program`` lay out its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.engine.program.step_values import Batch
from edgellama.engine.weights.memory import round_up
from edgellama.engine.weights.weights import Matrix
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.formats import FORMATS_BY_NAME

TILES: Mapping[Batch, int] = MappingProxyType({"two": 2, "four": 4, "eight": 8})
"""Tokens that a kernel for a few handles at a time."""
RECORD_TILES: Mapping[Batch, int] = MappingProxyType({"one": 1, "four_alike": 4, "eight_alike": 8})
"""The same of kernels that read a token as the one for a single token does."""
PANEL_ROWS = 16
"""Rows that short steps take together on the widest tier, and a multiple of others'."""
MIN_CHUNK_BYTES, MAX_CHUNKS = 3 << 16, 8
"""Of a matrix, for each thread: the start of a chunk is read with nothing asked for ahead."""


def kernel_of(matrix: Matrix, batch: Batch, is_exact: bool) -> Kernel:
    """Its products add up in the order of those with many tokens where steps are exact."""
    if not matrix.is_quantized:
        family = "gemm" if takes_tiles(batch, is_exact) else "gemv"
        return Kernel(family, (matrix.format_name,))
    if batch in TILES:
        return Kernel("skinny", (matrix.format_name, TILES[batch]))
    if batch in RECORD_TILES:
        most = 4 if FORMATS_BY_NAME[matrix.format_name].is_super_block else 8
        tile = min(RECORD_TILES[batch], most)
        return Kernel("gemv", (matrix.format_name,) if tile == 1 else (matrix.format_name, tile))
    return Kernel("gemm", (matrix.format_name,))


def takes_tiles(batch: Batch, is_exact: bool) -> bool:
    """Whether matrices of floats are multiplied with whole tiles of tokens."""
    return batch == "many" or is_exact


def layout_of(batch: Batch) -> str:
    """How int8 activations lie, of ``signatures.LAYOUTS``."""
    return "records" if batch in RECORD_TILES else "in_order"


def chunk_rows(matrix: Matrix, num_threads: int) -> int:
    """Rows handed out at a time: whole panels, the chunks alike for each thread, long."""
    share_bytes = matrix.num_rows * matrix.row_bytes // num_threads
    num_chunks = min(max(1, share_bytes // MIN_CHUNK_BYTES), MAX_CHUNKS) * num_threads
    return round_up(-(-matrix.num_rows // num_chunks), PANEL_ROWS)
