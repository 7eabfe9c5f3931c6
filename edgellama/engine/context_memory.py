"""The default context that this machine's memory allows, and warnings about longer ones.

It knows the size of a token in the KV cache. A length that the user asks for is never changed.
"""

from __future__ import annotations

import logging

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way

logger = logging.getLogger(__name__)

KV_SHARE_OF_MEMORY = 0.5
"""At most; the rest is for the weights, which live in the page cache, and for other programs."""
LEAST_KV_SHARE = 0.125
"""Even where the weights leave less."""
PROCESS_BYTES = 50_000_000
"""About what a process comes to take beside weights, keys and values, after its start."""
LENGTH_STEP = 256
SMALLEST_LENGTH = 512


def warn_of_length(length: int, config: ModelConfig) -> None:
    """Say in the log where a context is longer than the model can be expected to read."""
    if length > config.context_length:
        logger.warning(
            "context of %d is more than the model's own %d", length, config.context_length
        )


@dataclass(frozen=True)
class MemoryNeed:
    """A model's file of ``weights_bytes`` with a context, beside ``available_bytes``.

    None bytes means that free memory is unknown, and nothing is capped or said.
    """

    config: ModelConfig
    kv_types: KVTypes
    weights_bytes: int
    available_bytes: int | None

    def fitting_context_length(self) -> int:
        """The model's own context length, or less where its cache would not fit."""
        own_length = self.config.context_length
        if self.available_bytes is None:
            return own_length
        left = self.available_bytes - self.weights_bytes - PROCESS_BYTES
        least, most = (
            LEAST_KV_SHARE * self.available_bytes,
            KV_SHARE_OF_MEMORY * self.available_bytes,
        )
        capped = self._longest(int(min(max(left, least), most)))
        if capped >= own_length:
            return own_length
        logger.warning(
            "the context is %d tokens, not the model's %d, because of free memory; %s",
            capped,
            own_length,
            Way("context_length=N overrides this", "--context N overrides this"),
        )
        return capped

    def warn(self, length: int | None) -> None:
        """Warn in the log if a full context of ``length`` tokens would not fit, and say what does.

        None: nobody asked for a length, and only weights that are too large give a warning.
        """
        if self.available_bytes is None:
            return
        beside = self.weights_bytes + PROCESS_BYTES
        kv_bytes = self._kv_bytes(SMALLEST_LENGTH if length is None else length)
        if beside + kv_bytes <= self.available_bytes:
            return
        free = _readable(self.available_bytes)
        if (least := beside + self._kv_bytes(SMALLEST_LENGTH)) > self.available_bytes:
            logger.warning(
                "the model takes %s even with a context of %d tokens, and %s of memory are free, "
                "so that its file is read from the disk again and again; choose a smaller model "
                "or type%s",
                _readable(least),
                SMALLEST_LENGTH,
                free,
                Way("", f": edgellama footprint MODEL --fit {free.replace(' ', '')}"),
            )
            return
        shorter = self._longest(self.available_bytes - beside)
        logger.warning(
            "a full context of %d tokens takes %s with the weights, and %s of memory are free; "
            "what fits: %s",
            length,
            _readable(beside + kv_bytes),
            free,
            Way(f"context_length={shorter}", f"--context {shorter}"),
        )

    def _longest(self, kv_bytes: int) -> int:
        """How many tokens ``kv_bytes`` hold, in whole steps; behind a window any number."""
        window = self.config.sliding_window
        if window is not None and self._kv_bytes(window) <= kv_bytes:
            return self.config.context_length
        return max(kv_bytes // self._kv_bytes(1) // LENGTH_STEP * LENGTH_STEP, SMALLEST_LENGTH)

    def _kv_bytes(self, length: int) -> int:
        """Bytes of so many tokens' keys and values, of which a window keeps the last ones."""
        num_heads = self.config.block_count * self.config.head_count_kv
        kept = min(length, self.config.sliding_window or length)
        return kept * num_heads * self.kv_types.position_bytes(self.config.head_size)


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
