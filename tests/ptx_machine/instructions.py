"""Instructions that compute: from an opcode and operands to what it does to all threads.

What touches memory or other threads is in ``accesses``, the flow of control in ``machine``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ptx_machine import numbers
from ptx_machine.faults import PtxFault, check
from ptx_machine.opcodes import COMPUTED, DIVISIONS, MOVES, SINCE_AMPERE
from ptx_machine.text import Instruction, Register, Vector
from ptx_machine.threads import Threads, reader, writer

Step: TypeAlias = Callable[[Threads], None]


def require(target: str, capability: int, opcode: str) -> None:
    """PtxFault where a text's target lacks an instruction."""
    if int(target.removeprefix("sm_")) < capability:
        raise PtxFault(f"{opcode} is not for {target}")


def build(instruction: Instruction, target: str) -> Step | None:
    """What an instruction does; None if it is none of those that compute."""
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in SINCE_AMPERE:
        require(target, 80, opcode)
    if opcode in MOVES:
        return _move(instruction, MOVES[opcode])
    if opcode in DIVISIONS:
        return _division(instruction)
    if opcode not in COMPUTED:
        return None
    compute, kinds = COMPUTED[opcode]
    if len(operands) != len(kinds):
        raise PtxFault(f"{opcode} takes {len(kinds)} operands")
    write = writer(operands[0], kinds[0])
    is_wide = opcode.startswith("cvt.") and kinds[-1][0] != "f"
    sources = [
        reader(part, kind, is_wide=is_wide)
        for part, kind in zip(operands[1:], kinds[1:], strict=True)
    ]
    if len(sources) == 1:
        return lambda threads: write(threads, compute(sources[0](threads)))
    if len(sources) == 2:
        first, second = sources
        return lambda threads: write(threads, compute(first(threads), second(threads)))
    return lambda threads: write(threads, compute(*[source(threads) for source in sources]))


def fused(product: Instruction, total: Instruction) -> Step:
    """A multiplication and an addition of f32 as a card may run them: rounded once.

    The addition's operand that is the product is replaced by the product's own.
    """
    is_difference = total.opcode.startswith("sub")
    result = product.operands[0]
    is_first = total.operands[1] == result
    x, y = (reader(part, "f4") for part in product.operands[1:])
    z = reader(total.operands[2 if is_first else 1], "f4")
    write = writer(total.operands[0], "f4")
    sign_product = np.float32(-1 if is_difference and not is_first else 1)
    sign_z = np.float32(-1 if is_difference and is_first else 1)

    def step(threads: Threads) -> None:
        factors = np.asarray(x(threads) * sign_product), y(threads)
        write(threads, numbers.fused_multiply_add(*factors, np.asarray(z(threads) * sign_z)))

    return step


def _division(instruction: Instruction) -> Step:
    compute, kind = DIVISIONS[instruction.opcode]
    write = writer(instruction.operands[0], kind)
    x, y = (reader(part, kind) for part in instruction.operands[1:])

    def step(threads: Threads) -> None:
        dividend, divisor = np.broadcast_arrays(x(threads), y(threads))
        is_zero = np.broadcast_to(divisor, threads.count)[threads.active] == 0
        check(is_zero, threads.active, "division by zero")
        write(threads, compute(dividend, divisor))

    return step


def _move(instruction: Instruction, kind: str) -> Step:
    target, source = instruction.operands
    if isinstance(source, Vector):
        return _pack(target, source)
    if isinstance(target, Vector):
        return _unpack(target, source)
    read, write = reader(source, kind), writer(target, kind)
    return lambda threads: write(threads, read(threads))


def _pack(target: Any, source: Vector) -> Step:
    """Two halves as a word, the first the low one."""
    write = writer(target, "u4")
    low_half, high_half = (reader(part, "u2") for part in source.parts)
    return lambda threads: write(
        threads, numbers.pair(high_half(threads), np.asarray(low_half(threads)))
    )


def _unpack(target: Vector, source: Any) -> Step:
    if not isinstance(source, Register):
        raise PtxFault(f"{source} in two halves")
    read, writes = reader(source, "u4"), [writer(part, "u2") for part in target.parts]

    def step(threads: Threads) -> None:
        word = read(threads)
        for i, write in enumerate(writes):
            write(threads, (word >> np.uint32(16 * i)).astype("u2"))

    return step
