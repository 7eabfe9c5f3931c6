"""The kernel calls of a layer's attention: rotate, store, attend.

This module knows the arguments of the kernels for pages of keys and values. ``llama_program``
decides when they run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.program.buffers import MAX_ATTENTION_ROWS, StepBuffers, attention_tokens
from edgellama.engine.program.program import Arguments, Op
from edgellama.engine.program.step_values import (
    NUM_ATTEND_TASKS,
    NUM_PACKED_TASKS,
    NUM_SEGMENTS,
    NUM_STORE_TASKS,
    NUM_TOKENS,
    Attending,
    Method,
)
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass


class LayerAttention(Protocol):
    """Writes the ops between a layer's projections, for one place where keys and values lie."""

    def ops(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """Rotate, store, attend. ``index`` counts layers within a page; ``num_pairs``: of elements
        of a head that are rotated.
        """
        ...

    def stores(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """What must be done of these where only keys and values are wanted, without queries."""
        ...


@dataclass(frozen=True)
class AttentionOps:
    """The same for pages in the computer's memory.

    ``segments``: the address of the step's table, ``packed_segments`` that of packed segments
    beside others. ``index`` counts layers within a page.
    """

    config: ModelConfig
    buffers: StepBuffers
    pages: PageLayout
    segments: int
    packed_segments: int

    def ops(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """All of a layer: see ``LayerAttention``."""
        yield self._rope_store(index, num_pairs, self.config.head_count)
        yield from self._attend(attending, index)

    def stores(self, attending: Attending, index: int, num_pairs: int) -> Iterator[Op]:
        """See ``LayerAttention``."""
        yield self._rope_store(index, num_pairs, num_heads=0)

    def _rope_store(self, index: int, num_pairs: int, num_heads: int) -> Op:
        """Positions into queries and keys; keys and values into the pages."""
        b = self.buffers
        arguments = self._page_arguments(index) | {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "k": b.key.address,
            "v": b.value.address,
            "kv_stride": b.key.stride,
            "head_size": self.config.head_size,
            "num_heads": num_heads,
            "num_kv_heads": self.config.head_count_kv,
            "num_tasks": NUM_STORE_TASKS,
            "num_pairs": num_pairs,
            "cos_sin": int(b.cos_sin.ctypes.data),
        }
        return Op(Kernel("rope_store", self.pages.types.pair), arguments)

    def _attend(self, attending: Attending, index: int) -> Iterator[Op]:
        """Attention of all segments; parts of keys are joined where they are split."""
        if attending == "both":
            # Both ops write rows of their own and have scratch for each thread, so neither waits.
            tasks: Arguments = {"segments": self.packed_segments, "num_tasks": NUM_PACKED_TASKS}
            op = self._attend_by("packed", index)
            yield replace(op, arguments=op.arguments | tasks, barrier=False)
        yield self._attend_by("packed" if attending == "packed" else "direct", index)
        if attending != "packed":
            yield Op(Kernel("merge_attention"), self._common() | {"num_tasks": NUM_TOKENS})

    def _attend_by(self, method: Method, index: int) -> Op:
        b, config = self.buffers, self.config
        arguments: Arguments = {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "num_tasks": NUM_ATTEND_TASKS,
            "num_kv_heads": config.head_count_kv,
            "scale": 1.0 / math.sqrt(config.head_size),
            "tokens_per_task": attention_tokens(config, method),
            "scratch": b.scratch_address,
            "scratch_stride": b.scratch_bytes,
        }
        return Op(self._kernel(method), self._page_arguments(index) | self._common() | arguments)

    def _common(self) -> Arguments:
        b, config = self.buffers, self.config
        return {
            "y": b.attended.address,
            "y_stride": b.attended.stride,
            "head_size": config.head_size,
            "num_heads": config.head_count,
            "segments": self.segments,
            "num_segments": NUM_SEGMENTS,
            "window": config.sliding_window or ALL_KEYS,
        }

    def _kernel(self, method: Method) -> Kernel:
        """A cache of f32 is never packed, however many tokens share its keys."""
        pair = self.pages.types.pair
        if method == "packed" and "f32" not in pair:
            return Kernel("attention_packed", pair)
        group = self.config.heads_per_group
        rows = MAX_ATTENTION_ROWS if method == "packed" else min(group, MAX_ATTENTION_ROWS)
        return Kernel("attention_direct", (*pair, rows))

    def _page_arguments(self, index: int) -> Arguments:
        pages = self.pages
        return {
            "key_offset": pages.key_offset(index),
            "value_offset": pages.value_offset(index),
            "key_head_bytes": pages.key_head_bytes,
            "value_head_bytes": pages.value_head_bytes,
            "key_block_bytes": pages.key_block_bytes,
            "value_block_bytes": pages.value_block_bytes,
            "segments": self.segments,
            "num_segments": NUM_SEGMENTS,
        }
