"""An adapter that is loaded: low-rank factors as kernels read them.

``adapter_factors`` makes them of a file. ``adapter_set`` says which texts use an adapter, and how
strongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgellama.engine.weights.weights import Matrix
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class LowRank:
    """What is added to a matrix's products: ``scale`` * b (a x).

    ``a`` (rank, columns) and ``b`` (rows, rank) have zeros up to a rank of whole vectors; ``b`` is
    of floats, and so is ``a`` unless the matrix is quantized. Of the embedding, ``a`` is a table
    (tokens, rank) of floats.
    """

    a: Matrix
    b: Matrix
    scale: float

    @property
    def rank(self) -> int:
        """Numbers between the two products."""
        return self.b.num_columns


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter of one loaded model; ``Llama.load_adapter`` makes it.

    ``name`` is its name in ``adapters=``, and ``path`` its file, whose factors take ``num_bytes``.
    ``pairs`` holds the factors by the names of the model's matrices, ``ranks`` each of their ranks
    once. ``digest`` identifies the content of the file.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2") as llama:  # doctest: +SKIP
        ...     french = llama.load_adapter("french.gguf")
        ...     french.num_matrices, french.ranks
        (210, (16,))
    """

    name: str
    path: Path
    pairs: Mapping[str, LowRank]
    ranks: tuple[int, ...]
    num_bytes: int
    digest: bytes

    @property
    def num_matrices(self) -> int:
        """How many of the model's matrices it changes."""
        return len(self.pairs)

    def __repr__(self) -> str:
        ranks = ", ".join(map(str, self.ranks))
        return f"Adapter({self.name!r}, {self.num_matrices} matrices of rank {ranks})"
