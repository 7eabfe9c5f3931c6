"""The one record of each tensor format: its name, its size, its numbers, and how it is written.

It lists every format that a GGUF file may name, including those that no kernel reads. Ids and
sizes are those of ggml. Where the bits of a block lie is known to ``kernels_cpu.formats``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from edgellama.quant.errors import ModelFileError
from edgellama.quant.records import dataclass

Writer: TypeAlias = Literal["copy", "round", "search"]
"""How rows of f32 become a format: as they are, number by number, or with scales that are
searched for."""
WRITERS = frozenset(get_args(Writer))
MAX_PACKED_SUM = (1 << 15) - 1
"""Half a group's products with int8 are added up in 16 bits."""
QUARTERS, PAIRS, IN_ORDER = 0, 1, 2
BLOCK_ORDERS = ((0, 4, 1, 5, 2, 6, 3, 7), (0, 2, 1, 3, 4, 6, 5, 7), (0, 1, 2, 3, 4, 5, 6, 7))
"""Orders in which formats hold the eight blocks of 32 weights of a super-block."""
IQ4_CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the four bits of IQ4_NL and IQ4_XS stand for, closer together around zero: ggml's
``kvalues_iq4nl``."""
MXFP4_CODEBOOK = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""The same of MXFP4: twice the numbers of four bits with two of exponent."""


@dataclass(frozen=True)
class Quants:
    """What the numbers of a block mean: weight = quant * scale + minimum.

    A quant has ``bits`` as it is multiplied, a codebook's values eight; ``group_size`` weights
    share a scale. With ``has_minimum`` a group has a minimum of its own, and else minus half
    the quants' range times the scale. ``order``: which of BLOCK_ORDERS the quants lie in; None
    where no kernel makes use of it. ``has_signs``: blocks hold magnitudes and, apart from them,
    signs; what multiplies one token gives these to the activations, and takes nothing off.
    """

    bits: int
    group_size: int
    has_minimum: bool = False
    order: int | None = None
    has_signs: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.group_size not in (16, 32):
            raise ValueError(f"impossible quants: {self!r}")
        if self.order is not None and not 0 <= self.order < len(BLOCK_ORDERS):
            raise ValueError(f"impossible order of blocks: {self!r}")

    @property
    def largest(self) -> int:
        """The largest quant, counted from 0."""
        return (1 << self.bits) - 1

    @property
    def is_wide(self) -> bool:
        """Whether quants take a whole byte, whose products with int8 do not fit 16 bits."""
        return self.bits == 8

    @property
    def centre(self) -> int:
        """What products are made without: half the range of quants.

        0 for quants with a minimum whose products fit 16 bits as they are.
        """
        sums_fit = 127 * self.largest * self.group_size // 2 <= MAX_PACKED_SUM
        return 0 if self.has_minimum and sums_fit else 1 << (self.bits - 1)


@dataclass(frozen=True)
class Format:
    """How a tensor's rows are stored: ``block_size`` elements in ``block_bytes`` bytes.

    ``quants``: of the formats that are multiplied with int8 activations. ``writers``: how rows
    can be written in it; empty for formats that only other programs know. ``fallback`` is what
    takes its place in a row that is not whole blocks of it.
    """

    name: str
    ggml_id: int
    block_size: int
    block_bytes: int
    quants: Quants | None = None
    writers: tuple[Writer, ...] = ()
    fallback: str = "F16"

    def __post_init__(self) -> None:
        if self.ggml_id < 0 or self.block_size < 1 or self.block_bytes < 1:
            raise ValueError(f"impossible format: {self!r}")
        if not WRITERS.issuperset(self.writers):
            raise ValueError(f"unknown writers: {self!r}")

    @property
    def is_float(self) -> bool:
        """Whether kernels read its numbers as floats."""
        return self.quants is None and bool(self.writers)

    @property
    def is_super_block(self) -> bool:
        """Whether its groups share factors, 256 weights at a time."""
        return self.quants is not None and self.block_size == 256

    def row_bytes(self, num_elements: int) -> int:
        """Bytes of a row of ``num_elements``; ModelFileError unless it is whole blocks."""
        num_blocks, rest = divmod(num_elements, self.block_size)
        if num_elements < 0 or rest:
            raise ModelFileError(
                f"a row of {num_elements} elements cannot be stored as {self.name}; "
                f"allowed: multiples of {self.block_size}"
            )
        return num_blocks * self.block_bytes


