"""How a file says that a text's states become one vector: GGUF's key and its values.

``generation.judging.embedding`` does the pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

POOLING_KEY = "pooling_type"
"""Under the name of the file's architecture."""
PoolingName: TypeAlias = Literal["none", "mean", "first", "last", "rank"]
POOLING_TYPES: Mapping[int, PoolingName] = MappingProxyType(
    {0: "none", 1: "mean", 2: "first", 3: "last", 4: "rank"}
)
"""What a number of the format means; 2 is BERT's first token, CLS."""
