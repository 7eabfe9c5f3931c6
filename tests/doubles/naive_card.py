"""What the card's kernels do, in NumPy and Python: for the driver's double, and slow.

Works on addresses of this process, as the double hands them out. How numbers lie in a page is
known to ``pages.card_numbers``, what kernels take to ``cuda.signatures``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from harness import naive_kernels as naive

from doubles.fake_modules import Launch
from edgellama.cuda import layouts
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES
from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.card_numbers import CardNumbers, card_numbers
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import Kernel

Array = np.ndarray[Any, np.dtype[Any]]
LOG2_E = 1.4426950408889634


def run(launch: Launch) -> None:
    """Do what a kernel would."""
    kernel = CARD_KERNELS[launch.name]
    names = CARD_SIGNATURES[kernel].parameters
    layer = Layer(kernel.options, dict(zip(names, launch.arguments, strict=True)))
    if kernel.family == "card_store":
        layer.store()
    else:
        layer.attend(is_few="few" in kernel.family)


class Layer:
    """One layer's arguments, as a kernel has them."""

    def __init__(self, options: tuple[str | int, ...], arguments: dict[str, Any]) -> None:
        self._a = arguments
        keys, values = map(str, options[:2])
        self._layout = CardPageLayout(
            (keys, values), 1, arguments["num_kv_heads"], arguments["head_size"]
        )
        segments = arguments["segments"]
        header = memory(segments, (8,), np.int64)
        count, self._num_few = int(header[0]), int(header[1])
        self._segments = memory(segments + layouts.HEADER_BYTES, (count, 8), np.int64)

    def store(self) -> None:
        """Keys and values of all segments into their pages, queries to where they are staged."""
        a = self._a
        for record in self._segments:
            row, num_tokens, position = map(int, record[:3])
            for token in range(num_tokens):
                page = self._page(record, position + token)
                parts = card_numbers(page, self._layout)
                for part, kind, name in zip(parts, self._layout.kinds, ("k", "v"), strict=True):
                    new = self._row(a[name] + (row + token) * a["kv_stride"], a["num_kv_heads"])
                    _write(part, kind, (position + token) % PAGE_POSITIONS, new)
                if a["staged_q"]:
                    source = self._row(a["q"] + (row + token) * a["q_stride"], a["num_heads"])
                    target = a["staged_q"] + (row + token) * a["staged_stride"]
                    self._row(target, a["num_heads"])[:] = source

    def attend(self, is_few: bool) -> None:
        """Attention of the segments of one kind."""
        a, some = self._a, slice(0, self._num_few) if is_few else slice(self._num_few, None)
        for record in self._segments[some]:
            row, num_tokens, position = map(int, record[:3])
            keys, values = self._cached(record, position + num_tokens)
            rows = range(row, row + num_tokens)
            q = np.stack([self._row(a["q"] + r * a["q_stride"], a["num_heads"]) for r in rows])
            window = None if a["window"] > 1 << 30 else a["window"]
            result = naive.attention(q, keys, values, position, window)
            assert abs(a["scale"] * a["head_size"] ** 0.5 / LOG2_E - 1) < 1e-5
            for r, heads in zip(rows, result, strict=True):
                self._row(a["y"] + r * a["y_stride"], a["num_heads"])[:] = heads

    def _cached(self, record: Array, length: int) -> tuple[Array, Array]:
        """Keys and values (heads, length, size) of a sequence."""
        found: list[list[Array]] = [[], []]
        for position in range(0, length, PAGE_POSITIONS):
            if not self._address(record, position):
                empty = np.zeros((self._a["num_kv_heads"], PAGE_POSITIONS, self._a["head_size"]))
                found[0].append(empty)
                found[1].append(empty)
                continue
            parts = card_numbers(self._page(record, position), self._layout)
            for rows, part, kind in zip(found, parts, self._layout.kinds, strict=True):
                rows.append(_read(part, kind))
        keys, values = (np.concatenate(rows, axis=1)[:, :length] for rows in found)
        return keys.astype(np.float32), values.astype(np.float32)

    def _address(self, record: Array, position: int) -> int:
        return int(memory(int(record[3]), (position // PAGE_POSITIONS + 1,), np.int64)[-1])

    def _page(self, record: Array, position: int) -> Array:
        """The layer's part of a page."""
        start = self._address(record, position) + self._a["key_offset"]
        return memory(start, (self._layout.layer_bytes,), np.uint8)

    def _row(self, address: int, num_heads: int) -> Array:
        return memory(address, (num_heads, self._a["head_size"]), np.float32)


def memory(address: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array over memory of this process."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    part = (ctypes.c_ubyte * num_bytes).from_address(address)
    return np.frombuffer(part, dtype).reshape(shape)


def _write(part: CardNumbers, kind: str, place: int, rows: Array) -> None:
    """Rows (heads, size) of one position, as the cache rounds them."""
    numbers, scales = np.ascontiguousarray(part.numbers()), part.scales()
    found, found_scales = cached_bits(kind, rows)
    numbers[0, :, place] = found
    part.write_numbers(numbers)
    if scales is not None and found_scales is not None:
        scales = np.ascontiguousarray(scales)
        scales[0, :, place] = found_scales
        part.write_scales(scales)


def _read(part: CardNumbers, kind: str) -> Array:
    """All positions of a page, (heads, positions, size), as f32."""
    numbers, scales = np.ascontiguousarray(part.numbers()[0]), part.scales()
    if kind == "f32":
        return numbers.view(np.float32)
    if kind == "f16":
        return numbers.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    signed = numbers.view(np.int8).astype(np.float32) if kind == "q8_0" else numbers - np.float32(8)
    assert scales is not None
    factors = np.ascontiguousarray(scales[0]).view(np.float16).astype(np.float32)
    return signed * factors.repeat(32, axis=2)[:, :, : signed.shape[2]]


def cached_bits(kind: str, rows: Array) -> tuple[Array, Array | None]:
    """What the cache stores for f32 rows (heads, size): bits of numbers, and of scales."""
    if kind == "f32":
        return rows.view(np.uint32), None
    if kind == "f16":
        return rows.astype(np.float16).view(np.uint16), None
    if kind == "bf16":
        bits = rows.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16), None
    blocks = naive.cached_blocks(kind, rows)
    numbers = np.concatenate([numbers for numbers, _ in blocks], -1)
    scales = np.concatenate([scale for _, scale in blocks], -1).view(np.uint16)
    if kind == "q8_0":
        return numbers.astype(np.int8).view(np.uint8), scales
    return (numbers + 8).astype(np.uint8), scales


def stub_ptx(
    kernels: list[Kernel], capability: tuple[int, int], progress: object = None
) -> dict[Kernel, str]:
    """Text with the kernels' entries, whose bodies the double does not look at."""
    found = {}
    for kernel in kernels:
        signature = CARD_SIGNATURES[kernel]
        kinds = ["f32" if p in signature.float_parameters else "u64" for p in signature.parameters]
        parameters = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(kinds))
        target, threads = "sm_75" if capability < (8, 0) else "sm_80", 32 * signature.num_warps
        head = f".version 7.0\n.target {target}\n.visible .entry {kernel.name}"
        found[kernel] = f"{head}({parameters})\n.maxntid {threads}\n{{ ret; }}"
    return found
