"""Instructions that touch memory or other threads, but the flow of control."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ptx_machine import warps
from ptx_machine.faults import Array, PtxFault, ThreadFault, check
from ptx_machine.instructions import Step, require
from ptx_machine.text import Address, Immediate, Instruction, Operand, Register, Symbol, Vector
from ptx_machine.threads import WARP, Read, Threads, reader, writer

ACCESS = re.compile(r"(ld|st)\.(global|shared)(?:\.v([24]))?\.b(8|16|32|64)$")
KNOWN = frozenset({
    "ld.global.b16", "ld.global.b32", "ld.global.b64", "ld.global.v2.b32", "ld.global.v4.b32",
    "ld.shared.b16", "ld.shared.b32", "ld.shared.v2.b32", "ld.shared.v4.b32", "st.global.b8",
    "st.global.b16", "st.global.b32", "st.global.v2.b32", "st.shared.b32", "st.shared.v2.b32",
    "st.shared.v4.b32",
})  # fmt: skip
PARAMETER_BITS = {"u64": 64, "f32": 32}
PRODUCT = re.compile(r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(f16|bf16)\.\2\.f32$")
MATRICES = re.compile(r"ldmatrix\.sync\.aligned\.m8n8\.x4(\.trans)?\.shared\.b16$")
SHUFFLE = re.compile(r"shfl\.sync\.(bfly|idx)\.b32$")
COPY = "cp.async.cg.shared.global"
NEEDS_WHOLE_WARPS = re.compile(r"(mma|ldmatrix|shfl|bar)\.")
"""Instructions at which lanes wait until all of their warp are there."""
FULL_MASK = 0xFFFFFFFF


def build(instruction: Instruction, parameters: dict[str, str], target: str) -> Step | None:
    """What an instruction does; None if it is none of these."""
    opcode = instruction.opcode
    if opcode.startswith("ld.param.b"):
        return _load_parameter(instruction, parameters)
    if opcode in KNOWN:
        return _load(instruction) if opcode.startswith("ld") else _store(instruction)
    if match := SHUFFLE.match(opcode):
        return _shuffle(instruction, match[1])
    if match := MATRICES.match(opcode):
        return _load_matrices(instruction, match[1] is not None)
    if match := PRODUCT.match(opcode):
        depth, kind = int(match[1]), match[2]
        require(target, 80 if depth == 16 or kind == "bf16" else 75, opcode)
        return _product(instruction, depth, kind)
    if opcode.startswith("cp.async"):
        require(target, 80, opcode)
    if opcode == COPY:
        return _copy(instruction)
    if opcode == "cp.async.wait_all":
        return _wait_for_copies
    if opcode == "atom.global.add.u32":
        return _add_atomically(instruction)
    if opcode == "membar.gl":
        return _fence
    return None


def _load_parameter(instruction: Instruction, parameters: dict[str, str]) -> Step:
    """The bytes that the driver copied from where the launch's pointer points to."""
    target, source = instruction.operands
    if not isinstance(source, Address) or not isinstance(source.base, Symbol) or source.offset:
        raise PtxFault(instruction.text)
    name, bits = source.base.name, int(instruction.opcode.removeprefix("ld.param.b"))
    if PARAMETER_BITS[parameters[name]] != bits:
        raise PtxFault(f"{instruction.text}: a parameter of type {parameters[name]}")
    kind = f"u{bits // 8}"
    write = writer(target, kind)
    return lambda threads: write(
        threads, np.frombuffer(threads.launch.parameters[name], kind)[0].reshape(())
    )


def _address(operand: Operand) -> Read:
    """Addresses of the active threads alone."""
    if not isinstance(operand, Address):
        raise PtxFault(f"address {operand}")
    bits = operand.base.bits if isinstance(operand.base, Register) else 64
    read, offset = reader(operand.base, f"u{bits // 8}"), operand.offset

    def addresses(threads: Threads) -> Array:
        found = np.broadcast_to(read(threads), threads.count)[threads.active]
        threads.must_be_sound()
        return np.asarray(found.astype("i8") + offset)

    return addresses


def _parts(operand: Operand) -> tuple[Operand, ...]:
    return operand.parts if isinstance(operand, Vector) else (operand,)


def _shape(instruction: Instruction) -> tuple[bool, int, int]:
    """Whether memory is shared, bytes of a number, how many there are."""
    match = ACCESS.match(instruction.opcode)
    assert match
    return match[2] == "shared", int(match[4]) // 8, int(match[3] or 1)


def _spread_active(threads: Threads, values: Array) -> Array:
    """Numbers of the active threads as those of all."""
    if threads.mask is None:
        return values
    result = np.zeros(threads.count, values.dtype)
    result[threads.active] = values
    return result


def _load(instruction: Instruction) -> Step:
    is_shared, size, count = _shape(instruction)
    targets, at = _parts(instruction.operands[0]), _address(instruction.operands[1])
    writes = [writer(target, f"u{size}", is_wide=True) for target in targets]
    if len(writes) != count:
        raise PtxFault(instruction.text)

    def step(threads: Threads) -> None:
        active = threads.active
        if is_shared:
            places = at(threads)
            found = threads.shared.load(places, size, count, active, threads.now)
            lacking = threads.shared.lacking(places, size, count, active)
        else:
            warp = threads.grid_warp[active]
            found, lacking = threads.memory.load(at(threads), size, count, active, warp), None
        for i, (write, values) in enumerate(zip(writes, found, strict=True)):
            threads.taint = None if lacking is None else _spread_active(threads, lacking[i])
            write(threads, _spread_active(threads, values))

    return step


