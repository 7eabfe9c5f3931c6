"""Files of torch.save: the tensors of a state_dict, mapped where their storages lie.

It knows the two containers, the zip archive and the older stream of pickles. ``torch_pickle`` knows
what the pickle may name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgellama.convert.sources.pickle_machine import MAX_PICKLE_BYTES, read_pickle
from edgellama.convert.sources.source_tensor import (
    DoubleTensor,
    ElementTensor,
    MappedTensor,
    SourceTensor,
    UnreadableTensor,
)
from edgellama.convert.sources.torch_pickle import (
    ELEMENT_BYTES,
    TORCH_SCOPE,
    PickledTensor,
    Storage,
)
from edgellama.convert.sources.zip_directory import read_zip_directory
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.mapped_file import map_file

# Formats of the types that weights may have, by torch's names.
_FORMATS: Mapping[str, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
)
_DOUBLE = "float64"
# Other types that a quantized checkpoint's tensors may have, with safetensors' names of them.
_ELEMENT_TYPES: Mapping[str, str] = MappingProxyType(
    {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"}
    | {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"}
    | {"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ"}
)
# Training programs save other things beside the state_dict, and put it under one of these keys.
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
_MAX_WRAPPERS = 3
# How pickles begin that hold a tuple or name something first: torch writes none, exploits do.
_PICKLE_STARTS = (b"\x80", b"(", b"c")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_WAY_OUT = "load it with torch and save its state_dict again"
_OTHER_FILES: Mapping[bytes, str] = MappingProxyType(
    {
        b"vers": "a Git LFS pointer: the file itself was not downloaded",
        b"GGUF": "a GGUF file",
        b"<!DO": "a web page",
        b"<htm": "a web page",
    }
)

_StorageBytes = Callable[[Storage], NDArray[np.uint8]]


def read_torch(path: Path) -> dict[str, SourceTensor]:
    """The tensors of the state_dict in the file, in its order.

    Raises ModelNotFoundError, or ModelFileError for a malformed file and for a pickle that
    names anything but tensors. Float64 is given as F32; other
    types than that, F16 and BF16 are elements, or unreadable.
    """
    buffer = map_file(path, "a torch file")
    if buffer[:4] == b"PK\3\4":
        content, storage_bytes = _open_archive(path, buffer)
    elif buffer[:1] in _PICKLE_STARTS:
        content, storage_bytes = _open_legacy(path, buffer)
    else:
        is_tar = buffer[257:262] == b"ustar"
        kind = "a tar archive of an old torch" if is_tar else _OTHER_FILES.get(buffer[:4])
        what = f"is {kind}" if kind else f"starts with {shown(buffer[:4])}"
        raise file_error(path, what, f"files of torch.save from 0.4 on; {_WAY_OUT}")
    return {
        name: _map_tensor(path, name, tensor, storage_bytes)
        for name, tensor in _state_dict(path, content).items()
    }


def _open_archive(path: Path, buffer: mmap) -> tuple[object, _StorageBytes]:
    members = read_zip_directory(path, buffer)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise file_error(path, f"the archive has {len(pickles)} times data.pkl", "once")
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None:
        name = buffer[order.start : order.start + min(order.num_bytes, 16)]
        if name != b"little":
            raise file_error(path, f"the byte order is {shown(name)}", "little")
    place = members[pickles[0]]
    if place.num_bytes > MAX_PICKLE_BYTES:
        raise file_error(path, f"data.pkl has {place.num_bytes} bytes", f"{MAX_PICKLE_BYTES}")
    raw = buffer[place.start : place.start + place.num_bytes]
    content, _ = read_pickle(path, raw, 0, TORCH_SCOPE)
    mapped = np.frombuffer(buffer, np.uint8)

    def storage_bytes(storage: Storage) -> NDArray[np.uint8]:
        member = members.get(f"{prefix}data/{storage.key}")
        if member is None or member.num_bytes != storage.num_bytes:
            found = "missing" if member is None else f"{member.num_bytes} bytes"
            what = f"storage {shown(storage.key)} is {found}"
            raise file_error(path, what, f"{storage.num_bytes} bytes")
        return mapped[member.start : member.start + member.num_bytes]

    return content, storage_bytes


def _open_legacy(path: Path, buffer: mmap) -> tuple[object, _StorageBytes]:
    """Five pickles: magic number, version, system, content, storage keys; then the storages."""
    storages: dict[str, Storage] = {}

    def note(value: object) -> Storage:
        storage = TORCH_SCOPE.persistent(value)
        if storages.setdefault(storage.key, storage) != storage:
            raise file_error(path, f"storage {shown(storage.key)} has two sizes", "one size")
        return storage

    scope = replace(TORCH_SCOPE, persistent=note)
    values: list[object] = []
    position = 0
    for _ in range(5):
        value, position = read_pickle(path, buffer, position, scope)
        values.append(value)
        if values[0] != _LEGACY_MAGIC:
            raise file_error(path, "is a pickle, but none of torch.save", _WAY_OUT)
    _, version, system, content, keys = values
    if version != _LEGACY_VERSION:
        raise file_error(path, f"the torch format is {shown(version)}", str(_LEGACY_VERSION))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise file_error(path, "was not written on a little-endian machine", "little-endian files")
    if not isinstance(keys, list) or sorted(map(shown, keys)) != sorted(map(shown, storages)):
        raise file_error(path, "the list of storages is not that of the tensors", _WAY_OUT)
    starts = _legacy_starts(path, buffer, position, [storages[key] for key in keys])
    mapped = np.frombuffer(buffer, np.uint8)

    def storage_bytes(storage: Storage) -> NDArray[np.uint8]:
        start = starts[storage.key]
        return mapped[start : start + storage.num_bytes]

    return content, storage_bytes


def _legacy_starts(
    path: Path, buffer: mmap, position: int, storages: list[Storage]
) -> dict[str, int]:
    """Where the bytes of each storage start: each comes after its number of elements."""
    starts: dict[str, int] = {}
    for storage in storages:
        num_elements = int.from_bytes(buffer[position : position + 8], "little")
        start = position + 8
        if num_elements != storage.num_elements or start + storage.num_bytes > len(buffer):
            raise file_error(
                path,
                f"storage {shown(storage.key)} has {num_elements} elements at byte {start}",
                f"{storage.num_elements} elements that end by byte {len(buffer)}",
            )
        starts[storage.key] = start
        position = start + storage.num_bytes
    return starts


def _state_dict(path: Path, content: object) -> dict[str, PickledTensor]:
    """The named tensors in what was saved, or in the state_dict that it wraps."""
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(content, dict):
            break
        tensors = {
            name: value for name, value in content.items() if isinstance(value, PickledTensor)
        }
        if tensors:
            for name in tensors:
                if not isinstance(name, str) or not name.isprintable() or not name:
                    raise file_error(path, f"tensor {shown(name)} is no name", "printable text")
            return tensors
        content = next((content[key] for key in _WRAPPERS if key in content), None)
    raise file_error(path, "holds no tensors by name", "a state_dict")


def _map_tensor(
    path: Path, name: str, tensor: PickledTensor, storage_bytes: _StorageBytes
) -> SourceTensor:
    what = f"tensor {shown(name)}"
    allowed = ", ".join((*_FORMATS, _DOUBLE))
    refusal = f"{path}: {what} has dtype {tensor.dtype}; allowed: {allowed}"
    element_bytes = ELEMENT_BYTES.get(tensor.dtype)
    if element_bytes is None or tensor.dtype not in {*_FORMATS, _DOUBLE, *_ELEMENT_TYPES}:
        return UnreadableTensor(name, tensor.shape, refusal)
    num_elements = math.prod(tensor.shape)
    # A storage without a type of its own counts bytes.
    if (tensor.offset + num_elements) * element_bytes > tensor.storage.num_bytes:
        raise file_error(
            path,
            f"{what} has shape {tensor.shape} at element {tensor.offset}",
            f"its storage has {tensor.storage.num_elements} elements",
        )
    if not tensor.is_contiguous:
        return UnreadableTensor(
            name,
            tensor.shape,
            f"{path}: {what} of shape {tensor.shape} has strides {tensor.strides}; allowed: rows "
            f"one after the other, so {_WAY_OUT}, each tensor made contiguous()",
        )
    start = tensor.offset * element_bytes
    data = storage_bytes(tensor.storage)[start : start + num_elements * element_bytes]
    if tensor.dtype in _FORMATS:
        return MappedTensor(name, tensor.shape, FORMATS_BY_NAME[_FORMATS[tensor.dtype]], data)
    if tensor.dtype == _DOUBLE:
        return DoubleTensor(name, tensor.shape, data)
    return ElementTensor(name, tensor.shape, _ELEMENT_TYPES[tensor.dtype], data, refusal)
