"""Keys and values of the tokens that a session has seen.

Memory is reserved for the whole context and touched only as far as tokens are stored. The
layout is the attention kernel's; who may use the cache, and for which tokens, is the session's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.engine.kv_types import KVTypeChoice, KVTypes, scale_bytes
from edgellama.engine.memory import reserve, round_up
from edgellama.kernels_cpu.signatures import (
    ATTENTION_KEYS,
    CACHE_NUMBER_BITS,
    MAX_KEY_SPLITS,
    PANEL_VECTORS,
)
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.model_config import ModelConfig

SMALLEST_SPLIT = 512
"""Keys of one part where a token's keys are split: enough to be worth handing out."""


@dataclass(frozen=True)
class CacheLayout:
    """Bytes of a cache's parts: a block of positions, all of a head, all heads of a layer.

    ``split_keys``: how many keys of a token go together where they are split among threads.
    """

    num_layers: int
    num_positions: int
    split_keys: int
    key_block_bytes: int
    value_block_bytes: int
    key_head_bytes: int
    value_head_bytes: int
    key_layer_bytes: int
    value_layer_bytes: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole cache."""
        return self.num_layers * (self.key_layer_bytes + self.value_layer_bytes)

    @classmethod
    def of(
        cls, config: ModelConfig, context_length: int, key_type: str, value_type: str, lanes: int
    ) -> CacheLayout:
        """The layout for ``context_length`` tokens on a tier of ``lanes`` f32 numbers a vector.

        Raises InvalidOptionError for a type that is not in CACHE_TYPES, or no tokens, and
        UnsupportedModelError for heads of an odd size.
        """
        types = KVTypes(key_type, value_type)
        if context_length < 1:
            raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
        size, block = config.head_size, PANEL_VECTORS * lanes
        if size % 2:
            raise UnsupportedModelError(f"head size {size}; supported: even sizes")
        num_blocks = -(-context_length // block)
        key_block_bytes = block * _position_bytes(types.keys, size, size)
        value_block_bytes = block * _position_bytes(types.values, size, round_up(size, block))
        split_keys = round_up(-(-context_length // MAX_KEY_SPLITS), ATTENTION_KEYS)
        return cls(
            num_layers=config.block_count,
            num_positions=num_blocks * block,
            split_keys=max(SMALLEST_SPLIT, split_keys),
            key_block_bytes=key_block_bytes,
            value_block_bytes=value_block_bytes,
            key_head_bytes=num_blocks * key_block_bytes,
            value_head_bytes=num_blocks * value_block_bytes,
            key_layer_bytes=config.head_count_kv * num_blocks * key_block_bytes,
            value_layer_bytes=config.head_count_kv * num_blocks * value_block_bytes,
        )


def _position_bytes(kind: str, head_size: int, stored_elements: int) -> int:
    """Bytes of one head's key or value at one position, of which scales need no padding."""
    return stored_elements * CACHE_NUMBER_BITS[kind] // 8 + scale_bytes(kind, head_size)


class KVCache:
    """Room for ``context_length`` tokens, of which ``length`` are in use."""

    def __init__(
        self, config: ModelConfig, context_length: int, kv_type: KVTypeChoice, lanes: int
    ) -> None:
        self.types = types = KVTypes.of(kv_type)
        self.layout = layout = CacheLayout.of(
            config, context_length, types.keys, types.values, lanes
        )
        self.context_length = context_length
        self.length = 0
        self._hold(
            reserve(layout.num_layers * layout.key_layer_bytes),
            reserve(layout.num_layers * layout.value_layer_bytes),
        )

    def _hold(self, keys: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8]) -> None:
        """Take memory; what is asked for in every step is found out once."""
        self._keys, self._values = keys, values
        self._bindings = {
            "keys": int(keys.ctypes.data),
            "values": int(values.ctypes.data),
            "key_head_bytes": self.layout.key_head_bytes,
            "value_head_bytes": self.layout.value_head_bytes,
            "key_block_bytes": self.layout.key_block_bytes,
            "value_block_bytes": self.layout.value_block_bytes,
            "split_keys": self.layout.split_keys,
        }

    @property
    def num_bytes(self) -> int:
        """Bytes reserved, all of which are touched once the context is full."""
        return self._keys.nbytes + self._values.nbytes

    @property
    def memory(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Keys and values: to be held by whoever uses their addresses."""
        return self._keys, self._values

    def bindings(self) -> Mapping[str, int]:
        """What the program calls by these names; addresses are of the first layer."""
        return self._bindings

    def strides(self) -> dict[str, int]:
        """Bytes from one layer to the next."""
        return {"keys": self.layout.key_layer_bytes, "values": self.layout.value_layer_bytes}

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        if not 0 <= length <= self.length:
            raise InvalidOptionError(
                f"cannot truncate to {length} tokens; the cache holds {self.length}"
            )
        self.length = length

    def close(self) -> None:
        """Give the memory back; the cache is unusable afterwards."""
        self.length = self.context_length = 0
        self._hold(reserve(0), reserve(0))
