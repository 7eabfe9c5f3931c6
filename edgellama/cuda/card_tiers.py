"""The tiers that the card's kernels are compiled for, and which tier fits a compute capability.

A tier is compiled to an old version of PTX, so that old drivers accept it; the driver then
compiles the PTX for the card at hand. This module is plain data and imports neither numba nor
LLVM. ``ptx_target`` does the compiling.
"""

from __future__ import annotations

from edgellama.kernels_cpu.machine.cpu import Tier

CARD_MACHINES = ("cuda",)
"""Of the tiers that are cards, among those of ``machine.cpu``."""
SM_75 = Tier("sm_75", 1, "sm_75", "+ptx65", machines=CARD_MACHINES)
"""Cards since Turing, with tensor cores for f16; drivers since 440 take it."""
SM_80 = Tier("sm_80", 1, "sm_80", "+ptx70", machines=CARD_MACHINES)
"""Cards since Ampere, with tensor cores for bf16 and copies past registers; drivers since 450."""
CARD_TIERS = (SM_80, SM_75)
"""The better first."""


def tier_of_card(major: int, minor: int) -> Tier | None:
    """The tier for a card of this compute capability; None for one that is too old.

    >>> tier_of_card(8, 6).name, tier_of_card(7, 5).name, tier_of_card(6, 1)
    ('sm_80', 'sm_75', None)
    """
    able = (tier for tier in CARD_TIERS if tier.name <= f"sm_{major}{minor}" or major >= 10)
    return next(able, None)
