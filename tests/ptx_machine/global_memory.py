"""Memory that all blocks see: pieces of this process's memory at their own addresses.

Every access must lie within one piece and on a multiple of its size. What one warp of a launch
wrote another may only read after fences of both and a counter between them that both touched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np

from ptx_machine.faults import Array, check
from ptx_machine.traffic import Traffic

WORD = 4


class GlobalMemory:
    """Pieces of memory, each an address and its bytes."""

    def __init__(self, pieces: Iterable[tuple[int, int]]) -> None:
        found = sorted({piece for piece in pieces if piece[1]}) or [(64, 0)]
        starts, sizes = (np.array(numbers, "i8") for numbers in zip(*found, strict=True))
        self._starts, self._ends = starts, starts + sizes
        self._base = int(starts[0]) & -16
        num_bytes = (int(self._ends.max()) - self._base + 15) & -16
        whole = (ctypes.c_ubyte * num_bytes).from_address(self._base) if num_bytes else b""
        bytes_ = np.frombuffer(whole, "u1")
        self._views = {1 << n: bytes_.view(f"u{1 << n}") for n in range(4)}
        self._writes: dict[int, tuple[Array, Array]] = {}
        self._order = _Order()
        self._traffic: Traffic | None = None

    @classmethod
    def of_arrays(cls, *arrays: np.ndarray[Any, Any]) -> GlobalMemory:
        """The memory of arrays, which must be contiguous."""
        assert all(array.flags.c_contiguous for array in arrays)
        return cls((array.ctypes.data, array.nbytes) for array in arrays)

    def begin(self, num_warps: int, warps_of_block: int, traffic: Traffic | None = None) -> None:
        """Forget who wrote what: the next launch sees everything. ``traffic`` hears of accesses."""
        self._traffic = traffic
        self._writes.clear()
        self._order = _Order(num_warps, warps_of_block)

    def _piece(self, addresses: Array, num_bytes: int, threads: Array) -> Array:
        place = np.searchsorted(self._starts, addresses, "right") - 1
        is_odd = addresses % num_bytes != 0
        check(is_odd, threads, f"{num_bytes} bytes at an address that is no multiple", addresses)
        is_out = (place < 0) | (addresses + num_bytes > self._ends[place])
        check(is_out, threads, f"{num_bytes} bytes of global memory out of bounds", addresses)
        if self._traffic and len(addresses):
            self._traffic.note_memory(addresses, threads, num_bytes)
        return place

    def load(self, addresses: Array, size: int, count: int, threads: Array, warps: Array
             ) -> list[Array]:  # fmt: skip
        """``count`` numbers of ``size`` bytes side by side for each of some threads."""
        place = self._piece(addresses, size * count, threads)
        for written in self._writes:
            is_there = place == written
            if is_there.any():
                some = tuple(part[is_there] for part in (addresses, threads, warps))
                self._check_written(written, *some, size * count)
        view, at = self._views[size], (addresses - self._base) // size
        return [view[at + i] for i in range(count)]

    def _check_written(
        self, piece: int, addresses: Array, threads: Array, warps: Array, num_bytes: int
    ) -> None:
        writers, times = self._writes[piece]
        word = (addresses - (int(self._starts[piece]) & -WORD)) // WORD
        for i in range(-(-num_bytes // WORD)):
            writer, time = writers[word + i], times[word + i]
            is_others = (writer >= 0) & (writer != warps)
            if is_others.any():
                unseen = is_others & ~self._order.is_seen(writer, time, warps)
                check(unseen, threads, "what another warp wrote, without a fence", addresses)

    def store(self, addresses: Array, values: list[Array], threads: Array, warps: Array, now: int
              ) -> None:  # fmt: skip
        """Numbers side by side of each of some threads."""
        size = values[0].dtype.itemsize
        place = self._piece(addresses, size * len(values), threads)
        view, at = self._views[size], (addresses - self._base) // size
        for i, value in enumerate(values):
            view[at + i] = value
            check(view[at + i] != value, threads, "two threads write different numbers", addresses)
        for piece in np.unique(place):
            is_there = place == piece
            self._note(int(piece), addresses[is_there], threads[is_there], warps[is_there],
                       size * len(values), now)  # fmt: skip

    def _note(self, piece: int, addresses: Array, threads: Array, warps: Array, num_bytes: int,
              now: int) -> None:  # fmt: skip
        start = int(self._starts[piece]) & -WORD
        if piece not in self._writes:
            num_words = (int(self._ends[piece]) - start + WORD - 1) // WORD
            self._writes[piece] = np.full(num_words, -1, "i4"), np.zeros(num_words, "i4")
        writers, times = self._writes[piece]
        word = (addresses - start) // WORD
        for i in range(-(-num_bytes // WORD)):
            if num_bytes >= WORD:
                before, time = writers[word + i], times[word + i]
                is_race = (before >= 0) & (before != warps)
                is_race &= ~self._order.is_seen(before, time, warps)
                check(is_race, threads, "two warps write the same place", addresses)
            writers[word + i], times[word + i] = warps, now

    def meet(self, warps: Array, now: int, *, is_block: bool) -> None:
        """A barrier of all lanes of those warps, or of all warps of their blocks."""
        self._order.meet(np.unique(warps), now, is_block=is_block)

    def fence(self, warps: Array) -> None:
        """What those warps wrote before is seen before what they write from now on."""
        self._order.fence(np.unique(warps))

    def add(self, addresses: Array, values: Array, threads: Array, warps: Array) -> Array:
        """Atomically, one thread after the other; what was there before."""
        self._piece(addresses, values.dtype.itemsize, threads)
        view, found = self._views[values.dtype.itemsize], np.empty_like(values)
        for i, at in enumerate((addresses - self._base) // values.dtype.itemsize):
            found[i] = view[at]
            view[at] += values[i]
            self._order.touch(int(addresses[i]), int(warps[i]))
        return found


class _Order:
    """Which writes of a warp another sees.

    In a block those before a barrier of the block. Else they come before a barrier, a fence, and a
    counter that one lane adds to; the other warp adds to the counter, then come a fence and a
    barrier of its lanes. ``_seen[w, v]``: warp w sees what warp v wrote before that time.
    """

    def __init__(self, num_warps: int = 0, warps_of_block: int = 1) -> None:
        self._num_warps = num_warps
        self._met = np.zeros(num_warps, "i4")
        self._block_met = np.zeros(num_warps, "i4")
        self._block = np.arange(num_warps) // warps_of_block
        self._left: dict[int, Array] = {}
        self._seen = self._fenced = self._heard = self._acquired = np.zeros((0, 0), "i4")

    def _prepare(self) -> None:
        if not len(self._seen):
            shape = self._num_warps, self._num_warps
            self._seen, self._fenced, self._heard, self._acquired = (
                np.zeros(shape, "i4") for _ in range(4)
            )

    def meet(self, warps: Array, now: int, *, is_block: bool) -> None:
        """All lanes of those warps meet, or all warps of their blocks."""
        self._met[warps] = now
        if is_block:
            self._block_met[warps] = now
        if len(self._seen):
            self._seen[warps] = np.maximum(self._seen[warps], self._acquired[warps])

    def fence(self, warps: Array) -> None:
        """Lanes of those warps fence what all lanes have written before they met."""
        self._prepare()
        self._acquired[warps] = np.maximum(self._acquired[warps], self._heard[warps])
        is_mate = self._block[warps][:, None] == self._block
        met = np.where(is_mate, self._block_met[warps][:, None], 0)
        self._fenced[warps] = np.maximum(self._seen[warps], met)
        self._fenced[warps, warps] = self._met[warps]

    def touch(self, address: int, warp: int) -> None:
        """A warp leaves at a counter what it has fenced, and hears what others left there."""
        self._prepare()
        left = self._left.get(address, np.zeros(self._num_warps, "i4"))
        self._heard[warp] = np.maximum(self._heard[warp], left)
        self._left[address] = np.maximum(left, self._fenced[warp])

    def is_seen(self, writers: Array, times: Array, readers: Array) -> Array:
        """Of writes at some times, whether those warps see them."""
        writers = np.maximum(writers, 0)
        is_mate = self._block[writers] == self._block[readers]
        met = np.where(is_mate, self._block_met[readers], 0)
        if len(self._seen):
            met = np.maximum(met, self._seen[readers, writers])
        return np.asarray(times < met)
