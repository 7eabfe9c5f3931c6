"""The one table of tensor formats: name, ggml id, elements and bytes of a block.

It lists every format that a GGUF file may name, including those that no kernel reads;
which of them can run is known to kernels_cpu. Ids and sizes are those of ggml.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.quant.errors import ModelFileError


@dataclass(frozen=True)
class Format:
    """How a tensor's rows are stored: ``block_size`` elements in ``block_bytes`` bytes."""

    name: str
    ggml_id: int
    block_size: int
    block_bytes: int

    def __post_init__(self) -> None:
        if self.ggml_id < 0 or self.block_size < 1 or self.block_bytes < 1:
            raise ValueError(f"impossible format: {self!r}")

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
    Format("F32", 0, 1, 4),
    Format("F16", 1, 1, 2),
    Format("Q4_0", 2, 32, 18),
    Format("Q4_1", 3, 32, 20),
    Format("Q5_0", 6, 32, 22),
    Format("Q5_1", 7, 32, 24),
    Format("Q8_0", 8, 32, 34),
    Format("Q8_1", 9, 32, 40),
    Format("Q2_K", 10, 256, 84),
    Format("Q3_K", 11, 256, 110),
    Format("Q4_K", 12, 256, 144),
    Format("Q5_K", 13, 256, 176),
    Format("Q6_K", 14, 256, 210),
    Format("Q8_K", 15, 256, 292),
    Format("IQ2_XXS", 16, 256, 66),
    Format("IQ2_XS", 17, 256, 74),
    Format("IQ3_XXS", 18, 256, 98),
    Format("IQ1_S", 19, 256, 50),
    Format("IQ4_NL", 20, 32, 18),
    Format("IQ3_S", 21, 256, 110),
    Format("IQ2_S", 22, 256, 82),
    Format("IQ4_XS", 23, 256, 136),
    Format("I8", 24, 1, 1),
    Format("I16", 25, 1, 2),
    Format("I32", 26, 1, 4),
    Format("I64", 27, 1, 8),
    Format("F64", 28, 1, 8),
    Format("IQ1_M", 29, 256, 56),
    Format("BF16", 30, 1, 2),
    Format("TQ1_0", 34, 256, 54),
    Format("TQ2_0", 35, 256, 66),
    Format("MXFP4", 39, 32, 17),
    Format("NVFP4", 40, 64, 36),
    Format("Q1_0", 41, 128, 18),
)

FORMATS_BY_ID: Mapping[int, Format] = MappingProxyType({f.ggml_id: f for f in _TABLE})
FORMATS_BY_NAME: Mapping[str, Format] = MappingProxyType({f.name: f for f in _TABLE})

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
