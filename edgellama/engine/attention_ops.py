"""The calls of a layer's attention: rotate, store, attend; ``llama_program`` says when.

Knows how the kernels over the cache want their arguments, and which of them suits a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgellama.engine.buffers import MAX_ATTENTION_ROWS, StepBuffers, attention_tokens
from edgellama.engine.kv_types import KVTypes
from edgellama.engine.program import Arguments, Bound, Op
from edgellama.engine.step_values import NUM_TOKENS, POSITION, Mode
from edgellama.quant.model_config import ModelConfig

ALL_KEYS = 1 << 40
"""More keys than any context has: what a long step, which has tasks enough, splits keys at."""


@dataclass(frozen=True)
class AttentionOps:
    """Writes the ops between a layer's projections; ``index`` is the layer's."""

    config: ModelConfig
    buffers: StepBuffers

    def rope_store(self, index: int, types: KVTypes) -> Op:
        """Positions into queries and keys; keys and values into the cache."""
        b = self.buffers
        arguments = self._cache_arguments(index) | {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "k": b.key.address,
            "v": b.value.address,
            "kv_stride": b.key.stride,
            "head_size": self.config.head_size,
            "num_heads": self.config.head_count,
            "num_kv_heads": self.config.head_count_kv,
            "num_pairs": self.config.rope.dimension_count // 2,
            "cos_sin": int(b.cos_sin.ctypes.data),
        }
        return Op(f"rope_store_{types.kernel_suffix}", arguments)

    def attend(self, mode: Mode, index: int, types: KVTypes) -> Iterator[Op]:
        """Long steps read packed keys and values, except of f32, which stay exact."""
        config, b = self.config, self.buffers
        group = config.head_count // config.head_count_kv
        is_short = mode != "prefill"
        method = str(min(group, MAX_ATTENTION_ROWS) if is_short else MAX_ATTENTION_ROWS)
        if not is_short and "f32" not in (types.keys, types.values):
            method = "packed"
        split_keys = Bound("split_keys") if is_short else ALL_KEYS
        common: Arguments = {
            "y": b.attended.address,
            "y_stride": b.attended.stride,
            "head_size": config.head_size,
            "num_heads": config.head_count,
            "position": POSITION,
            "num_tokens": NUM_TOKENS,
            "split_keys": split_keys,
            "partials": int(b.partials.ctypes.data),
        }
        arguments = self._cache_arguments(index) | common
        arguments |= {
            "q": b.query.address,
            "q_stride": b.query.stride,
            "num_kv_heads": config.head_count_kv,
            "scale": 1.0 / math.sqrt(config.head_size),
            "tokens_per_task": attention_tokens(group, is_short),
            "scratch": int(b.scratch.ctypes.data),
            "scratch_stride": b.scratch_bytes,
        }
        yield Op(f"attention_{types.kernel_suffix}_{method}", arguments)
        if is_short:
            yield Op("merge_attention", common)

    def _cache_arguments(self, index: int) -> Arguments:
        return {
            "keys": Bound("keys", index=index),
            "values": Bound("values", index=index),
            "key_head_bytes": Bound("key_head_bytes"),
            "value_head_bytes": Bound("value_head_bytes"),
            "key_block_bytes": Bound("key_block_bytes"),
            "value_block_bytes": Bound("value_block_bytes"),
            "position": POSITION,
            "num_tokens": NUM_TOKENS,
        }
