"""Describes a model in a few words from its GGUF header, for lists of models.

``library`` knows which files there are.
"""

from __future__ import annotations

import math
from pathlib import Path

from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.file_type import type_of
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.llama_tensors import ROPE_FREQS, ROPE_TENSORS
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass
from edgellama.quant.rope_choice import original_length

_LICENSE_KEYS = ("general.license", "general.license.name", "general.license.link")


@dataclass(frozen=True)
class ModelFacts:
    """A model in brief; None for what its file does not say. ``context_length`` is in tokens.

    ``positions``: how they are scaled, None if they are not. ``original_length``: tokens that
    positions were trained for before any scaling, None if that cannot be replaced.
    """

    title: str | None
    architecture: str | None
    type: str | None
    num_parameters: int
    context_length: int | None
    license: str | None
    positions: str | None = None
    original_length: int | None = None

    @classmethod
    def of(cls, file: GGUFFile) -> ModelFacts:
        """The facts of an open file."""
        architecture = _text(file, "general.architecture")
        config = _config(file)
        has_divisors = ROPE_FREQS in file.tensors
        said = _count(file, f"{architecture}.context_length")
        return cls(
            title=_text(file, "general.name"),
            architecture=architecture,
            type=type_of(file),
            num_parameters=sum(
                math.prod(tensor.shape)
                for name, tensor in file.tensors.items()
                if name not in ROPE_TENSORS
            ),
            context_length=said if config is None else config.context_length,
            license=next(filter(None, (_text(file, key) for key in _LICENSE_KEYS)), None),
            positions=None if config is None else _positions(config, has_divisors),
            original_length=None if config is None or has_divisors else original_length(config),
        )


def read_facts(path: Path) -> ModelFacts:
    """The facts of the file at ``path``; ModelNotFoundError, ModelFileError."""
    with GGUFFile(path) as file:
        return ModelFacts.of(file)


def _config(file: GGUFFile) -> ModelConfig | None:
    """The sizes, of a model that can run."""
    try:
        return ModelConfig.from_gguf(file)
    except (ModelFileError, UnsupportedModelError):
        return None


def _positions(config: ModelConfig, has_divisors: bool) -> str | None:
    if has_divisors:
        return "scaled as Llama 3.1's"
    if config.rope.scaling == "none":
        return None
    factor, original = config.rope.factor, original_length(config)
    if config.rope.scaling == "longrope":
        return f"scaled (LongRoPE) for texts of more than {original:,} tokens"
    return f"scaled ({config.rope.scaling}), {factor:g} times {original:,} tokens"


def _text(file: GGUFFile, key: str) -> str | None:
    value = file.metadata.get(key)
    return value if isinstance(value, str) and value else None


def _count(file: GGUFFile, key: str) -> int | None:
    value = file.metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
