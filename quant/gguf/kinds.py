"""Kinds of GGUF files: models, and other things that the format can hold.

A file names its kind as ``general.type``. This module knows the purpose of the other kinds, and
``model_config`` what a model needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.quant.error_text import shown
from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.ways import Way

MODEL_KIND = "model"
NO_MODELS = MappingProxyType(
    {
        "adapter": (
            "a LoRA adapter",
            Way("load its model, and this by load_adapter", "give it with --lora beside its model"),
        ),
        "imatrix": (
            "an importance matrix",
            Way("give it to convert as imatrix", "give it to edgellama convert with --imatrix"),
        ),
        "mmproj": (
            "the part of a model that sees or hears",
            Way("open the file of its text model", "give the file of its text model"),
        ),
    }
)
"""Kinds that users take for models, and what they are for."""


def check_model_kind(metadata: Mapping[str, object]) -> None:
    """UnsupportedModelError, without a file's name, for metadata of something else than a model."""
    kind = metadata.get("general.type", MODEL_KIND)
    if isinstance(kind, str) and kind in NO_MODELS:
        what, way = NO_MODELS[kind]
        raise UnsupportedModelError(f"the file holds {what}, not a model", way=way)
    if kind != MODEL_KIND:
        raise UnsupportedModelError(
            f"general.type is {shown(kind)}; needed: a model, {MODEL_KIND!r}"
        )
