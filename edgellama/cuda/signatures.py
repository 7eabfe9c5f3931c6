"""Every kernel of the card and its arguments: the contract between the host's code and the PTX.

Like ``kernels_cpu.signatures`` this is plain data, so neither numba nor a kernel is imported. All
parameters are passed by value in the order given here, each in a slot of 8 bytes: int64, except for
those named as float32. Addresses are the card's own, also for the computer's memory that is mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from types import MappingProxyType

from edgellama.cuda.decode_layout import MAX_ROWS, queries_bytes, weights_bytes
from edgellama.cuda.layouts import num_groups
from edgellama.cuda.prefill_tiles import (
    TILE_WARPS,
    TURING_WIDTHS,
    WIDTHS,
    PlainTile,
    TensorTile,
    blocks_of,
    width_of,
)
from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES, PAGE_POSITIONS
from edgellama.kernels_cpu.signatures import CACHE_SCALE_ELEMENTS, CACHE_TYPES, Kernel


def no_shared_bytes(head_size: int) -> int:
    """Of a kernel whose blocks share no memory."""
    return 0


@dataclass(frozen=True)
class CardSignature:
    """Module and factory of a kernel, its parameters, and how its blocks are launched.

    ``num_warps`` of 32 threads are a block; ``shared_bytes`` tells, for a head size, the bytes of
    memory that a launch must give to each block. The factory is told the kernel's options and gives
    a function of the parameters and ``warp``. An ``is_exact`` kernel rounds as written. A
    multiprocessor has registers for ``min_blocks`` blocks at least, unless that is 0.
    """

    module: str
    factory: str
    parameters: tuple[str, ...]
    float_parameters: frozenset[str] = frozenset()
    num_warps: int = 1
    shared_bytes: Callable[[int], int] = field(default=no_shared_bytes)
    is_exact: bool = False
    min_blocks: int = 0


Table = dict[Kernel, CardSignature]
LAYER = ("head_size", "num_heads", "num_kv_heads")
CACHE = ("key_offset", "value_offset", "key_head_bytes", "value_head_bytes")
"""Where a layer's keys and values lie in a page, and the bytes of a head of each."""
STORE = (
    *("q", "q_stride", "staged_q", "staged_stride", "k", "v", "kv_stride"),
    *LAYER, *CACHE, "segments",
)  # fmt: skip
"""Rows of queries are copied to ``staged_q`` in the card's memory, unless that is 0: blocks that
attend read them many times, and the bus is slow."""


ATTEND = (
    "q", "q_stride", "y", "y_stride", *LAYER, *CACHE, "segments", "window", "scale",
)  # fmt: skip
"""Rows of queries and of results; ``scale`` of the scores carries the factor log2(e)."""
MANY = (*ATTEND, "first_block")
"""Many blocks in a row may be launched one part after the other, from the first of each part on."""
FEW_BLOCKS = 8
"""Enough that one's loads hide behind others' products; more would not leave registers enough."""


def few_shared_bytes(value_kind: str, rows: int, head_size: int) -> int:
    """Queries of a warp, weights of a page's positions, scales of its values."""
    groups = num_groups(head_size, CACHE_SCALE_ELEMENTS.get(value_kind, 0))
    scales = groups * CACHE_SCALE_BYTES * PAGE_POSITIONS
    return queries_bytes(head_size, rows) + weights_bytes(rows) + scales


def _store_signatures() -> Table:
    return {
        Kernel("card_store", pair): CardSignature("store", "store", STORE, is_exact=True)
        for pair in product(CACHE_TYPES, CACHE_TYPES)
    }


def _few_signatures() -> Table:
    table = {}
    for keys, values in product(CACHE_TYPES, CACHE_TYPES):
        for rows in range(1, MAX_ROWS + 1):
            signature = CardSignature(
                "decode", "attend_few", ATTEND, frozenset({"scale"}),
                shared_bytes=partial(few_shared_bytes, values, rows), min_blocks=FEW_BLOCKS,
            )  # fmt: skip
            table[Kernel("card_attend_few", (keys, values, rows))] = signature
    return table


TENSOR_TYPES = ("f16", "bf16", "q8_0", "q4_0")
"""Types of the cache that tensor cores multiply, as halves where they are quantized."""


def many_shared_bytes(pair: tuple[str, str], is_turing: bool, head_size: int) -> int:
    """A tile of keys and values, and queries or results."""
    return TensorTile(pair, width_of(head_size), is_turing).shared_bytes


def _many_signatures() -> Table:
    table = {}
    for pair, width in product(product(TENSOR_TYPES, TENSOR_TYPES), WIDTHS):
        for factory, is_turing in (("attend_many", False), ("attend_many_turing", True)):
            if not is_turing or width in TURING_WIDTHS:
                table[Kernel(f"card_{factory}", (*pair, width))] = CardSignature(
                    "prefill", factory, MANY, frozenset({"scale"}), TILE_WARPS,
                    partial(many_shared_bytes, pair, is_turing),
                    min_blocks=blocks_of(pair, width, is_turing=is_turing),
                )  # fmt: skip
    return table


def plain_shared_bytes(pair: tuple[str, str], head_size: int) -> int:
    """A tile of keys or values, weights and queries."""
    return PlainTile(pair, width_of(head_size)).shared_bytes


def _plain_signatures() -> Table:
    return {
        Kernel("card_attend_many_plain", (*pair, width)): CardSignature(
            "prefill_plain", "attend_many_plain", MANY, frozenset({"scale"}), TILE_WARPS,
            partial(plain_shared_bytes, pair), min_blocks=blocks_of(pair, width, is_plain=True),
        )
        for pair, width in product(product(CACHE_TYPES, CACHE_TYPES), WIDTHS)
    }  # fmt: skip


CARD_SIGNATURES: Mapping[Kernel, CardSignature] = MappingProxyType(
    _store_signatures() | _few_signatures() | _many_signatures() | _plain_signatures()
)
"""Every kernel of the card.

``card_store`` (types of keys and values) has a block for each row of the step and KV head: grid
(rows, num_kv_heads). ``card_attend_few`` (types, rows of ``decode_layout.part_rows``) has one for
each part of a token's keys: grid (sum of ``decode_tasks``, num_kv_heads, ``head_parts``).
``card_attend_many`` (types, ``prefill_tiles.width_of`` a head's size) has one for each part of the
keys of a tile of query rows: grid (sum of ``prefill_tasks``, num_kv_heads, ``row_parts``); on cards
before Ampere, and without tensor cores for every type, it is ``card_attend_many_turing`` and
``_plain``.
"""
CARD_KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {kernel.name: kernel for kernel in CARD_SIGNATURES}
)
"""All of them by name."""


def many_kernel(pair: tuple[str, str], head_size: int, tier: str) -> Kernel:
    """The kernel for many tokens, of a cache's types, on cards of a tier.

    >>> many_kernel(("q8_0", "f16"), 100, "sm_80").name
    'card_attend_many_q8_0_f16_112'
    >>> many_kernel(("bf16", "f16"), 256, "sm_75").name
    'card_attend_many_plain_bf16_f16_256'
    """
    family = "card_attend_many" if tier == "sm_80" else "card_attend_many_turing"
    options = (*pair, width_of(head_size))
    best = Kernel(family, options)
    return best if best in CARD_SIGNATURES else Kernel("card_attend_many_plain", options)
