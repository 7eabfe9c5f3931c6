"""A layer's attention on a graphics card: the calls for the executor, and their arguments.

Queries, keys, values and results are the step's own buffers, which the card reads and writes in
place. ``cuda.signatures`` lists the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgellama.cuda.card_tiers import tier_of_card
from edgellama.cuda.decode_layout import head_parts, part_rows
from edgellama.cuda.layouts import row_parts
from edgellama.cuda.modules import Function
from edgellama.cuda.signatures import CARD_SIGNATURES, many_kernel
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.program.attention_ops import AttentionOps
from edgellama.engine.program.buffers import StepBuffers
from edgellama.engine.program.program import Bound, Op
from edgellama.engine.program.step_values import NUM_TOKENS, Attending
from edgellama.kernels_cpu.layouts import ALL_KEYS, LAUNCH_BYTES
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

NUM_FEW_TASKS, NUM_MANY_TASKS = Bound("num_few_tasks"), Bound("num_many_tasks")
CARD_TABLE, CARD_TABLE_SOURCE = Bound("card_table"), Bound("card_table_source")
CARD_TABLE_BYTES = Bound("card_table_bytes")
NO_BOUND = (1 << 31) - 1
"""Blocks in a row that a launch may have."""
LOG2_E = math.log2(math.e)
Words = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CardRows:
    """Where the card finds the rows of a step's buffers; ``staged_q`` is in its own memory."""

    q: int
    k: int
    v: int
    y: int
    staged_q: int


class Launches:
    """The records of a layout's launches, layer by layer, in memory that the executor reads.

    The table of ``segments`` may be changed for all of them at once, and how many blocks in a row
    attend many tokens at once.
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: CardLayout,
        kernels: CardKernels,
        functions: Mapping[Kernel, Function],
        rows: CardRows,
        buffers: StepBuffers,
    ) -> None:
        """``functions``: those of all ``kernels``."""
        self._config, self._layout, self._functions = config, layout, functions
        self.kernels = kernels
        self._common = self._slots(
            {
                "q": rows.q,
                "q_stride": buffers.query.stride,
                "k": rows.k,
                "v": rows.v,
                "kv_stride": buffers.key.stride,
                "y": rows.y,
                "y_stride": buffers.attended.stride,
                "staged_q": rows.staged_q,
                "staged_stride": buffers.query.stride,
                "head_size": config.head_size,
                "num_heads": config.head_count,
                "num_kv_heads": config.head_count_kv,
                "key_head_bytes": layout.card.key_head_bytes,
                "value_head_bytes": layout.card.value_head_bytes,
                "window": config.sliding_window or ALL_KEYS,
                "scale": LOG2_E / math.sqrt(config.head_size),
                "segments": 0,
                "first_block": 0,
            }
        )
        bounds = self._slots({"none": NO_BOUND, "many": NO_BOUND, "unused": 0})
        self._no_bound, self._many_at_once, self._unused = bounds.values()
        self._staged = {"q": self._common["staged_q"], "q_stride": self._common["staged_stride"]}
        self._held: list[object] = []
        self._layers = [self._layer(index) for index in range(layout.num_card_layers)]

    def set_segments(self, address: int, many_at_once: int) -> None:
        """Where the card has the table of segments, and the bound of ``splits.blocks_at_once``."""
        self._common["segments"][0] = address
        self._many_at_once[0] = many_at_once

    def of_layer(self, index: int) -> dict[str, int]:
        """Addresses of the records of a layer, as ``attend_on_card`` takes them."""
        return self._layers[index]

    def _layer(self, index: int) -> dict[str, int]:
        card = self._layout.card
        own = self._slots(
            {"key_offset": card.key_offset(index), "value_offset": card.value_offset(index)}
        )
        group, kernels = self._config.heads_per_group, self.kernels
        attending = own | self._staged
        return {
            "store": self._record(kernels.store, 1, own),
            "few": self._record(kernels.few, head_parts(group), attending),
            "many": self._record(kernels.many, row_parts(group), attending),
        }

    def _record(self, kernel: Kernel, num_planes: int, own: dict[str, Words]) -> int:
        """A launch of blocks for each KV head, and its address."""
        signature, function = CARD_SIGNATURES[kernel], self._functions[kernel]
        slots = self._common | own
        places = np.array([_address(slots[p]) for p in signature.parameters], np.int64)
        num_threads = 32 * signature.num_warps
        shared_bytes = signature.shared_bytes(self._config.head_size)
        record = np.zeros(LAUNCH_BYTES // 8, np.int64)
        num_kv_heads, is_bound = self._config.head_count_kv, "first_block" in signature.parameters
        record[:] = (
            function.handle, num_kv_heads, num_planes, num_threads, shared_bytes, _address(places),
            _address(self._many_at_once if is_bound else self._no_bound),
            _address(slots["first_block"] if is_bound else self._unused),
        )  # fmt: skip
        self._held += [slots, places, record]
        return _address(record)

    def _slots(self, values: Mapping[str, int | float]) -> dict[str, Words]:
        """A word of its own for each value."""
        slots = {}
        for name, value in values.items():
            slots[name] = slot = np.zeros(1, np.int64)
            if isinstance(value, float):
                slot.view(np.float32)[0] = value
            else:
                slot[0] = value
        return slots


@dataclass(frozen=True)
class CardKernels:
    """What stores, attends few tokens and attends many."""

    store: Kernel
    few: Kernel
    many: Kernel

    @classmethod
    def of(
        cls, config: ModelConfig, layout: CardLayout, capability: tuple[int, int]
    ) -> CardKernels:
        """The kernels for a model's heads, types of the cache, and a card."""
        pair = layout.types.pair
        few = Kernel("card_attend_few", (*pair, part_rows(config.heads_per_group)))
        return cls(Kernel("card_store", pair), few, cls.many_of(config, pair, capability))

    @staticmethod
    def many_of(config: ModelConfig, pair: tuple[str, str], capability: tuple[int, int]) -> Kernel:
        """The one that attends many."""
        tier = tier_of_card(*capability)
        assert tier is not None
        return many_kernel(pair, config.head_size, tier.name)

    @property
    def all(self) -> tuple[Kernel, ...]:
        """All three kernels."""
        return self.store, self.few, self.many


