"""Files of torch.save as raw bytes, right or wrong on purpose, made without torch."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
FALSE = b"\x89"
# uint16 stands for bfloat16, which NumPy lacks.
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "uint16": "BFloat16Storage"}
STORAGES |= {"float64": "DoubleStorage"}
STORAGES |= {"int32": "IntStorage", "int8": "CharStorage", "uint8": "ByteStorage"}


def text(value: str) -> bytes:
    """Opcodes that push a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """Opcodes that push an integer."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    """The opcode that pushes what a name refers to."""
    return f"c{module}\n{attribute}\n".encode()


def group(*items: bytes) -> bytes:
    """Opcodes that push a tuple."""
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Opcodes that push the result of a call."""
    return function + group(*arguments) + b"R"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    """Opcodes that push a dictionary."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(kind: str, key: str, num_elements: int, *rest: bytes) -> bytes:
    """Opcodes that push a storage."""
    items = (text("storage"), name("torch", kind), text(key), text("cpu"), number(num_elements))
    return group(*items, *rest) + b"Q"


def tensor(
    storage: bytes, shape: Sequence[int], offset: int = 0, strides: Sequence[int] | None = None
) -> bytes:
    """Opcodes that push a tensor; contiguous unless ``strides`` says otherwise."""
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape))]
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage,
        number(offset),
        group(*map(number, shape)),
        group(*map(number, strides)),
        FALSE,
        call(name("collections", "OrderedDict")),
    )


def whole(opcodes: bytes) -> bytes:
    """A pickle that holds what ``opcodes`` push."""
    return b"\x80\x02" + opcodes + b"."


def archive(
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    byte_order: bytes | None = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The zip container."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        if byte_order is not None:
            file.writestr("archive/byteorder", byte_order)
        for key, raw in (storages or {}).items():
            file.writestr(f"archive/data/{key}", raw)
    return content.getvalue()


def legacy(
    pickle: bytes,
    storages: Mapping[str, tuple[int, bytes]],
    *,
    version: int = 1001,
    is_little: bool = True,
) -> bytes:
    """The stream of pickles; each storage has its number of elements and its bytes."""
    order = b"\x88" if is_little else FALSE
    content = whole(number(MAGIC)) + whole(number(version))
    content += whole(dictionary({"little_endian": order})) + pickle
    content += whole(b"](" + b"".join(map(text, storages)) + b"e")
    for num_elements, raw in storages.values():
        content += struct.pack("<q", num_elements) + raw
    return content


def saved(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """What torch.save writes for a dictionary of these arrays."""
    tensors: dict[str, bytes] = {}
    storages: dict[str, bytes] = {}
    for index, (key, array) in enumerate(arrays.items()):
        place = storage(STORAGES[array.dtype.name], str(index), array.size)
        tensors[key] = tensor(place, array.shape)
        storages[str(index)] = array.tobytes()
    return archive(whole(dictionary(tensors)), storages)
