"""The arguments of an engine, checked before anything runs.

Options of texts are checked where texts are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellama.engine.pages.text_cache import TextCache, no_room
from edgellama.engine.steps.segments import ROWS, Wanted
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.quant.array_types import FloatRows
    from edgellama.quant.model_config import ModelConfig


def checked_layers(layers: range | None, num_layers: int) -> range:
    """The layers that run. InvalidOptionError for others than some neighbours of the model's."""
    if layers is None:
        return range(num_layers)
    if layers.step != 1 or not 0 <= layers.start < layers.stop <= num_layers:
        raise InvalidOptionError(f"layers {layers}; allowed: neighbours among 0 to {num_layers}")
    return layers


def checked_tokens(
    tokens: Sequence[int] | npt.NDArray[np.int32], cache: TextCache, config: ModelConfig
) -> npt.NDArray[np.int64]:
    """The tokens as one row of ids.

    InvalidOptionError, or ContextLengthError if the sequence has no room for them.
    """
    ids = np.array(tokens)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InvalidOptionError(
            f"tokens must be one row of whole numbers, not {ids.dtype} of shape {ids.shape}"
        )
    if len(ids):
        low = high = int(ids[0])
        if len(ids) > 1:
            low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= config.vocab_size:
            allowed = f"0 to {config.vocab_size - 1}"
            raise InvalidOptionError(f"token ids from {low} to {high}; allowed: {allowed}")
    if cache.length + len(ids) > cache.context_length:
        raise no_room(cache, len(ids))
    return ids.astype(np.int64, copy=False)


def check_wanted(
    wanted: Wanted,
    rows: FloatRows | None,
    num_tokens: int,
    layers: range,
    config: ModelConfig,
) -> None:
    """InvalidOptionError for what the ``layers`` that run cannot take or give."""
    is_first, is_last = layers.start == 0, layers.stop == config.block_count
    shape = (num_tokens, config.embedding_length)
    if is_first and rows is not None:
        raise InvalidOptionError("rows are given, but the first layer runs here")
    if not is_first and (rows is None or rows.shape != shape):
        found = "none" if rows is None else f"{rows.shape}"
        raise InvalidOptionError(f"rows {found}; allowed: an array of shape {shape}")
    if not is_last and wanted not in ("none", *ROWS):
        raise InvalidOptionError('logits are wanted; allowed without the last layer: "rows"')
