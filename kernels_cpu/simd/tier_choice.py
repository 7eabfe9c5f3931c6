"""Chooses between two functions by the tier that a kernel is compiled for.

The choice is made while a kernel is compiled, so only one of them is in its code. The tiers are
listed in ``machine.cpu``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.simd.device import device
from edgellama.kernels_cpu.simd.vectors import tier_of


def by_tier(
    fits: Callable[[Tier], bool], function: Callable[..., Any], otherwise: Callable[..., Any]
) -> Any:
    """A device function: ``function`` on the tiers that it ``fits``. Only one is compiled."""
    functions = device(otherwise), device(function)

    @intrinsic
    def apply(typingctx, *arguments):
        kind = typingctx.resolve_value_type(functions[fits(tier_of(typingctx))])
        signature = kind.get_call_type(typingctx, arguments, {})

        def codegen(ctx, b, sig, args):
            call = ctx.get_function(kind, signature)
            return call(b, [b.extract_value(args[0], i) for i in range(len(arguments))])

        return signature.return_type(types.StarArgTuple(arguments)), codegen

    return apply
