"""Recognises by its tensors how a checkpoint was quantized, and gives its weights as floats.

config.json counts only if the tensors leave a choice: many files keep an entry about a quantization
that they do not have, and many that are quantized have none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.foreign_methods import (
    WITH_TRANSFORMERS,
    find_foreign,
    foreign_method,
)
from edgellama.convert.dequantize.four_bit_floats import (
    DIVISOR,
    FACTOR,
    are_four_bit_floats,
    take_four_bit_floats,
)
from edgellama.convert.dequantize.four_bit_tensor import PARTS, take_four_bits
from edgellama.convert.dequantize.groups import Grouping
from edgellama.convert.dequantize.meta_tensors import (
    ADAPTOR,
    DOWN,
    UP,
    AdaptedTensor,
    RotatedTensor,
)
from edgellama.convert.dequantize.scaled_tensor import ScaledTensor
from edgellama.convert.dequantize.settings import read_settings, shared_size
from edgellama.convert.dequantize.ternary_tensor import are_ternary, take_ternary
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.source_tensor import DoubleTensor, ElementTensor, SourceTensor
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, UnsupportedModelError

CONVERTED = (
    "F32, F16, BF16, F64, FP8, NVFP4, MXFP4, GPTQ, AWQ, bitsandbytes, BitNet, Meta's int4, "
    "torchao's int8, and compressed-tensors' int8 and packed integers"
)
BITSANDBYTES_SCALE, META_SCALE = "SCB", "scales"
SCALE_NAMES = (
    *("weight_scale", "weight_scale_inv", "scale_weight", "qscale_weight", "scale"),
    *(BITSANDBYTES_SCALE, META_SCALE),
)
ZERO_NAMES = ("weight_zero_point", "zeros")
LAYOUT_NAME, AUTO_BIT_LINEAR = "weight_format", "autobitlinear"
# Scales of int8 that other programs than compressed-tensors store: whose, and what goes with them.
_INT8 = {
    BITSANDBYTES_SCALE: ("int8 of bitsandbytes", 7.874015718698502e-3),  # 1 / 127, as it says it
    META_SCALE: ("int4 and int8 of Meta", 1.0),
}
_LEFTOVERS = frozenset((*SCALE_NAMES, *ZERO_NAMES, LAYOUT_NAME, *PARTS, DIVISOR, FACTOR))
# What torchao calls the parts of a matrix in safetensors.
QDATA = "_weight_qdata"
_TORCHAO = {
    QDATA: "weight",
    "_weight_scale": "weight_scale",
    "_weight_zero_point": "weight_zero_point",
}
# Names whose last two or three words say what a tensor is.
_LONG_NAME = re.compile(
    "(?:(.+)\\.)?(" + "|".join(re.escape(part) for part in (*PARTS, *ADAPTOR)) + ")"
)
_ROTATED = re.compile(r"layers\.\d+\.feed_forward\.w2")
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
        return FloatTensors(checkpoint.tensors, double_notes(checkpoint.tensors))
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
        not suffixes.isdisjoint({"qweight", "weight_packed", *_LEFTOVERS, *_TORCHAO})
        or any(isinstance(t, ElementTensor) and n.endswith("weight") for n, t in tensors.items())
        or any(map(_NEEDLESS.fullmatch, tensors))
        or any(map(foreign_method, tensors))
        or any(map(_LONG_NAME.fullmatch, tensors))
    )


def double_notes(tensors: Mapping[str, SourceTensor]) -> tuple[str, ...]:
    """What is to be said of float64, which no file of a model has."""
    weights = (tensor for name, tensor in tensors.items() if name.endswith(("weight", "bias")))
    if not (count := sum(isinstance(tensor, DoubleTensor) for tensor in weights)):
        return ()
    return (f"{count} tensors are float64: they are rounded to float32 before they are converted",)


class _Expansion:
    """The tensors of one checkpoint, taken module by module."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._path = checkpoint.path
        self._settings = read_settings(checkpoint)
        self._modules: dict[str, dict[str, SourceTensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            # What tells a foreign method lies beside plain weights here.
            if not _NEEDLESS.fullmatch(name) and foreign_method(name) is None:
                long = _LONG_NAME.fullmatch(name)
                module, _, suffix = name.rpartition(".")
                if long is not None:
                    module, suffix = long[1] or "", long[2]
                suffix = _TORCHAO.get(suffix, suffix)
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
        notes += double_notes(self._tensors)
        return FloatTensors(MappingProxyType(self._tensors), notes)

    def _expand(self, module: str, parts: dict[str, SourceTensor]) -> None:
        rest = dict(parts)
        if _is_small(parts.get("weight")):
            weight = self._scaled(module, rest)
        elif are_ternary(parts):
            multiplies = self._settings.linear_class == AUTO_BIT_LINEAR
            weight = take_ternary(self._path, module, rest, multiplies=multiplies)
        elif are_four_bit_floats(parts) and not _is_four_bits(parts):
            weight = take_four_bit_floats(self._path, module, rest)
        elif self._grouping.holds(parts):
            weight = self._grouping.take(module, rest)
        elif _is_four_bits(parts):
            weight = "4 bits of bitsandbytes", take_four_bits(self._path, module, rest)
        else:
            if (stored := rest.get("weight")) is not None and stored.name.endswith(QDATA):
                raise UnsupportedModelError(
                    f"{self._path}: the weights are quantized by torchao, whose tensor "
                    f"{shown(stored.name)} is not of int8 or FP8; supported: {CONVERTED}, so "
                    f"{WITH_TRANSFORMERS}"
                )
            # Parts of a quantized matrix beside its plain weights were left by an earlier state of
            # the file.
            rest = {name: t for name, t in rest.items() if name not in _LEFTOVERS}
            weight = None
        if weight is not None:
            title, tensor = weight
            self._counts[title] = self._counts.get(title, 0) + 1
            self._add(self._completed(module, tensor, rest))
        for tensor in rest.values():
            self._add(tensor)

    def _completed(
        self, module: str, tensor: SourceTensor, rest: dict[str, SourceTensor]
    ) -> SourceTensor:
        """The matrix with what Meta's quantized models do beside it."""
        scale = self._settings.adaptor_scale
        if scale is not None and DOWN in rest and UP in rest:
            down, up = rest.pop(DOWN), rest.pop(UP)
            if not AdaptedTensor.fits(tensor, down, up):
                raise ModelFileError(
                    f"{self._path}: tensor {shown(down.name)} does not fit {shown(tensor.name)}; "
                    "needed: an adaptor of its rows and columns"
                )
            tensor = AdaptedTensor(tensor, down, up, scale)
        if self._settings.is_rotated and _ROTATED.fullmatch(module):
            if tensor.num_columns & (tensor.num_columns - 1):
                raise UnsupportedModelError(
                    f"{self._path}: SpinQuant has rotated {tensor.num_columns} columns of "
                    f"{shown(tensor.name)}; supported: a power of two"
                )
            return RotatedTensor(tensor)
        return tensor

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
        zero_point = next((rest[zero] for zero in ZERO_NAMES if zero in rest), None)
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
        scale_name = next((known for known in _INT8 if rest.get(known) is scale), "")
        self._check_layout(name, rest.get(LAYOUT_NAME))
        for used in ("weight", *SCALE_NAMES, *ZERO_NAMES, LAYOUT_NAME):
            rest.pop(used, None)
        block = sizes[0] or 1, sizes[1] or 1
        title = "int8" if kind == "I8" else "FP8" + (" without scales" if scale is None else "")
        title, factor = _INT8.get(scale_name, (title, 1.0)) if scale is not None else (title, 1.0)
        return title, ScaledTensor(name, numbers, scale, zero_point, block, factor)

    def _check_layout(self, name: str, layout: SourceTensor | None) -> None:
        """UnsupportedModelError for int8 that bitsandbytes has reordered for a card."""
        if layout is not None and elements.element_type(layout) == "U8":
            number = int(elements.rows(layout, 0, 1)[0, 0])
            if number:
                raise UnsupportedModelError(
                    f"{self._path}: {shown(name)} is in layout {number} of bitsandbytes; "
                    "supported: 0, rows"
                )


def _is_four_bits(parts: Mapping[str, SourceTensor]) -> bool:
    """Whether the numbers are bitsandbytes', two in a byte."""
    weight = parts.get("weight")
    is_packed = weight is not None and elements.element_type(weight) == "U8"
    return is_packed and any(part in parts for part in PARTS)


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
