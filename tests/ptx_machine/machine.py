"""Runs kernels: which threads go on with which instruction, where they wait for each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptx_machine import accesses, instructions
from ptx_machine.faults import Array, PtxFault, ThreadFault
from ptx_machine.global_memory import GlobalMemory
from ptx_machine.instructions import Step
from ptx_machine.shared_memory import SharedMemory
from ptx_machine.text import Entry, Immediate, Instruction, Symbol, parse
from ptx_machine.threads import WARP, Launch, Threads, reader
from ptx_machine.traffic import Traffic

MOST_THREADS = 8192
"""That run at once; more make nothing faster."""
PARAMETER_BYTES = {"u64": 8, "f32": 4}
BLOCK_BARRIER, WARP_BARRIER, BRANCHES = "bar.sync", "bar.warp.sync", ("bra", "bra.uni")


class PtxMachine:
    """The kernels of a PTX text. PtxFault for what the machine does not know.

    ``fuses``: multiplications and additions that a card may round together are.
    """

    def __init__(self, text: str, *, fuses: bool = False) -> None:
        self.entries = parse(text)
        self._programs = {
            name: [_built(entry, i, fuses) for i in range(len(entry.instructions))]
            for name, entry in self.entries.items()
        }

    def launch(
        self, name: str, grid: tuple[int, int, int], block_threads: int, slots: Sequence[bytes],
        memory: GlobalMemory, shared_bytes: int = 0, seed: int | None = None,
        traffic: Traffic | None = None,
    ) -> None:  # fmt: skip
        """Run a kernel; ``slots`` are the bytes at which the launch's pointers point.

        With a ``seed`` blocks and warps go on in a random order, else side by side. ``traffic``
        hears of every access.
        """
        entry = self.entries[name]
        if block_threads % WARP or block_threads > (entry.max_threads or 1024):
            raise PtxFault(f"{name}: blocks of {block_threads} threads, of {entry.max_threads}")
        if len(slots) != len(entry.parameters):
            raise PtxFault(f"{name}: {len(slots)} of {len(entry.parameters)} parameters")
        parameters = {
            name: slot[: PARAMETER_BYTES[kind]]
            for (name, kind), slot in zip(entry.parameters.items(), slots, strict=True)
        }
        blocks = np.array(list(np.ndindex(*grid[::-1])), "i8")[:, ::-1]
        random = None if seed is None else np.random.default_rng(seed)
        if random is not None:
            blocks = random.permutation(blocks)
        warps_of_block = block_threads // WARP
        memory.begin(len(blocks) * warps_of_block, warps_of_block, traffic)
        at_once = max(MOST_THREADS // block_threads, 1)
        clock = 1
        for start in range(0, len(blocks), at_once):
            some = blocks[start : start + at_once]
            launch = Launch(grid, block_threads, parameters, memory, some)
            shared = SharedMemory(len(some), shared_bytes, warps_of_block, traffic)
            threads = Threads(entry, launch, shared)
            threads.grid_warp = threads.warp + start * warps_of_block
            threads.now = clock
            with np.errstate(all="ignore"):
                _Run(entry, self._programs[name], threads, random).run()
            clock = threads.now


def _built(entry: Entry, number: int, fuses: bool) -> Step | None:
    """What an instruction does; None for those of the flow of control."""
    instruction = entry.instructions[number]
    opcode = instruction.opcode
    if opcode in (*BRANCHES, BLOCK_BARRIER, WARP_BARRIER, "ret"):
        return None
    try:
        if instruction.guard:
            raise PtxFault("only branches are guarded")
        if fuses and (product := _product_of(entry, number)):
            return instructions.fused(product, instruction)
        step = instructions.build(instruction, entry.target)
        step = step or accesses.build(instruction, entry.parameters, entry.target)
        if step is None:
            raise PtxFault(f"instruction {opcode} is not known")
    except (PtxFault, ValueError, KeyError) as error:
        text = f"{entry.name}: line {instruction.line}: {instruction.text}: {error}"
        raise PtxFault(text) from error
    return step


def _product_of(entry: Entry, number: int) -> Instruction | None:
    """The multiplication that a card may fuse with an addition: the same stretch, no ".rn"."""
    total = entry.instructions[number]
    if total.opcode not in ("add.f32", "sub.f32"):
        return None
    labels = set(entry.labels.values())
    for at in range(number, -1, -1):
        before = entry.instructions[at]
        if before.opcode in BRANCHES:
            return None
        if before.opcode == "mul.f32" and before.operands[0] in total.operands[1:]:
            rewritten = {part for other in entry.instructions[at + 1 : number]
                         for part in other.operands[:1]}  # fmt: skip
            is_kept = not rewritten & set(before.operands)
            return before if is_kept and total.operands[1] != total.operands[2] else None
        if at in labels:
            return None
    return None


class _Run:
    """One piece of blocks from the first instruction to the last.

    Threads that go on with the same instruction go together, and those that are behind go first,
    so that lanes that parted meet again.
    """

    def __init__(self, entry: Entry, program: list[Step | None], threads: Threads,
                 random: np.random.Generator | None) -> None:  # fmt: skip
        self._entry, self._program, self._threads, self._random = entry, program, threads, random
        self._ready: dict[int, Array] = {0: np.ones(threads.count, bool)}
        self._lacks_lanes: dict[int, Array] = {}
        self._at_barrier: dict[int, Array] = {}
        self._labels = set(entry.labels.values())

    def run(self) -> None:
        """Until all threads have ended."""
        while self._ready:
            at = min(self._ready) if self._random is None else self._any()
            mask = self._ready.pop(at)
            if self._random is not None:
                mask = self._part_of(at, mask)
            self._go_on(at, mask)
        for waiting, what in ((self._lacks_lanes, "lanes that never come"),
                              (self._at_barrier, "warps that never come")):  # fmt: skip
            for at, mask in waiting.items():
                self._fail(at, ThreadFault(f"waits for {what}", int(np.flatnonzero(mask)[0])))
        try:
            self._threads.shared.end()
        except ThreadFault as fault:
            self._fail(len(self._program) - 1, fault)

    def _any(self) -> int:
        assert self._random is not None
        return int(self._random.choice(list(self._ready)))

    def _part_of(self, at: int, mask: Array) -> Array:
        """Some of the warps; the others stay."""
        assert self._random is not None
        chosen = self._random.random(self._threads.count // WARP) < 0.5
        part = mask & chosen.repeat(WARP)
        if not part.any():
            return mask
        self._add(self._ready, at, mask & ~part)
        return part

    @staticmethod
    def _add(where: dict[int, Array], at: int, mask: Array) -> None:
        if mask.any():
            where[at] = where[at] | mask if at in where else mask

    def _go_on(self, at: int, mask: Array) -> None:
        """Run those threads up to where they part, wait, or others may join them."""
        threads, program = self._threads, self._program
        threads.activate(mask)
        is_whole = self._is_whole(mask)
        while True:
            instruction = self._entry.instructions[at]
            if not is_whole and accesses.NEEDS_WHOLE_WARPS.match(instruction.opcode):
                self._wait_for_lanes(at, mask)
                return
            step = program[at]
            threads.now, threads.taint = threads.now + 1, None
            if threads.shared.traffic:
                threads.shared.traffic.line = instruction.line
            try:
                if step is None:
                    self._control(at, instruction, mask)
                    return
                step(threads)
            except ThreadFault as fault:
                self._fail(at, fault)
            at += 1
            if at in self._labels:
                self._add(self._ready, at, mask)
                return

    @staticmethod
    def _is_whole(mask: Array) -> bool:
        warps = mask.reshape(-1, WARP)
        return bool((warps.any(1) == warps.all(1)).all())

    def _wait_for_lanes(self, at: int, mask: Array) -> None:
        """Warps that are there go on; lanes of others wait for their warp."""
        here = mask | self._lacks_lanes.pop(at, np.zeros_like(mask))
        whole = here.reshape(-1, WARP).all(1).repeat(WARP)
        self._add(self._lacks_lanes, at, here & ~whole)
        if (here & whole).any():
            self._go_on(at, here & whole)

    def _control(self, at: int, instruction: Instruction, mask: Array) -> None:
        opcode = instruction.opcode
        if opcode == "ret":
            return
        if opcode in BRANCHES:
            self._branch(at, instruction, mask)
        elif opcode == WARP_BARRIER:
            if instruction.operands != (Immediate(-1),):
                raise ThreadFault("not all lanes are members", int(self._threads.active[0]))
            self._threads.meet(mask, is_block=False)
            self._add(self._ready, at + 1, mask)
        else:
            self._barrier(at, instruction, mask)

    def _branch(self, at: int, instruction: Instruction, mask: Array) -> None:
        [target] = instruction.operands
        assert isinstance(target, Symbol)
        taken = mask
        if instruction.guard:
            register, must_be_false = instruction.guard
            condition = reader(register, "?")(self._threads)
            self._threads.must_be_sound()
            taken = mask & (condition != must_be_false)
        self._add(self._ready, self._entry.labels[target.name], taken)
        self._add(self._ready, at + 1, mask & ~taken)

    def _barrier(self, at: int, instruction: Instruction, mask: Array) -> None:
        """Blocks of which all threads are at a barrier go on."""
        if instruction.operands != (Immediate(0),):
            raise ThreadFault("another barrier than 0", int(self._threads.active[0]))
        self._add(self._at_barrier, at, mask)
        everywhere = np.logical_or.reduce(list(self._at_barrier.values()))
        size = self._threads.block_threads
        met = everywhere.reshape(-1, size).all(1).repeat(size)
        if not met.any():
            return
        self._threads.meet(met, is_block=True)
        for place, waiting in list(self._at_barrier.items()):
            del self._at_barrier[place]
            self._add(self._at_barrier, place, waiting & ~met)
            self._add(self._ready, place + 1, waiting & met)

    def _fail(self, at: int, fault: ThreadFault) -> None:
        instruction, threads = self._entry.instructions[at], self._threads
        block = tuple(map(int, threads.launch.blocks[threads.block[fault.thread]]))
        raise PtxFault(
            f"{self._entry.name}: line {instruction.line}: {instruction.text}: "
            f"block {block}, thread {fault.thread % threads.block_threads}: {fault.what}"
        ) from fault
