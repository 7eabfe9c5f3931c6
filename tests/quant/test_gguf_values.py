"""What well-formed GGUF files hold, written by the gguf package and read by ours."""

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from raw_files.gguf_bytes import (
    FLOAT32,
    INT8,
    STRING,
    UINT32,
    entry,
    model,
    pair,
    string,
    strings,
    u32,
    write,
)

from edgellama.quant.errors import ModelFileError
from edgellama.quant.gguf.file import GGUFFile, StringArray

NUMBERS = {
    "uint8": 255,
    "int8": -128,
    "uint16": 65535,
    "int16": -32768,
    "uint32": 2**32 - 1,
    "int32": -(2**31),
    "float32": 0.5,
    "bool": True,
    "uint64": 2**64 - 1,
    "int64": -(2**63),
    "float64": 1e300,
}


def written(path: Path, **options: Any) -> gguf.GGUFWriter:
    """A writer of the gguf package for ``path``."""
    return gguf.GGUFWriter(path, "llama", **options)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("type_name", NUMBERS)
def test_number_of_every_type(tmp_path: Path, type_name: str) -> None:
    """A number or boolean comes back with its value and its Python type."""
    value = NUMBERS[type_name]
    writer = written(tmp_path / "m.gguf")
    getattr(writer, f"add_{type_name}")("the.key", value)
    finish(writer)
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata["the.key"] == value
        assert type(file.metadata["the.key"]) is type(value)


@pytest.mark.parametrize("type_name", NUMBERS)
def test_array_of_every_number_type(tmp_path: Path, type_name: str) -> None:
    """A numeric array comes back as a read-only, aligned NumPy array of the same dtype."""
    value = NUMBERS[type_name]
    writer = written(tmp_path / "m.gguf")
    sub_type = gguf.GGUFValueType[type_name.upper()]
    writer.add_key_value("the.key", [value, value], gguf.GGUFValueType.ARRAY, sub_type)
    finish(writer)
    with GGUFFile(tmp_path / "m.gguf") as file:
        array = file.metadata["the.key"]
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.dtype(type_name)
    assert array.tolist() == [value, value]
    assert array.flags.aligned and not array.flags.writeable


def test_strings_and_arrays_of_strings(tmp_path: Path) -> None:
    """Text in any script, empty strings and long ones come back as they were."""
    texts = ["", "a", "Ġhello", "日本語 🙂", "x" * 255, "y" * 256, "z" * 70_000, "\x00", ""]
    writer = written(tmp_path / "m.gguf")
    writer.add_string("one", "日本語\n🙂")
    writer.add_array("many", texts)
    finish(writer)
    with GGUFFile(tmp_path / "m.gguf") as file:
        many = file.metadata["many"]
        assert file.metadata["one"] == "日本語\n🙂"
    assert isinstance(many, StringArray)
    assert list(many) == texts
    assert many.as_bytes() == [text.encode() for text in texts]


def test_text_that_is_not_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    """Invalid UTF-8 is decoded to surrogates from which the bytes can be got back."""
    raw = b"a\xff\xed\xa0\x80"
    pairs = [pair("one", STRING, string(raw)), pair("many", 9, strings([raw, b"ok"]))]
    with GGUFFile(write(tmp_path, model(pairs))) as file:
        one, many = file.metadata["one"], file.metadata["many"]
    assert isinstance(one, str) and isinstance(many, StringArray)
    assert one.encode("utf-8", "surrogateescape") == raw
    assert many[0] == one
    assert many.as_bytes() == [raw, b"ok"]


def test_arrays_of_arrays_are_tuples(tmp_path: Path) -> None:
    """Nested arrays come back as tuples of what they hold."""
    writer = written(tmp_path / "m.gguf")
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_array("texts", [["a"], ["b", "c"]])
    finish(writer)
    with GGUFFile(tmp_path / "m.gguf") as file:
        nested, texts = file.metadata["nested"], file.metadata["texts"]
    assert isinstance(nested, tuple) and isinstance(texts, tuple)
    assert [np.asarray(item).tolist() for item in nested] == [[1, 2], [3]]
    assert [list(item) for item in texts if isinstance(item, StringArray)] == [["a"], ["b", "c"]]


