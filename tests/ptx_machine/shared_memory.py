"""The memory of each block, which remembers who touched which word when.

What another thread wrote may be read, and what another touched be written, only after a barrier
of both: of the warp within a warp, of the block else. Nobody may touch where an asynchronous copy
is under way, nor read what nobody wrote. Words are 4 bytes; nothing smaller is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx_machine.faults import Array, ThreadFault, check
from ptx_machine.traffic import Traffic

WARP, WORD, COPY_BYTES = 32, 4, 16
NOBODY, MANY = -1, -2
GARBAGE = 0xA5


@dataclass(frozen=True)
class _Copies:
    """Copies of one instruction that are under way: from where, to which words, by whom."""

    sources: Array
    sizes: Array
    words: Array
    threads: Array


class SharedMemory:
    """``num_bytes`` for each of some blocks, whose addresses begin at ``window``."""

    def __init__(
        self, num_blocks: int, num_bytes: int, warps_of_block: int, traffic: Traffic | None = None
    ) -> None:
        self.traffic = traffic
        self.window = 0x400
        self.num_bytes, self._warps = num_bytes, warps_of_block
        self._stride = (num_bytes + COPY_BYTES - 1) & -COPY_BYTES
        self._bytes = np.full(num_blocks * self._stride, GARBAGE, "u1")
        self._views = {size: self._bytes.view(f"u{size}") for size in (2, 4)}
        words = num_blocks * self._stride // WORD
        self._writer, self._written = np.full(words, NOBODY), np.zeros(words, "i4")
        self._read = np.zeros((words, warps_of_block), "i4")
        self._reader = np.full((words, warps_of_block), NOBODY, "i1")
        self._under_way = np.zeros(words, bool)
        self._warp_met = np.zeros(num_blocks * warps_of_block, "i4")
        self._block_met = np.zeros(num_blocks, "i4")
        self._copies: list[_Copies] = []

    def meet(self, mask: Array, now: int, *, is_block: bool) -> None:
        """A barrier of those threads, who are whole warps or whole blocks."""
        self._warp_met[mask.reshape(-1, WARP)[:, 0]] = now
        if is_block:
            self._block_met[mask.reshape(-1, WARP * self._warps)[:, 0]] = now

    def _place(self, addresses: Array, num_bytes: int, threads: Array) -> Array:
        """Where the bytes lie in the memory of all blocks."""
        offset = addresses.astype("i8") - self.window
        is_odd = offset % num_bytes != 0
        check(is_odd, threads, f"{num_bytes} bytes at an address that is no multiple", addresses)
        is_out = (offset < 0) | (offset + num_bytes > self.num_bytes)
        check(is_out, threads, f"{num_bytes} bytes of shared memory out of bounds", addresses)
        return offset + threads // (WARP * self._warps) * self._stride

    def load(self, addresses: Array, size: int, count: int, threads: Array, now: int
             ) -> list[Array]:  # fmt: skip
        """``count`` numbers of ``size`` bytes side by side for each of some threads."""
        at = self._place(addresses, size * count, threads)
        if self.traffic:
            self.traffic.note_shared(addresses, threads, size * count)
        for i in range(-(-size * count // WORD)):
            self._note_read(at // WORD + i, threads, now)
        view, at = self._views[size], at // size
        return [view[at + i] for i in range(count)]

    def lacking(self, addresses: Array, size: int, count: int, threads: Array) -> list[Array]:
        """Which of the numbers of such a load nobody wrote."""
        at = self._place(addresses, size * count, threads)
        return [self._written[(at + size * i) // WORD] == 0 for i in range(count)]

    def store(self, addresses: Array, values: list[Array], threads: Array, now: int) -> None:
        """Numbers of a word side by side of each of some threads."""
        at = self._place(addresses, WORD * len(values), threads) // WORD
        if self.traffic:
            self.traffic.note_shared(addresses, threads, WORD * len(values))
        view = self._views[WORD]
        for i, value in enumerate(values):
            self._check_write(at + i, threads)
            view[at + i] = value
            check(view[at + i] != value, threads, "two threads write different numbers", addresses)
            self._writer[at + i], self._written[at + i] = threads, now

    def begin_copy(self, addresses: Array, sources: Array, sizes: Array, threads: Array) -> None:
        """Nobody may touch those 16 bytes until their thread has waited."""
        at = self._place(addresses, COPY_BYTES, threads) // WORD
        if self.traffic:
            self.traffic.note_shared(addresses, threads, COPY_BYTES)
        words = at[:, None] + np.arange(COPY_BYTES // WORD)
        for i in range(COPY_BYTES // WORD):
            self._check_write(words[:, i], threads)
        self._under_way[words] = True
        self._copies.append(_Copies(sources, sizes, words, threads))

    def finish_copies(self, mask: Array) -> list[_Copies]:
        """The copies that those threads have begun; they must be written at once."""
        done, left = [], []
        for copies in self._copies:
            is_mine = mask[copies.threads]
            for some, where in ((done, is_mine), (left, ~is_mine)):
                if where.any():
                    parts = (copies.sources, copies.sizes, copies.words, copies.threads)
                    some.append(_Copies(*(part[where] for part in parts)))
        self._copies = left
        return done

    def write_copy(self, copies: _Copies, values: list[Array], now: int) -> None:
        """What a copy has brought."""
        self._under_way[copies.words] = False
        for i, value in enumerate(values):
            words = copies.words[:, i]
            self._views[WORD][words] = value
            self._writer[words], self._written[words] = copies.threads, now

    def end(self) -> None:
        """A fault if copies are still under way."""
        if self._copies:
            raise ThreadFault("ended before its copy arrived", int(self._copies[0].threads[0]))

    # Who was here before.

    def _last_meeting(self, others: Array, threads: Array) -> Array:
        """When each thread last met another at a barrier; 0 for never."""
        warps, blocks = threads // WARP, threads // (WARP * self._warps)
        is_same_warp = others // WARP == warps
        return np.where(is_same_warp, self._warp_met[warps], self._block_met[blocks])

    def _check_order(self, words: Array, threads: Array, what: str) -> None:
        check(self._under_way[words], threads, f"{what} where a copy is under way", words * WORD)
        writers, times = self._writer[words], self._written[words]
        is_race = (times > 0) & (writers != threads)
        is_race &= times >= self._last_meeting(writers, threads)
        check(is_race, threads, f"{what} what another thread wrote, without a barrier", words)

    def _note_read(self, words: Array, threads: Array, now: int) -> None:
        self._check_order(words, threads, "reads")
        own, lanes = threads // WARP % self._warps, (threads % WARP).astype("i1")
        is_old = self._read[words, own] < self._warp_met[threads // WARP]
        before = np.where(is_old, NOBODY, self._reader[words, own])
        is_alone = (before == NOBODY) | (before == lanes)
        self._reader[words, own] = np.where(is_alone, lanes, MANY)
        is_shared = self._reader[words, own] != lanes
        self._reader[words[is_shared], own[is_shared]] = MANY
        self._read[words, own] = now

    def _check_write(self, words: Array, threads: Array) -> None:
        self._check_order(words, threads, "writes")
        own, lanes = threads // WARP % self._warps, threads % WARP
        for warp in range(self._warps):
            is_own = own == warp
            met = np.where(is_own, self._warp_met[threads // WARP],
                           self._block_met[threads // (WARP * self._warps)])  # fmt: skip
            read = self._read[words, warp]
            is_race = (read > 0) & (read >= met)
            is_race &= ~is_own | (self._reader[words, warp] != lanes)
            check(is_race, threads, "writes what another thread read, without a barrier", words)
