"""Importance matrices as files: written as llama.cpp does, read back, and hostile ones refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from edgellama.convert.imatrix import read_imatrix, write_imatrix
from edgellama.quant.errors import (
    ConversionError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
)

SUMS = {
    "blk.1.ffn_down.weight": np.array([0.0, 1024.0, 3.0, 5e9]),
    "blk.0.attn_q.weight": np.array([512.0, 0.25]),
}


def write(path: Path, overwrite: bool = False) -> Path:
    """SUMS over two chunks of 512 tokens, as a file."""
    write_imatrix(
        path, SUMS, num_tokens=1024, chunk_tokens=512, datasets=["a.txt"], overwrite=overwrite
    )
    return path


def write_gguf(path: Path, tensors: dict[str, np.ndarray], kind: str = "imatrix") -> Path:
    """A GGUF file of any tensors and general.type."""
    writer = GGUFWriter(path, "")
    writer.add_type(kind)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat_bytes(
    entries: list[tuple[bytes, int, list[float]]], num_entries: int | None = None
) -> bytes:
    """A legacy file: per entry name, calls and values; then the last chunk and the text's name."""
    data = struct.pack("<i", len(entries) if num_entries is None else num_entries)
    for name, num_calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", num_calls, len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    return data + struct.pack("<ii", 7, 5) + b"a.txt"


def test_written_sums_are_read_as_means(tmp_path: Path) -> None:
    """What was summed over n tokens comes back as f32 means, by the same names."""
    rows = read_imatrix(write(tmp_path / "i.gguf"))
    assert set(rows) == set(SUMS)
    for name, sums in SUMS.items():
        assert rows[name].dtype == np.float32
        np.testing.assert_array_equal(rows[name], (sums / 1024).astype(np.float32))


def test_layout_is_that_of_llama_cpp(tmp_path: Path) -> None:
    """Keys, tensor names, order, shapes and types are those that llama.cpp's tool writes."""
    reader = GGUFReader(write(tmp_path / "i.gguf"))
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 512,
    }
    assert [(t.name, t.shape.tolist(), t.tensor_type.name) for t in reader.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", [2], "F32"),
        ("blk.0.attn_q.weight.counts", [1], "F32"),
        ("blk.1.ffn_down.weight.in_sum2", [4], "F32"),
        ("blk.1.ffn_down.weight.counts", [1], "F32"),
    ]
    assert reader.tensors[1].data.tolist() == [1024.0]


def test_two_dimensions_and_other_tensors(tmp_path: Path) -> None:
    """Rows of shape (1, n) beside tensors of no interest are read; unused matrices are left out."""
    one, none = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    tensors = {
        "a.in_sum2": np.full((1, 3), 8, np.float32),
        "a.counts": 4 * one,
        "a.in_sum": np.full((1, 3), -1, np.float32),
        "b.in_sum2": np.zeros((1, 3), np.float32),
        "b.counts": none,
    }
    rows = read_imatrix(write_gguf(tmp_path / "i.gguf", tensors))
    assert {name: row.tolist() for name, row in rows.items()} == {"a": [2.0, 2.0, 2.0]}


def test_legacy_file(tmp_path: Path) -> None:
    """A .dat holds means times calls, with or without what follows the entries."""
    data = dat_bytes([(b"blk.0.attn_q.weight", 4, [8.0, 0.0]), (b"output.weight", 0, [3.0])])
    for index, content in enumerate((data, data[:-13])):
        path = tmp_path / f"{index}.dat"
        path.write_bytes(content)
        rows = read_imatrix(path)
        assert {name: row.tolist() for name, row in rows.items()} == {
            "blk.0.attn_q.weight": [2.0, 0.0],
            "output.weight": [3.0],
        }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"What is this?", "the number of entries of an importance matrix is 1952540759"),
        (dat_bytes([]), "the number of entries of an importance matrix is 0; allowed: 1 to"),
        (dat_bytes([(b"a", 1, [1.0])], 2)[:30], "the number of entries .* is 2; allowed: 1 to 1"),
        (dat_bytes([(b"a", 1, [])]), "the number of values of 'a' is 0"),
        (dat_bytes([(b"a", 1, [1.0]), (b"b", 1, [1.0] * 3)])[:42], "values of 'b' is 3; .* 1 to 2"),
        (dat_bytes([(b"a" * 65, 1, [1.0])]), "the length of the name of entry 0 is 65"),
        (dat_bytes([(b"a\x1b[2J", 1, [1.0])]), "the name of entry 0 is "),
        (dat_bytes([(b"a", 1, [1.0]), (b"a", 1, [1.0])]), "entry 'a' is there twice"),
        (dat_bytes([(b"a", 1, [1.0, -2.0])]), "'a' holds -2.0; allowed: numbers from 0"),
        (dat_bytes([(b"a", 1, [float("nan")])]), "'a' holds nan"),
        (struct.pack("<iii", 1, 1 << 30, 5) + bytes(20), "the length of the name of entry 0 is"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 30) + bytes(9), "is 10737"),
    ],
)
def test_damaged_legacy_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Wrong counts, names and numbers are named, and nothing is allocated for them."""
    path = tmp_path / "i.dat"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message):
        read_imatrix(path)


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.in_sum2": ONE}, "'a' has sums and no counts"),
        ({"a.in_sum2": ONE, "a.counts": np.ones(8, np.float32)}, "'a' stands for 8 matrices"),
        ({"a.in_sum2": -ONE, "a.counts": ONE}, "'a.in_sum2' holds -1.0"),
        ({"a.in_sum2": ONE * np.inf, "a.counts": ONE}, "'a.in_sum2' holds inf"),
        ({"a.in_sum2": ONE, "a.counts": ONE * np.nan}, "'a.counts' holds nan"),
        ({"a.in_sum2": ONE.astype(np.float16), "a.counts": ONE}, "'a.in_sum2' has format F16"),
        ({"a.in_sum2": ONE, "a.counts": ONE / 4}, "'a' has a count of 0.25; allowed: 0, or from 1"),
        ({"a.weight": ONE}, "holds 0 entries"),
    ],
)
def test_damaged_gguf_files_are_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], message: str
) -> None:
    """Entries that are no sums with one count are named."""
    with pytest.raises(ModelFileError, match=message):
        read_imatrix(write_gguf(tmp_path / "i.gguf", tensors))


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A model, an empty file, a folder and no file at all are told apart."""
    with pytest.raises(ModelFileError, match=r"general.type is 'model'; allowed: 'imatrix'"):
        read_imatrix(write_gguf(tmp_path / "m.gguf", {"a": ONE}, "model"))
    (tmp_path / "empty").touch()
    for path, message in ((tmp_path / "empty", "is empty"), (tmp_path, "is a directory")):
        with pytest.raises(ModelFileError, match=message):
            read_imatrix(path)
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_imatrix(tmp_path / "nowhere")


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    """A file that is there stays unless replacing it is asked for, and failures leave none."""
    path = write(tmp_path / "i.gguf")
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="is there already"):
        write(path)
    write(path, overwrite=True)
    assert path.read_bytes() == before
    for wrong, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "i", "there is no folder"),
    ):
        with pytest.raises(ConversionError, match=message):
            write(wrong)
    with pytest.raises(InvalidOptionError, match="the sums of a are not numbers"):
        write_imatrix(
            tmp_path / "b", {"a": np.array([np.nan])}, num_tokens=1, chunk_tokens=1, datasets=["t"]
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["i.gguf"]
