"""Headers that the converter writes, against the gguf package's writer and our own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.planning.gguf_header import ALIGNMENT, TableEntry, header_bytes
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.gguf.file import GGUFFile

Kind = GGUFValueType
SCALARS: list[tuple[str, Any, GGUFValueType]] = [
    ("a.uint8", 255, Kind.UINT8),
    ("a.int8", -128, Kind.INT8),
    ("a.uint16", 65535, Kind.UINT16),
    ("a.int16", -32768, Kind.INT16),
    ("a.uint32", 2**32 - 1, Kind.UINT32),
    ("a.int32", -(2**31), Kind.INT32),
    ("a.uint64", 2**64 - 1, Kind.UINT64),
    ("a.int64", -(2**63), Kind.INT64),
    ("a.float32", 1e-5, Kind.FLOAT32),
    ("a.float64", 0.1, Kind.FLOAT64),
    ("a.true", True, Kind.BOOL),
    ("a.text", "Größe \N{LLAMA}", Kind.STRING),
    ("a.empty", "", Kind.STRING),
]
ARRAYS: list[tuple[str, Any, GGUFValueType]] = [
    ("b.texts", ["", "a", "\N{LLAMA}" * 100], Kind.STRING),
    ("b.int32", [1, -2, 3], Kind.INT32),
    ("b.float32", [0.1, -2.5], Kind.FLOAT32),
    ("b.bool", [True, False], Kind.BOOL),
]
SHAPES = {"token_embd.weight": (288, 64), "output_norm.weight": (64,)}


def our_header() -> bytes:
    """All scalars, arrays and shapes, written by us."""
    items = {"general.architecture": MetadataItem("llama", Kind.STRING)}
    items |= {key: MetadataItem(value, kind) for key, value, kind in SCALARS}
    items |= {key: MetadataItem(value, Kind.ARRAY, kind) for key, value, kind in ARRAYS}
    table, offset = [], 0
    for name, shape in SHAPES.items():
        table.append(TableEntry(name, shape, FORMATS_BY_NAME["F32"], offset))
        offset += 4 * int(np.prod(shape))
    return header_bytes(items, table)


def test_headers_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    """Every type of value and the table of tensors are the bytes that GGUFWriter writes."""
    path = tmp_path / "theirs.gguf"
    writer = GGUFWriter(path, "llama")
    for key, value, kind in SCALARS:
        writer.add_key_value(key, value, kind)
    for key, value, kind in ARRAYS:
        writer.add_key_value(key, value, Kind.ARRAY, sub_type=kind)
    for name, shape in SHAPES.items():
        writer.add_tensor_info(
            name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)), GGMLQuantizationType.F32
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    theirs, ours = path.read_bytes(), our_header()
    assert ours.rstrip(b"\0") == theirs.rstrip(b"\0")
    assert len(ours) % ALIGNMENT == 0


def test_bytes_and_foreign_characters_survive(tmp_path: Path) -> None:
    """Arrays of octets, and strings that are not UTF-8, come back as they were."""
    broken = b"\xff\xfe".decode("utf-8", "surrogateescape")
    items = {
        "c.octets": MetadataItem(b"\0\1\xff", Kind.ARRAY, Kind.UINT8),
        "c.texts": MetadataItem([broken], Kind.ARRAY, Kind.STRING),
    }
    path = tmp_path / "ours.gguf"
    path.write_bytes(header_bytes(items, []))
    with GGUFFile(path) as file:
        octets, texts = file.metadata["c.octets"], file.metadata["c.texts"]
        again = tmp_path / "again.gguf"
        again.write_bytes(
            header_bytes({"c.texts": MetadataItem(texts, Kind.ARRAY, Kind.STRING)}, [])
        )
    assert list(octets) == [0, 1, 255]  # type: ignore[arg-type]
    assert list(texts) == [broken]  # type: ignore[arg-type]
    with GGUFFile(again) as file:
        assert list(file.metadata["c.texts"]) == [broken]  # type: ignore[arg-type]
