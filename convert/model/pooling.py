"""How a checkpoint's texts become vectors: from sentence-transformers' files to GGUF's key.

``quant.pooling`` knows the kinds of pooling that the engine has.
"""

from __future__ import annotations

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.config_keys import USUAL_ARCHITECTURE
from edgellama.quant.pooling import POOLING_KEY, POOLING_TYPES, PoolingName

FILE = "1_Pooling/config.json"
_MODES: tuple[tuple[str, PoolingName], ...] = (
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "first"),
    ("pooling_mode_lasttoken", "last"),
)


def pooling_items(config: Fields) -> dict[str, MetadataItem]:
    """The key of the one mode that is on; none if none is, or several are."""
    modes = [name for field, name in _MODES if config.flag(field, False)]
    numbers = {name: number for number, name in POOLING_TYPES.items()}
    if len(modes) != 1:
        return {}
    return {f"{USUAL_ARCHITECTURE}.{POOLING_KEY}": metadata.unsigned(numbers[modes[0]])}
