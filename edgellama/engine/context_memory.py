"""How long a context this machine's memory allows by default, and what is said of others.

It knows the size of a token in the KV cache. A length that the user asks for is never changed.
"""

from __future__ import annotations

import logging

from edgellama.engine.kv_types import KVTypes
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.ways import Way

logger = logging.getLogger(__name__)

KV_SHARE_OF_MEMORY = 0.5
"""The rest is for the weights, which live in the page cache, and for other programs."""
LENGTH_STEP = 256
SMALLEST_LENGTH = 512


def warn_of_length(length: int, config: ModelConfig) -> None:
    """Say in the log where a context is longer than the model can be expected to read."""
    if length > config.context_length:
        logger.warning(
            "context of %d is more than the model's own %d", length, config.context_length
        )


def fitting_context_length(
    config: ModelConfig, kv_types: KVTypes, available_bytes: int | None
) -> int:
    """The model's own context length, or less where its cache would not fit ``available_bytes``.

    None bytes means that free memory is unknown and nothing is capped.
    """
    own_length = config.context_length
    if available_bytes is None:
        return own_length
    num_heads = config.block_count * config.head_count_kv
    token_bytes = num_heads * kv_types.position_bytes(config.head_size)
    fitting = int(available_bytes * KV_SHARE_OF_MEMORY) // token_bytes
    capped = max(fitting // LENGTH_STEP * LENGTH_STEP, SMALLEST_LENGTH)
    if capped >= own_length:
        return own_length
    logger.warning(
        "the context is %d tokens, not the model's %d, because of free memory; %s",
        capped,
        own_length,
        Way("context_length=N overrides this", "--context N overrides this"),
    )
    return capped
