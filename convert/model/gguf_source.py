"""A GGUF file as a source of another one: its metadata with the types that it has there.

``quant.gguf`` reads the file, ``metadata_override`` has what a user adds.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile, MetadataValue, StringArray, require_model
from edgellama.quant.gguf.strangers import reason_of
from edgellama.quant.model_config import ARCHITECTURES, CONVERTIBLE

# What depends on the output's types, parts and layout is for the writer to say.
_REPLACED = ("general.file_type", "general.quantization_version", "general.alignment")
_SPLIT = "split."
_ITEM_TYPES = {
    name: GGUFValueType[name.upper()]
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
} | {"float32": GGUFValueType.FLOAT32, "float64": GGUFValueType.FLOAT64, "bool": GGUFValueType.BOOL}
_log = logging.getLogger(__name__)


def gguf_items(path: Path) -> dict[str, MetadataItem]:
    """The keys of a file, but for those that the writer replaces; UnsupportedModelError unless it
    is a Llama.
    """
    with GGUFFile(path) as file:
        require_model(file)
        architecture = file.metadata.get("general.architecture")
        known = dict.fromkeys((*ARCHITECTURES, *CONVERTIBLE))
        if architecture not in known:
            raise UnsupportedModelError(
                f"{file.path}: architecture {shown(architecture)} cannot be converted"
                f"{reason_of(architecture)}; supported: {', '.join(known)}"
            )
        if file.metadata.get(f"{architecture}.expert_count"):
            raise UnsupportedModelError(
                f"{file.path}: a mixture of experts cannot be converted; supported: dense Llamas"
            )
        items = {}
        for key, value in file.metadata.items():
            if key in _REPLACED or key.startswith(_SPLIT):
                continue
            item = _item(value, GGUFValueType(file.metadata_types[key]))
            if item is None:
                _log.warning("%s: metadata key %s, an array of arrays, is left out", path, key)
            else:
                items[key] = item
        return items


def _item(value: MetadataValue, value_type: GGUFValueType) -> MetadataItem | None:
    """The value with its types; None for an array of arrays."""
    if isinstance(value, StringArray):
        return MetadataItem(value, value_type, GGUFValueType.STRING)
    if isinstance(value, np.ndarray):
        return MetadataItem(value, value_type, _ITEM_TYPES[value.dtype.name])
    if isinstance(value, tuple):
        return None
    return MetadataItem(value, value_type)
