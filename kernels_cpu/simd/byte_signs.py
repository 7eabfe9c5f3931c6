"""What only tiers with 256-bit vectors of x86 need: bytes take the signs of other bytes.

The module also keeps the compiler from taking some vectors apart, where the pieces would cost a
third more.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.vectors import call_llvm, tier_of

SIGN_INSTRUCTIONS = {16: "llvm.x86.ssse3.psign.b.128", 32: "llvm.x86.avx2.psign.b"}
"""By the bytes of a vector."""


def moves_signs(tier: Tier) -> bool:
    """Whether bytes take the signs of others in one instruction."""
    return tier.has_pair_dot and 4 * tier.lanes in SIGN_INSTRUCTIONS


def with_signs_of(builder: Any, numbers: Any, signs: Any) -> Any:
    """Bytes negated, or made 0, where ``signs`` are; -128 stays. Where ``moves_signs``."""
    name = SIGN_INSTRUCTIONS[numbers.type.count]
    return call_llvm(builder, name, numbers.type, [numbers, signs])


def as_one(builder: Any, vector: Any, tier: Tier) -> Any:
    """A vector of which the compiler does not know how it was made, where AVX2's are full."""
    if not moves_signs(tier):
        return vector
    kind = ir.FunctionType(vector.type, [vector.type])
    return builder.asm(kind, "", "=x,0", [vector], side_effect=False)


@intrinsic
def keep_whole(typingctx, v):
    """A vector that the compiler does not take apart, however few bytes of it are used."""
    tier = tier_of(typingctx)
    return v(v), lambda ctx, b, sig, args: as_one(b, args[0], tier)