@dataclass(frozen=True)
class CardAttentionOps:
    """Writes a layer's ops where its keys and values lie on the card.

    ``card``: address of its record; ``cancel_word``: of the team's word.
    """

    config: ModelConfig
    buffers: StepBuffers
    layout: CardLayout
    card: int
    cancel_word: int
    launches: Launches

    def ops(self, index: int, num_pairs: int) -> Iterator[Op]:
        """Rotation here, the rest there. The table of segments goes with the first layer."""
        b, config = self.buffers, self.config
        yield Op(
            Kernel("rope", (self.layout.types.keys,)),
            {
                "q": b.query.address,
                "q_stride": b.query.stride,
                "k": b.key.address,
                "kv_stride": b.key.stride,
                "head_size": config.head_size,
                "num_heads": config.head_count,
                "num_kv_heads": config.head_count_kv,
                "num_pairs": num_pairs,
                "cos_sin": int(b.cos_sin.ctypes.data),
                "num_tokens": NUM_TOKENS,
            },
        )
        launches: dict[str, int | float | Bound] = dict(self.launches.of_layer(index))
        yield Op(
            Kernel("attend_on_card"),
            launches
            | {
                "card": self.card,
                "table": CARD_TABLE,
                "table_source": CARD_TABLE_SOURCE,
                "table_bytes": 0 if index else CARD_TABLE_BYTES,
                "num_tokens": NUM_TOKENS,
                "num_few_tasks": NUM_FEW_TASKS,
                "num_many_tasks": NUM_MANY_TASKS,
                "cancel_word": self.cancel_word,
            },
        )


@dataclass(frozen=True)
class SplitAttention:
    """The first layers of a layout on the card, the others on the CPU."""

    card: CardAttentionOps
    host: AttentionOps

    def ops(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """See ``LayerAttention``."""
        num_card_layers = self.card.layout.num_card_layers
        if index < num_card_layers:
            return self.card.ops(index, num_pairs)
        return self.host.ops(attending, index - num_card_layers, num_pairs)

    def stores(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """See ``LayerAttention``; a card does not store without attending."""
        num_card_layers = self.card.layout.num_card_layers
        if index < num_card_layers:
            return self.card.ops(index, num_pairs)
        return self.host.stores(attending, index - num_card_layers, num_pairs)


def _address(words: Words) -> int:
    return int(words.ctypes.data)
