"""Makes a Python function callable from kernels: as inlined machine code, without Python objects.

Importing this module also makes the formulas of ``layouts`` callable from kernels.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from numba.extending import register_jitable

from edgellama.kernels_cpu import layouts

FAST_MATH = frozenset({"nsz", "arcp", "contract", "afn"})
"""No nnan or ninf: masks are minus infinity. No reassoc: sums keep their written order."""

device: Any = register_jitable(
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    error_model="numpy",
    fastmath=set(FAST_MATH),
)
"""Decorator of a function that kernels call; it is typed and compiled anew for every use."""

exact_device: Any = register_jitable(
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    error_model="numpy",
    fastmath=False,
)
"""As ``device``, but every operation is rounded as written: the same bits on every tier."""

WRITTEN_OUT = (layouts.panel_scales_at, layouts.panel_scale_bytes)
"""Formulas that Numba puts in a call's place: ``gemm`` keeps other registers with a call, even an
inlined one."""
for _formula in vars(layouts).values():
    if isinstance(_formula, FunctionType):
        (register_jitable(inline="always") if _formula in WRITTEN_OUT else device)(_formula)
