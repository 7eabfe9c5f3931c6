"""Reads values under a model's keys in GGUF metadata, each checked for its type.

``model_config`` and ``rope_config`` know what they mean, and which ones belong together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgellama.quant.errors import ModelFileError

ARCHITECTURE_KEY, USUAL_ARCHITECTURE = "general.architecture", "llama"
MAX_SIZE = 1 << 24
"""No size of a real model comes near; a larger one is a damaged file."""


class ConfigKeys:
    """Typed access to metadata under the architecture's name, such as ``llama.``, and to keys of
    our own by their whole names.
    """

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata
        architecture = metadata.get(ARCHITECTURE_KEY)
        is_named = isinstance(architecture, str)
        self.architecture = str(architecture) if is_named else USUAL_ARCHITECTURE

    def get(self, name: str) -> object:
        return self._metadata.get(self._full(name))

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size:
            value = int(value[0]) if (value == value[0]).all() else value
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFileError(
                f"metadata {self._full(name)} is {value!r:.80}; a whole number is needed"
            )
        return value

    def size(self, name: str, default: int | None = None) -> int:
        value = self.integer(name, default)
        if not 1 <= value <= MAX_SIZE:
            raise ModelFileError(
                f"metadata {self._full(name)} is {value}; it must be from 1 to {MAX_SIZE}"
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
            raise ModelFileError(
                f"metadata {self._full(name)} is {value!r:.80}; a number is needed"
            )
        return float(value)

    def text(self, name: str, default: str) -> str:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ModelFileError(f"metadata {self._full(name)} is {value!r:.80}; text is needed")
        return value

    def _full(self, name: str) -> str:
        return name if name.startswith("edgellama.") else f"{self.architecture}.{name}"
