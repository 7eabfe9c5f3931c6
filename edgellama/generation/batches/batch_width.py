"""How many texts of a batch run at once: as many as the caller asks for, or as memory allows.

Each further text makes reading the weights cheaper for all, by less and less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.quant.given_values import whole_number
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.quant.model_config import ModelConfig

USUAL_WIDTH, MOST_WIDTH = 32, 64
"""Texts that always run at once where nobody says how many, and those that do at most."""
SHARE_OF_MEMORY = 0.25
"""Of what is free, for keys and values of all texts where more than usual run."""


@dataclass(frozen=True)
class BatchWidth:
    """Up to ``most`` texts; those beyond ``usual`` while all have at most ``num_tokens``."""

    most: int
    usual: int
    num_tokens: int = 0

    @classmethod
    def of(
        cls, width: int | None, config: ModelConfig, kv_type: str, available_bytes: int | None
    ) -> BatchWidth:
        """``width`` texts, or what suits a model; InvalidOptionError for what is no number.

        ``available_bytes``: memory that is free; None: unknown.
        """
        if width is not None:
            most = whole_number("width", width, 1)
            return cls(most, most)
        num_heads = config.block_count * config.head_count_kv
        token_bytes = num_heads * KVTypes.of(kv_type).position_bytes(config.head_size)
        room = int((available_bytes or 0) * SHARE_OF_MEMORY)
        return cls(MOST_WIDTH, USUAL_WIDTH, room // token_bytes)

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether one more may begin beside texts of at most so many tokens each."""
        count = len(lengths)
        if count < self.usual:
            return True
        return count < self.most and sum(lengths) * (count + 1) <= self.num_tokens * count