def test_empty_arrays(tmp_path: Path) -> None:
    """Arrays without items are empty, at the very end of a file too."""
    empty = {type_id: u32(type_id) + bytes(8) for type_id in range(13)}
    pairs = [pair(f"key{type_id}", 9, value) for type_id, value in empty.items()]
    content = model(pairs, alignment=1)
    with GGUFFile(write(tmp_path, content)) as file:
        assert len(file.metadata) == 13
        for value in file.metadata.values():
            assert not isinstance(value, (int, float)) and len(value) == 0


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors(tmp_path: Path, version: int, alignment: int) -> None:
    """Tensors come back in NumPy's order with their format and their very bytes."""
    path = tmp_path / "m.gguf"
    rng = np.random.default_rng(7)
    norm = rng.standard_normal(40, np.float32)
    half = rng.standard_normal((3, 5)).astype(np.float16)
    weights = rng.standard_normal((6, 64), np.float32)
    packed = quantize(weights, gguf.GGMLQuantizationType.Q4_0)
    writer = written(path)
    writer.add_custom_alignment(alignment)
    writer.add_tensor("norm", norm)
    writer.add_tensor("half", half)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    finish(writer)
    with path.open("r+b") as raw:
        raw.seek(4)
        raw.write(u32(version))
    with GGUFFile(path) as file:
        assert (file.version, file.alignment) == (version, alignment)
        assert file.files == (path,) and file.path == path
        assert file.file_bytes == path.stat().st_size
        described = {t.name: (t.shape, t.format.name, t.num_bytes) for t in file.tensors.values()}
        assert described == {
            "norm": ((40,), "F32", 160),
            "half": ((3, 5), "F16", 30),
            "packed": ((6, 64), "Q4_0", 6 * 2 * 18),
        }
        assert file.tensors["norm"].data.view(np.float32).tolist() == norm.tolist()
        assert file.tensors["half"].data.tobytes() == half.tobytes()
        assert file.tensors["packed"].data.tobytes() == packed.tobytes()
        assert not file.tensors["packed"].data.flags.writeable


def test_four_dimensions(tmp_path: Path) -> None:
    """Up to four sizes are read, the last of the file first."""
    content = model([], [entry("t", (2, 3, 4, 5))], bytes(2 * 3 * 4 * 5 * 4))
    with GGUFFile(write(tmp_path, content)) as file:
        assert file.tensors["t"].shape == (5, 4, 3, 2)


def test_vocabulary_file_without_tensors(tmp_path: Path) -> None:
    """A file of metadata alone opens, whether or not the padding after it was written."""
    pairs = [pair("tokenizer.ggml.tokens", 9, strings(["a", "b"]))]
    for alignment in (1, 32):
        with GGUFFile(write(tmp_path, model(pairs, alignment=alignment))) as file:
            assert len(file.tensors) == 0
            assert list(file.metadata) == ["tokenizer.ggml.tokens"]


def test_last_tensor_needs_no_padding(tmp_path: Path) -> None:
    """The data section may end with the last tensor, and tensors may stand in any order."""
    entries = [entry("late", offset=32), entry("early", (1,))]
    data = np.arange(16, dtype=np.float32).tobytes()
    with GGUFFile(write(tmp_path, model([], entries, data))) as file:
        assert file.tensors["late"].data.view(np.float32).tolist() == list(range(8, 16))
        assert file.tensors["early"].data.view(np.float32).tolist() == [0]


def test_views_outlive_close(tmp_path: Path) -> None:
    """Metadata and arrays taken before close() stay valid after it."""
    pairs = [pair("key", 9, strings(["kept"])), pair("floats", 9, u32(FLOAT32) + bytes(8))]
    path = write(tmp_path, model(pairs, [entry("t")], bytes(range(32))))
    file = GGUFFile(path)
    data, metadata = file.tensors["t"].data, file.metadata
    file.close()
    file.close()
    del file
    path.unlink()
    assert data.tolist() == list(range(32))
    texts = metadata["key"]
    assert isinstance(texts, StringArray) and list(texts) == ["kept"]


def test_closed_file_refuses_tensors(tmp_path: Path) -> None:
    """After close(), tensors raises an error that says so."""
    file = GGUFFile(write(tmp_path, model([], [entry("t")], bytes(32))))
    file.close()
    with pytest.raises(ModelFileError, match="closed"):
        _ = file.tensors


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_mapping_ends_with_the_last_view(tmp_path: Path) -> None:
    """The file stays mapped while a view lives and is unmapped right after."""
    path = write(tmp_path, model([], [entry("t")], bytes(32)), "mapped.gguf")

    def is_mapped() -> bool:
        return "mapped.gguf" in Path("/proc/self/maps").read_text()

    file = GGUFFile(path)
    data = file.tensors["t"].data
    file.close()
    assert is_mapped()
    assert data[0] == 0
    del data
    assert not is_mapped()


def test_mappings_cannot_be_changed(tmp_path: Path) -> None:
    """Neither the metadata, the tensors nor their bytes can be written."""
    pairs = [pair("key", 9, u32(INT8) + b"\x01" + bytes(7) + b"\x05"), pair("n", UINT32, u32(3))]
    with GGUFFile(write(tmp_path, model(pairs, [entry("t")], bytes(32)))) as file:
        with pytest.raises(TypeError):
            file.metadata["key"] = 1  # type: ignore[index]
        with pytest.raises(TypeError):
            del file.tensors["t"]  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="read-only"):
            file.tensors["t"].data[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(file.metadata["key"])[0] = 1
