"""What a pickle of torch may name: storages, and the functions that make tensors from them.

Each is a stand-in that only notes its arguments. ``pickle_machine`` reads opcodes,
``torch_reader`` finds the bytes of a storage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgellama.convert.sources.pickle_machine import Name, PickleRefused, PickleScope
from edgellama.quant.error_text import shown

MAX_DIMENSIONS = 8
PURPOSE = (
    "tensors alone; if you trust the file, load it with torch and save its state_dict as "
    "safetensors"
)


@dataclass(frozen=True)
class Storage:
    """Elements of one type that lie outside the pickle, under ``key``."""

    key: str
    dtype: str
    num_elements: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return self.num_elements * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage; ``offset`` and ``strides`` count elements, whose type is ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other, row by row."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return math.prod(self.shape) == 0
            expected *= size
        return True


# Bytes of an element, by torch's name of the type.
ELEMENT_BYTES: Mapping[str, int] = MappingProxyType(
    {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
    | {"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
    | {"complex64": 8, "complex128": 16, "bytes": 1}
    | {"float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1}
    | {"float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1}
)
_STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "torch.FloatStorage": "float32",
        "torch.HalfStorage": "float16",
        "torch.BFloat16Storage": "bfloat16",
        "torch.DoubleStorage": "float64",
        "torch.LongStorage": "int64",
        "torch.IntStorage": "int32",
        "torch.ShortStorage": "int16",
        "torch.CharStorage": "int8",
        "torch.ByteStorage": "uint8",
        "torch.BoolStorage": "bool",
        "torch.ComplexFloatStorage": "complex64",
        "torch.ComplexDoubleStorage": "complex128",
        "torch.storage.UntypedStorage": "bytes",
    }
)
# Types without a storage class of their own, which _rebuild_tensor_v3 is given.
_DTYPES = (
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("uint16", "uint32", "uint64"),
)


def _persistent(value: object) -> Storage:
    """The storage that a persistent id describes: kind, type, key, device, number of elements."""
    if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage":
        raise PickleRefused("the pickle refers to something outside it", "storages")
    _, kind, key, _, num_elements = value[:5]
    if len(value) == 6 and value[5] is not None:
        raise PickleRefused(f"storage {shown(key)} is a view of another", "whole storages")
    if not isinstance(kind, Name) or kind.text not in _STORAGES:
        raise PickleRefused(f"storage {shown(key)} has no type", "types of torch")
    if not isinstance(key, str):
        raise PickleRefused(f"the key of a storage is {shown(key)}", "text")
    return Storage(key, _STORAGES[kind.text], _count(num_elements, "the size of a storage"))


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise PickleRefused(f"{what} is {shown(value)}", "whole numbers from 0")
    return value


def _counts(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise PickleRefused(f"{what} is {shown(value)}", f"up to {MAX_DIMENSIONS} numbers")
    return tuple(_count(item, what) for item in value)


def _view(arguments: tuple[object, ...], dtype: str | None = None) -> PickledTensor:
    """A tensor from the four arguments that all rebuild functions start with."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise PickleRefused("a tensor is made of no storage", "a storage, offset, size and stride")
    storage = arguments[0]
    shape = _counts(arguments[2], "the size of a tensor")
    strides = _counts(arguments[3], "the stride of a tensor")
    if len(shape) != len(strides):
        raise PickleRefused(f"a tensor has size {shape} and stride {strides}", "as many of each")
    offset = _count(arguments[1], "the offset of a tensor")
    return PickledTensor(storage, dtype or storage.dtype, offset, shape, strides)


def _rebuild_tensor(arguments: tuple[object, ...]) -> PickledTensor:
    if len(arguments) > 6 and arguments[6]:
        raise PickleRefused("a tensor is negated or conjugated when it is read", "plain tensors")
    return _view(arguments)


def _rebuild_tensor_v3(arguments: tuple[object, ...]) -> PickledTensor:
    dtype = arguments[6] if len(arguments) > 6 else None
    if not isinstance(dtype, Name):
        raise PickleRefused("a tensor has no type", "types of torch")
    return _view(arguments, dtype.text.rpartition(".")[2])


def _rebuild_parameter(arguments: tuple[object, ...]) -> PickledTensor:
    if not arguments or not isinstance(arguments[0], PickledTensor):
        raise PickleRefused("a parameter is made of no tensor", "a tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    # Torch fills it item by item; copying an argument could be repeated to fill the memory.
    if arguments:
        raise PickleRefused("an OrderedDict is made with arguments", "an empty one")
    return {}


TORCH_SCOPE = PickleScope(
    names=MappingProxyType(
        {
            name.text: name
            for name in (
                Name("collections.OrderedDict", _ordered_dict),
                Name("torch._utils._rebuild_tensor", _rebuild_tensor),
                Name("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
                Name("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
                Name("torch._utils._rebuild_parameter", _rebuild_parameter),
                Name("torch._utils._rebuild_parameter_with_state", _rebuild_parameter),
                *map(Name, _STORAGES),
                *(Name(f"torch.{dtype}") for dtype in _DTYPES),
            )
        }
    ),
    persistent=_persistent,
    purpose=PURPOSE,
)
