"""Instructions that work on whole registers and that LLVM's own operations do not express.

Each exists for registers of certain widths. A vector that is wider than the tier's registers is cut
into those, and the results are laid end to end: no such instruction moves anything out of its 16
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.integers import concatenate
from edgellama.kernels_cpu.simd.vectors import call_llvm, llvm_vector, shuffle

ARM_BYTES = 16
"""All that a register of Arm has."""
BITS = MappingProxyType({"i8": 8, "i16": 16, "i32": 32})

Instruction = Callable[[Any, Any, Any, Tier], Any]


def _define_instruction(result: str, names: Mapping[int, str], arm_name: str = "") -> Instruction:
    """What calls one of ``names``, by a register's bytes, for two vectors of equally many bytes."""

    def call(builder: Any, first: Any, second: Any, tier: Tier) -> Any:
        def in_one_register(first: Any, second: Any) -> Any:
            num_bytes = first.type.count * first.type.element.width // 8
            name = f"llvm.{arm_name}" if tier.is_arm else f"llvm.x86.{names[num_bytes]}"
            kind = llvm_vector(result, 8 * num_bytes // BITS[result])
            return call_llvm(builder, name, kind, [first, second])

        num_bytes = ARM_BYTES if tier.is_arm else 4 * tier.lanes
        return by_registers(builder, [first, second], num_bytes, in_one_register)

    return call


def by_registers(
    builder: Any, vectors: list[Any], num_bytes: int, function: Callable[..., Any]
) -> Any:
    """``function`` of the first ``num_bytes`` of all ``vectors``, of the next, and so on."""
    parts = zip(*(_cut(builder, vector, num_bytes) for vector in vectors), strict=True)
    return concatenate(builder, [function(*part) for part in parts])


def _cut(builder: Any, vector: Any, num_bytes: int) -> list[Any]:
    width = 8 * num_bytes // vector.type.element.width
    if vector.type.count <= width:
        return [vector]
    return [
        shuffle(builder, vector, vector, range(i, i + width))
        for i in range(0, vector.type.count, width)
    ]


multiply_bytes = _define_instruction("i16", {16: "ssse3.pmadd.ub.sw.128", 32: "avx2.pmadd.ub.sw"})
"""Products of unsigned with signed bytes, those of neighbours added; saturates at 16 bits."""
multiply_words = _define_instruction(
    "i32", {16: "sse2.pmadd.wd", 32: "avx2.pmadd.wd", 64: "avx512.pmaddw.d.512"}
)
"""Products of 16-bit integers, those of neighbours added."""
pack_words = _define_instruction(
    "i16", {16: "sse2.packssdw.128", 32: "avx2.packssdw", 64: "avx512.packssdw.512"}
)
"""32-bit integers of two vectors in 16 bits that saturate: four of each in turn."""
move_signs = _define_instruction("i8", {16: "ssse3.psign.b.128", 32: "avx2.psign.b"})
"""The first bytes negated, or made 0, where the second are; -128 stays."""
shuffle_in_pieces = _define_instruction(
    "i8",
    {16: "ssse3.pshuf.b.128", 32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"},
    arm_name="aarch64.neon.tbl1.v16i8",
)
"""Of the first, the byte at each place of the same 16-byte piece; zero where that is negative."""


def has_move_signs(tier: Tier) -> bool:
    """Whether a full vector can take signs by ``move_signs``, which AVX-512 lacks."""
    return tier.has_pair_dot and tier.lanes <= 8
