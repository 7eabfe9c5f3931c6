"""Keys and values of the tokens that a session has seen.

Memory is reserved for the whole context and touched only as far as tokens are stored. The
layout is the attention kernel's; who may use the cache, and for which tokens, is the session's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.config import ModelConfig
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BYTES, CACHE_TYPES, PANEL_VECTORS
from edgellama.memory import reserve, round_up
from edgellama.quant.errors import InvalidOptionError


@dataclass(frozen=True)
class CacheLayout:
    """Bytes of a cache's parts: a value row, all positions of a head, all heads of a layer."""

    num_layers: int
    value_row_bytes: int
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

        Raises InvalidOptionError for a type that is not in CACHE_TYPES, or no tokens.
        """
        for kv_type in (key_type, value_type):
            if kv_type not in CACHE_TYPES:
                raise InvalidOptionError(f"KV type {kv_type!r}; allowed: {', '.join(CACHE_TYPES)}")
        if context_length < 1:
            raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
        block = PANEL_VECTORS * lanes
        positions = round_up(context_length, block)
        key_head_bytes = positions * config.head_size * CACHE_NUMBER_BYTES[key_type]
        value_row_bytes = round_up(config.head_size, block) * CACHE_NUMBER_BYTES[value_type]
        return cls(
            num_layers=config.block_count,
            value_row_bytes=value_row_bytes,
            key_head_bytes=key_head_bytes,
            value_head_bytes=positions * value_row_bytes,
            key_layer_bytes=config.head_count_kv * key_head_bytes,
            value_layer_bytes=config.head_count_kv * positions * value_row_bytes,
        )


class KVCache:
    """Room for ``context_length`` tokens, of which ``length`` are in use."""

    def __init__(self, config: ModelConfig, context_length: int, kv_type: str, lanes: int) -> None:
        self.layout = layout = CacheLayout.of(config, context_length, kv_type, kv_type, lanes)
        self.context_length = context_length
        self.kv_type = kv_type
        self.length = 0
        self._keys = reserve(layout.num_layers * layout.key_layer_bytes)
        self._values = reserve(layout.num_layers * layout.value_layer_bytes)

    @property
    def num_bytes(self) -> int:
        """Bytes reserved, all of which are touched once the context is full."""
        return self._keys.nbytes + self._values.nbytes

    @property
    def memory(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Keys and values: to be held by whoever uses their addresses."""
        return self._keys, self._values

    def bindings(self) -> dict[str, int]:
        """What the program calls by these names; addresses are of the first layer."""
        return {
            "keys": int(self._keys.ctypes.data),
            "values": int(self._values.ctypes.data),
            "key_head_bytes": self.layout.key_head_bytes,
            "value_head_bytes": self.layout.value_head_bytes,
            "value_row_bytes": self.layout.value_row_bytes,
        }

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
        self._keys = self._values = reserve(0)
