"""Finds out by its tensors how a checkpoint was quantized, and gives its weights as floats.

What config.json says counts only where tensors leave a choice: many files keep an entry about a
quantization that they do not have, and many that are quantized say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.foreign_methods import find_foreign, foreign_method
from edgellama.convert.dequantize.groups import Grouping
from edgellama.convert.dequantize.scaled_tensor import ScaledTensor
from edgellama.convert.dequantize.settings import read_settings, shared_size
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.source_tensor import ElementTensor, SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError

CONVERTED = "F32, F16, BF16, FP8, GPTQ, AWQ and compressed-tensors' int8 and packed integers"
SCALE_NAMES = ("weight_scale", "weight_scale_inv", "scale_weight", "qscale_weight", "scale")
ZERO_NAME = "weight_zero_point"
# Scales of activations and of the KV cache: the engine computes both otherwise.
_NEEDLESS = re.compile(
    r".*\.((input|output|act|activation|[qkv]|kv|kv_cache|prob|prob_output)_scale(_ub)?"
    r"|(input|output|[qkv])_zero_point|(input|output)_global_scale|qscale_act|scale_input)"
)


@dataclass(frozen=True)
class FloatTensors:
    """A checkpoint's tensors as floats, by the names that they have in a model that is not
    quantized; ``notes`` say to the user what was done.
    """

    tensors: Mapping[str, SourceTensor]
    notes: tuple[str, ...] = ()


def float_tensors(checkpoint: Checkpoint) -> FloatTensors:
    """The weights of a checkpoint, those of a method that is known expanded when they are read.

    Raises UnsupportedModelError for another method, by its name, and ModelFileError for parts
    that are missing or do not fit.
    """
    if checkpoint.kind == "gguf" or not _is_quantized(checkpoint.tensors):
        return FloatTensors(checkpoint.tensors)
    foreign = find_foreign(checkpoint.tensors)
    if foreign is not None:
        method, name = foreign
        raise UnsupportedModelError(
            f"{checkpoint.path}: the weights are quantized by {method.title}, whose tensor "
            f"{shown(name)} is there; supported: {CONVERTED}, so {method.way_out}"
        )
    return _Expansion(checkpoint).result()


def _is_quantized(tensors: Mapping[str, SourceTensor]) -> bool:
    """Whether there are tensors of a quantization; other buffers may be integers, too."""
    suffixes = {name.rpartition(".")[2] for name in tensors}
    return (
        not suffixes.isdisjoint({"qweight", "weight_packed", ZERO_NAME, *SCALE_NAMES})
        or any(isinstance(t, ElementTensor) and n.endswith("weight") for n, t in tensors.items())
        or any(map(_NEEDLESS.fullmatch, tensors))
        or any(map(foreign_method, tensors))
    )


class _Expansion:
    """The tensors of one checkpoint, taken module by module."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._path = checkpoint.path
        self._settings = read_settings(checkpoint)
        self._modules: dict[str, dict[str, SourceTensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            # What tells a foreign method lies beside plain weights here.
            if not _NEEDLESS.fullmatch(name) and foreign_method(name) is None:
                module, _, suffix = name.rpartition(".")
                self._modules.setdefault(module, {})[suffix] = tensor
        self._grouping = Grouping(str(checkpoint.path), self._settings)
        self._tensors: dict[str, SourceTensor] = {}
        self._counts: dict[str, int] = {}
        self._has_scales = any(
            _is_small(parts.get("weight")) and _scale_of(parts) is not None
            for parts in self._modules.values()
        )

    def result(self) -> FloatTensors:
        """All of them."""
        for module, parts in self._modules.items():
            self._expand(module, parts)
        notes = tuple(
            f"{count} matrices are stored as {title}: they are expanded before they are "
            "converted; the model that this one was made from, if you have it, converts more "
            "exactly"
            for title, count in self._counts.items()
        )
        return FloatTensors(MappingProxyType(self._tensors), notes)

    def _expand(self, module: str, parts: dict[str, SourceTensor]) -> None:
        rest = dict(parts)
        if _is_small(parts.get("weight")):
            weight = self._scaled(module, rest)
        elif self._grouping.holds(parts):
            weight = self._grouping.take(module, rest)
        else:
            # What is left beside plain weights is of an earlier state.
            rest = {name: t for name, t in rest.items() if name not in (*SCALE_NAMES, ZERO_NAME)}
            weight = None
        if weight is not None:
            title, tensor = weight
            self._counts[title] = self._counts.get(title, 0) + 1
            self._add(tensor)
        for tensor in rest.values():
            self._add(tensor)

    def _add(self, tensor: SourceTensor) -> None:
        if tensor.name in self._tensors:
            raise ModelFileError(
                f"{self._path}: tensor {shown(tensor.name)} is there as floats and quantized; "
                "needed: one of them"
            )
        self._tensors[tensor.name] = tensor

    def _scaled(
        self, module: str, rest: dict[str, SourceTensor]
    ) -> tuple[str, SourceTensor] | None:
        """The matrix of FP8 or int8 numbers; what it is made of is taken out of ``rest``."""
        numbers, scale = rest["weight"], _scale_of(rest)
        kind = elements.element_type(numbers)
        if scale is None and kind == "I8":
            return None  # refused by its type, unless nothing needs it
        if scale is None and self._has_scales:
            raise ModelFileError(
                f"{self._path}: tensor {shown(module)}.weight_scale is missing, which the FP8 "
                "numbers of weight need; needed: a scale for each matrix"
            )
        name = f"{module}.weight" if module else "weight"
        zero_point = rest.get(ZERO_NAME)
        shape = _scale_shape(scale)
        lengths = numbers.num_rows, numbers.num_columns
        sizes = [
            shared_size(length, count, hint)
            for length, count, hint in zip(
                lengths, shape, self._settings.block or (None, None), strict=True
            )
        ]
        is_readable = all(map(elements.element_type, filter(None, (scale, zero_point))))
        fits = zero_point is None or _scale_shape(zero_point) == shape
        if len(numbers.shape) not in (1, 2) or None in sizes or not is_readable or not fits:
            found = "none" if scale is None else " x ".join(map(str, scale.shape)) or "one number"
            raise ModelFileError(
                f"{self._path}: the scales of {shown(name)}, of shape {found}, do not fit "
                f"{' x '.join(map(str, numbers.shape))} numbers; needed: floats, one for all, for "
                "each row, or for each block"
            )
        for used in ("weight", *SCALE_NAMES, ZERO_NAME):
            rest.pop(used, None)
        block = sizes[0] or 1, sizes[1] or 1
        title = "int8" if kind == "I8" else "FP8" + (" without scales" if scale is None else "")
        return title, ScaledTensor(name, numbers, scale, zero_point, block)


def _is_small(tensor: SourceTensor | None) -> bool:
    """Whether the numbers are of 8 bits, to be scaled."""
    return tensor is not None and elements.element_type(tensor) in (*elements.FP8, "I8")


def _scale_of(parts: Mapping[str, SourceTensor]) -> SourceTensor | None:
    return next((parts[name] for name in SCALE_NAMES if name in parts), None)


def _scale_shape(scale: SourceTensor | None) -> tuple[int, int]:
    """Scales along rows and columns; one number is for all, a vector for rows."""
    if scale is None or scale.shape in ((), (1,)):
        return 1, 1
    if len(scale.shape) == 1:
        return scale.shape[0], 1
    return (scale.shape[0], scale.shape[1]) if len(scale.shape) == 2 else (0, 0)
