"""The largest number of tokens in a step, from the memory that a model's rows take.

These are plain numbers, so that a command can show them before anything heavy is imported.
``step_planner`` decides which tokens go into a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellama.kernels_cpu.layouts import PAGE_POSITIONS

if TYPE_CHECKING:
    from edgellama.quant.model_config import ModelConfig

MAX_STEP_TOKENS = 512
MAX_SHORT_TOKENS = 12
"""Up to here reading the blocks where they lie is faster than expanding them."""
MAX_STEP_NUMBERS = 1 << 25
"""Activations of a long step: what keeps the memory beside weights and cache below 200 MB."""


def step_tokens(config: ModelConfig) -> int:
    """Tokens of a long step of a model: fewer where its rows are very wide, a page at least."""
    widths = config.embedding_length, config.query_length, config.key_length
    numbers = 2 * (sum(widths) + config.feed_forward_length)
    tokens = MAX_STEP_TOKENS
    while tokens > PAGE_POSITIONS and tokens * numbers > MAX_STEP_NUMBERS:
        tokens //= 2
    return tokens