def _store(instruction: Instruction) -> Step:
    is_shared, size, count = _shape(instruction)
    at, sources = _address(instruction.operands[0]), _parts(instruction.operands[1])
    reads = [reader(source, f"u{size}", is_wide=True) for source in sources]
    if len(reads) != count:
        raise PtxFault(instruction.text)

    def step(threads: Threads) -> None:
        active = threads.active
        values = [np.broadcast_to(read(threads), threads.count)[active] for read in reads]
        threads.must_be_sound()
        if is_shared:
            threads.shared.store(at(threads), values, active, threads.now)
        else:
            warp = threads.grid_warp[active]
            threads.memory.store(at(threads), values, active, warp, threads.now)

    return step


def _copy(instruction: Instruction) -> Step:
    """cp.async of 16 bytes; those behind the last of the source are zeros."""
    target, source = (_address(operand) for operand in instruction.operands[:2])
    if instruction.operands[2] != Immediate(16) or len(instruction.operands) != 4:
        raise PtxFault(instruction.text)
    size = reader(instruction.operands[3], "u4")

    def step(threads: Threads) -> None:
        sizes = np.broadcast_to(size(threads), threads.count)[threads.active].astype("i8")
        threads.must_be_sound()
        if not np.isin(sizes, (0, 16)).all():
            raise ThreadFault(f"copies of {np.unique(sizes)} bytes", int(threads.active[0]))
        sources = source(threads)
        _bring(threads, sources, sizes, threads.active)
        threads.shared.begin_copy(target(threads), sources, sizes, threads.active)

    return step


def _bring(threads: Threads, sources: Array, sizes: Array, who: Array) -> list[Array]:
    """Four words of each source, or zeros."""
    is_there = sizes == 16
    found = [np.zeros(len(sources), "u4") for _ in range(4)]
    some = who[is_there]
    words = threads.memory.load(sources[is_there], 4, 4, some, threads.grid_warp[some])
    for whole, word in zip(found, words, strict=True):
        whole[is_there] = word
    return found


def _wait_for_copies(threads: Threads) -> None:
    mask = threads.mask if threads.mask is not None else np.ones(threads.count, bool)
    for copies in threads.shared.finish_copies(mask):
        words = _bring(threads, copies.sources, copies.sizes, copies.threads)
        threads.shared.write_copy(copies, words, threads.now)


def _add_atomically(instruction: Instruction) -> Step:
    write, at = writer(instruction.operands[0], "u4"), _address(instruction.operands[1])
    read = reader(instruction.operands[2], "u4")

    def step(threads: Threads) -> None:
        active = threads.active
        values = np.broadcast_to(read(threads), threads.count)[active]
        threads.must_be_sound()
        found = threads.memory.add(at(threads), values, active, threads.grid_warp[active])
        write(threads, _spread_active(threads, found))

    return step


def _fence(threads: Threads) -> None:
    threads.memory.fence(threads.grid_warp[threads.active])


# Whole warps.


def _shuffle(instruction: Instruction, mode: str) -> Step:
    target, source, operand, control, members = instruction.operands
    if not isinstance(members, Immediate) or members.value % (1 << 32) != FULL_MASK:
        raise PtxFault(f"{instruction.text}: not all lanes are members")
    write, read = writer(target, "u4"), reader(source, "u4")
    lanes, bounds = reader(operand, "u4"), reader(control, "u4")

    def step(threads: Threads) -> None:
        lane = warps.source_lanes(mode, threads.lane, lanes(threads), bounds(threads))
        values = read(threads)[threads.warp * WARP + lane]
        threads.must_be_sound()
        write(threads, values)

    return step


def _load_matrices(instruction: Instruction, is_transposed: bool) -> Step:
    target, source = instruction.operands
    writes, at = [writer(part, "u4") for part in _parts(target)], _address(source)

    def step(threads: Threads) -> None:
        places = at(threads)
        rows = threads.shared.load(places, 4, 4, threads.active, threads.now)
        lacking = threads.shared.lacking(places, 4, 4, threads.active)
        check(np.any(lacking, 0), threads.active, "uses what nobody wrote", places)
        found = warps.spread_matrices(np.stack(rows, -1), is_transposed=is_transposed)
        for write, words in zip(writes, found, strict=True):
            write(threads, _spread_active(threads, words))

    return step


def _product(instruction: Instruction, depth: int, kind: str) -> Step:
    counts = (4, depth // 4, depth // 8, 4)
    operands = [_parts(operand) for operand in instruction.operands]
    if tuple(map(len, operands)) != counts:
        raise PtxFault(f"{instruction.text}: {counts} registers")
    writes = [writer(part, "u4") for part in operands[0]]
    reads: list[list[Any]] = [[reader(part, "u4") for part in parts] for parts in operands[1:]]

    def step(threads: Threads) -> None:
        left, right, sums = ([read(threads) for read in part] for part in reads)
        threads.must_be_sound()
        found = warps.multiply_add(kind, depth, left, right, sums)
        for write, words in zip(writes, found, strict=True):
            write(threads, words)

    return step
