"""Atomic operations, spinning, and calls through addresses.

The executor of programs needs these beyond what ordinary kernels use. How threads share work with
them is left to ``threads``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgellama.kernels_cpu.simd.vectors import I32, I64, pointer

PAUSE = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.isb", [ir.Constant(I32, 15)]),
    "arm64": ("llvm.aarch64.isb", [ir.Constant(I32, 15)]),
}
"""Per architecture, the intrinsic that lets a thread that spins wait for some ten nanoseconds.

Arm's ``yield`` takes no time on cores with one thread; ``isb`` does, as x86's ``pause``.
"""
TIME_UTC = 1
"""The clock of C11's ``timespec_get``."""


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at ``address``; returns what was there before."""

    def codegen(ctx, b, sig, args):
        return b.atomic_rmw("add", pointer(b, args[0], I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_exchange(typingctx, address, expected, new):
    """Replace ``expected`` at ``address`` by ``new``; returns what was found there."""

    def codegen(ctx, b, sig, args):
        found = b.cmpxchg(pointer(b, args[0], I64), args[1], args[2], "seq_cst", "seq_cst")
        return b.extract_value(found, 0)

    return types.int64(*[types.int64] * 3), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at ``address``, with everything written before it was stored."""

    def codegen(ctx, b, sig, args):
        return b.load_atomic(pointer(b, args[0], I64), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Store an int64 and publish everything written before."""

    def codegen(ctx, b, sig, args):
        b.store_atomic(args[1], pointer(b, args[0], I64), "release", 8)
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the CPU that this thread is spinning."""

    def codegen(ctx, b, sig, args):
        architecture = b.module.triple.split("-")[0]
        if architecture in PAUSE:
            name, operands = PAUSE[architecture]
            signature = ir.FunctionType(ir.VoidType(), [o.type for o in operands])
            b.call(cgutils.get_or_insert_function(b.module, signature, name), operands)
        return ctx.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_kernel(typingctx, function, arguments, thread, job):
    """Call ``void(int64, int64, int64)`` at an address."""

    def codegen(ctx, b, sig, args):
        signature = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        b.call(b.inttoptr(args[0], signature.as_pointer()), args[1:])
        return ctx.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def call_yield(typingctx, function):
    """Call the operating system's ``int(void)`` yield function at an address."""

    def codegen(ctx: Any, b: Any, sig: Any, args: Any) -> Any:
        signature = ir.FunctionType(I32, [])
        b.call(b.inttoptr(args[0], signature.as_pointer()), [])
        return ctx.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def call_clock(typingctx, function, timespec):
    """Have C11's ``timespec_get`` at address ``function`` write the time, two words."""

    def codegen(ctx, b, sig, args):
        signature = ir.FunctionType(I32, [I64, I32])
        b.call(pointer(b, args[0], signature), [args[1], ir.Constant(I32, TIME_UTC)])
        return ctx.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def call_driver(typingctx, function, first, second, third, fourth):
    """What the graphics driver's function at an address returns for up to four arguments.

    Functions of fewer arguments do not look at the others.
    """

    def codegen(ctx, b, sig, args):
        signature = ir.FunctionType(I32, [I64] * 4)
        return b.sext(b.call(pointer(b, args[0], signature), args[1:]), I64)

    return types.int64(*[types.int64] * 5), codegen


@intrinsic
def call_launch(typingctx, function, kernel, x, y, z, threads, shared_bytes, stream, arguments):
    """What ``cuLaunchKernel`` at address ``function`` returns.

    A grid of x by y by z blocks of so many threads in one line; ``arguments``: the address of
    the addresses of the kernel's arguments.
    """

    def codegen(ctx, b, sig, args):
        function, kernel, x, y, z, threads, shared_bytes, stream, arguments = args
        one, nothing = ir.Constant(I32, 1), ir.Constant(I64, 0)
        sizes = [b.trunc(size, I32) for size in (x, y, z, threads)]
        signature = ir.FunctionType(I32, [I64, *[I32] * 7, I64, I64, I64])
        shared = b.trunc(shared_bytes, I32)
        values = [kernel, *sizes, one, one, shared, stream, arguments, nothing]
        return b.sext(b.call(pointer(b, function, signature), values), I64)

    return types.int64(*[types.int64] * 9), codegen