_TABLE = (
    Format("F32", 0, 1, 4, writers=("copy",)),
    Format("F16", 1, 1, 2, writers=("round",)),
    Format("Q4_0", 2, 32, 18, Quants(4, 32), ("round", "search")),
    Format("Q4_1", 3, 32, 20, Quants(4, 32, has_minimum=True), ("round", "search")),
    Format("Q5_0", 6, 32, 22, Quants(5, 32), ("round", "search")),
    Format("Q5_1", 7, 32, 24, Quants(5, 32, has_minimum=True), ("round", "search")),
    Format("Q8_0", 8, 32, 34, Quants(8, 32), ("round",)),
    Format("Q8_1", 9, 32, 40),
    Format("Q2_K", 10, 256, 84, Quants(2, 16, True, QUARTERS), ("search",), "Q4_0"),
    Format("Q3_K", 11, 256, 110, Quants(3, 16, False, QUARTERS), ("search",), "Q4_0"),
    Format("Q4_K", 12, 256, 144, Quants(4, 32, True, PAIRS), ("search",), "Q5_0"),
    Format("Q5_K", 13, 256, 176, Quants(5, 32, True, PAIRS), ("search",), "Q5_1"),
    Format("Q6_K", 14, 256, 210, Quants(6, 16, False, IN_ORDER), ("search",), "Q8_0"),
    Format("Q8_K", 15, 256, 292),
    Format("IQ2_XXS", 16, 256, 66, Quants(8, 32, False, IN_ORDER, True)),
    Format("IQ2_XS", 17, 256, 74, Quants(8, 16, False, IN_ORDER, True)),
    Format("IQ3_XXS", 18, 256, 98, Quants(8, 32, False, IN_ORDER, True)),
    Format("IQ1_S", 19, 256, 50, Quants(6, 16, False, IN_ORDER)),
    Format("IQ4_NL", 20, 32, 18, Quants(8, 32), ("search",)),
    Format("IQ3_S", 21, 256, 110, Quants(5, 32, False, IN_ORDER, True)),
    Format("IQ2_S", 22, 256, 82, Quants(8, 16, False, IN_ORDER, True)),
    Format("IQ4_XS", 23, 256, 136, Quants(8, 32), ("search",), "IQ4_NL"),
    Format("I8", 24, 1, 1),
    Format("I16", 25, 1, 2),
    Format("I32", 26, 1, 4),
    Format("I64", 27, 1, 8),
    Format("F64", 28, 1, 8),
    Format("IQ1_M", 29, 256, 56, Quants(6, 16, False, IN_ORDER)),
    Format("BF16", 30, 1, 2, writers=("round",)),
    Format("TQ1_0", 34, 256, 54, Quants(6, 16, False, IN_ORDER)),
    Format("TQ2_0", 35, 256, 66, Quants(6, 16, False, IN_ORDER)),
    Format("MXFP4", 39, 32, 17, Quants(8, 32)),
    Format("NVFP4", 40, 64, 36),
    Format("Q1_0", 41, 128, 18),
)

FORMATS_BY_ID: Mapping[int, Format] = MappingProxyType({f.ggml_id: f for f in _TABLE})
FORMATS_BY_NAME: Mapping[str, Format] = MappingProxyType({f.name: f for f in _TABLE})
FLOAT_FORMATS = tuple(f.name for f in _TABLE if f.is_float)
QUANTIZED_FORMATS = tuple(f.name for f in _TABLE if f.quants is not None)
WRITABLE_FORMATS = tuple(f.name for f in _TABLE if f.writers)
"""Names of the formats whose weights are read as floats, of those that are multiplied with int8
activations, and of those that f32 rows can be written in."""

# Ids that ggml once wrote and has withdrawn: named so that an old file gets a useful refusal.
RETIRED_FORMATS: Mapping[int, str] = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }
)


def orders_of(formats: Iterable[str]) -> int:
    """Which of BLOCK_ORDERS these formats hold their quants in, a bit each."""
    quants = (FORMATS_BY_NAME[name].quants for name in formats)
    return sum(1 << order for order in {q.order for q in quants if q} if order is not None)


def centre_of_order(order: int) -> int:
    """What is taken off the quants of the formats in an order; 0: none."""
    quants = (f.quants for f in _TABLE if f.quants is not None and f.quants.order == order)
    return max(0 if q.has_minimum or q.has_signs else q.centre for q in quants)
