"""Tensors of a source by rows: joining and permuting are exact, and read no more than they need."""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.convert.sources.source_tensor import (
    ArrayTensor,
    JoinedTensor,
    MappedTensor,
    PermutedTensor,
    SourceTensor,
)
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.mapped_file import map_file

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
F32 = FORMATS_BY_NAME["F32"]


def counting(*shape: int) -> Array:
    """0, 1, 2 ... in this shape, float32."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def values(tensor: SourceTensor, first: int = 0, last: int | None = None) -> Array:
    """Rows of an F32 tensor as numbers; their layout is checked on the way."""
    rows = tensor.rows(first, tensor.num_rows if last is None else last)
    assert rows.dtype == np.uint8 and rows.flags.c_contiguous
    assert rows.shape[1] == tensor.row_bytes
    return rows.view(np.float32)


class SpiedTensor(ArrayTensor):
    """Remembers which rows were read."""

    def __init__(self, array: Array) -> None:
        super().__init__("spied", array)
        self.ranges: list[tuple[int, int]] = []

    def rows(self, first: int, last: int) -> Array:
        """Notes the range."""
        self.ranges.append((first, last))
        return super().rows(first, last)


def test_shapes_and_sizes() -> None:
    """A vector is one row; a number is one row of one; more axes are rows of the last one."""
    sizes = {}
    for shape in ((), (5,), (3, 5), (2, 3, 5)):
        tensor = ArrayTensor("t", counting(*shape))
        sizes[shape] = (tensor.num_rows, tensor.num_columns, tensor.row_bytes, tensor.num_bytes)
    assert sizes == {
        (): (1, 1, 4, 4),
        (5,): (1, 5, 20, 20),
        (3, 5): (3, 5, 20, 60),
        (2, 3, 5): (6, 5, 20, 120),
    }


@pytest.mark.parametrize(("first", "last"), [(-1, 1), (2, 1), (0, 4), (4, 4)])
def test_rows_that_are_not_there(first: int, last: int) -> None:
    """Rows outside the tensor raise IndexError, for each kind of tensor."""
    array = ArrayTensor("t", counting(3, 4))
    joined = JoinedTensor("j", [ArrayTensor("t", counting(3, 4))], 0)
    for tensor in (array, joined):
        with pytest.raises(IndexError, match=r"of 3 of tensor"):
            tensor.rows(first, last)


def test_renamed_tensors_share_their_rows() -> None:
    """A renamed tensor differs by its name alone, and the first keeps its own."""
    tensor = MappedTensor("a", (2, 3), F32, np.arange(24, dtype=np.uint8))
    other = tensor.renamed("b")
    assert (tensor.name, other.name) == ("a", "b")
    assert isinstance(other, MappedTensor) and np.shares_memory(other.rows(0, 2), tensor.rows(0, 2))


def test_rows_of_blocks() -> None:
    """Quantized rows are whole blocks; a row that is none is refused, and so is missing data."""
    q8_0 = FORMATS_BY_NAME["Q8_0"]
    tensor = MappedTensor("q", (3, 64), q8_0, np.arange(3 * 68, dtype=np.uint8))
    assert tensor.row_bytes == 68 and tensor.rows(1, 2).tolist() == [list(range(68, 136))]
    with pytest.raises(ModelFileError, match="multiples of 32"):
        MappedTensor("q", (3, 33), q8_0, np.zeros(3 * 34, np.uint8))
    with pytest.raises(ValueError, match="data of q is not 204 bytes"):
        MappedTensor("q", (3, 64), q8_0, np.zeros(203, np.uint8))


@given(data=st.data(), axis=st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_joining_what_was_split_gives_it_back(data: st.DataObject, axis: int) -> None:
    """Shards of any sizes along either axis, joined and read in any range, are the whole."""
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    other = data.draw(st.integers(1, 6))
    whole = counting(*((sum(sizes), other) if axis == 0 else (other, sum(sizes))))
    pieces = np.split(whole, np.cumsum(sizes)[:-1], axis=axis)
    joined = JoinedTensor("w", [ArrayTensor("p", np.ascontiguousarray(p)) for p in pieces], axis)
    first = data.draw(st.integers(0, joined.num_rows))
    last = data.draw(st.integers(first, joined.num_rows))
    assert joined.shape == whole.shape
    assert values(joined, first, last).tolist() == whole[first:last].tolist()


def test_joined_rows_read_only_the_shards_that_hold_them() -> None:
    """Along axis 0 the shards before and after the range are not touched, and one is not copied."""
    parts = [SpiedTensor(counting(4, 3)) for _ in range(3)]
    joined = JoinedTensor("w", parts, 0)
    assert np.shares_memory(joined.rows(5, 7), parts[1].rows(0, 4))
    assert [part.ranges for part in parts] == [[], [(1, 3), (0, 4)], []]


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [([(2, 3), (2, 4)], 0), ([(2, 3), (3, 3)], 1), ([(2,), (2,)], 0), ([(2, 3)], 2), ([], 0)],
)
def test_shards_that_do_not_fit(shapes: list[tuple[int, ...]], axis: int) -> None:
    """Shards of different widths, vectors and other axes cannot be joined."""
    with pytest.raises(ValueError, match=f"shards of w do not join on axis {axis}"):
        JoinedTensor("w", [ArrayTensor("p", counting(*shape)) for shape in shapes], axis)


def test_shards_of_different_formats() -> None:
    """Shards of two formats cannot be joined."""
    parts = [ArrayTensor("p", counting(2, 2)), ArrayTensor("p", counting(2, 2).astype(np.float16))]
    with pytest.raises(ValueError, match="do not join"):
        JoinedTensor("w", parts, 0)


@given(
    num_heads=st.integers(1, 4),
    half=st.integers(1, 5),
    num_columns=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_heads_are_interleaved(
    num_heads: int, half: int, num_columns: int, data: st.DataObject
) -> None:
    """New row 2i + j of a head is old row j * half + i, in any range; undone, all is as before."""
    array = counting(num_heads * 2 * half, num_columns)
    tensor = PermutedTensor(ArrayTensor("q", array), num_heads)
    expected = np.empty_like(array)
    for head in range(num_heads):
        start = head * 2 * half
        for i in range(half):
            for j in range(2):
                expected[start + 2 * i + j] = array[start + j * half + i]
    first = data.draw(st.integers(0, len(array)))
    last = data.draw(st.integers(first, len(array)))
    assert values(tensor, first, last).tolist() == expected[first:last].tolist()
    heads = values(tensor).reshape(num_heads, half, 2, num_columns)
    assert np.array_equal(heads.swapaxes(1, 2).reshape(array.shape), array)


def test_a_bias_is_interleaved_by_elements() -> None:
    """In a vector the elements of a head are permuted as the rows of its matrix are."""
    tensor = PermutedTensor(ArrayTensor("q", counting(12)), 2)
    assert tensor.shape == (12,) and tensor.num_rows == 1
    assert values(tensor)[0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert tensor.rows(0, 0).shape == (0, 48)


def test_permuted_rows_read_only_what_they_need() -> None:
    """A few rows cost the rows that become them, one range a half of a head."""
    spied = SpiedTensor(counting(40, 2))
    PermutedTensor(spied, 5).rows(9, 17)
    assert [(a, b) for a, b in spied.ranges if a < b] == [(9, 12), (12, 16), (16, 17)]


@pytest.mark.parametrize(
    ("shape", "num_heads"), [((12, 2), 5), ((12, 2), 4), ((12, 2), 0), ((9,), 3), ((12, 2), -2)]
)
def test_rows_that_are_not_heads(shape: tuple[int, ...], num_heads: int) -> None:
    """Rows that do not divide into heads of an even size are refused."""
    with pytest.raises(ValueError, match=f"are not {num_heads} even heads"):
        PermutedTensor(ArrayTensor("q", counting(*shape)), num_heads)


def test_permuted_blocks() -> None:
    """Rows of blocks are permuted whole; a vector of blocks cannot be."""
    q8_0 = FORMATS_BY_NAME["Q8_0"]
    data = np.repeat(np.arange(4, dtype=np.uint8), 34)
    tensor = PermutedTensor(MappedTensor("q", (4, 32), q8_0, data), 1)
    assert tensor.rows(0, 4)[:, 0].tolist() == [0, 2, 1, 3]
    with pytest.raises(ValueError, match="stored in blocks"):
        PermutedTensor(MappedTensor("q", (128,), q8_0, data), 2)


def test_arrays_of_other_types() -> None:
    """Only float32 and float16 arrays become tensors; a later change of the array is not seen."""
    with pytest.raises(ValueError, match="array of float64"):
        ArrayTensor("t", np.zeros(3))  # type: ignore[arg-type]
    array = counting(2, 2)
    tensor = ArrayTensor("t", array)
    array[:] = 7
    assert values(tensor).tolist() == [[0, 1], [2, 3]]


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_of_a_file_take_no_memory(tmp_path: Path) -> None:
    """Pages that were read do not add up, and rows hold what the file holds."""
    num_bytes = 64 << 20
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 20) * (num_bytes >> 20))
    data = np.frombuffer(map_file(path, "a file"), np.uint8)[131072:]
    part = MappedTensor("p", (1022, 16384), F32, data)
    before = resident_bytes()
    found = b"".join(part.rows(first, first + 2).tobytes()[:8] for first in range(0, 1022, 2))
    assert resident_bytes() - before < num_bytes * 0.1
    content = path.read_bytes()[131072:]
    assert found == b"".join(content[i : i + 8] for i in range(0, len(content), 2 << 16))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps mapped files whole")
def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    """Reading on after somebody has cut the file raises an error and does not end the process."""
    path = tmp_path / "data"
    path.write_bytes(bytes(1 << 20))
    data = np.frombuffer(map_file(path, "a file"), np.uint8)
    tensor = MappedTensor("w", (256, 1024), F32, data)
    assert tensor.rows(0, 256).sum() == 0
    os.truncate(path, 4096)
    with pytest.raises(ModelFileError, match="tensor w: its file was cut to 4096 bytes while it"):
        tensor.rows(200, 256)
    assert tensor.rows(0, 1).sum() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps mapped files whole")
def test_a_file_that_is_cut_at_any_moment(tmp_path: Path) -> None:
    """However reading and cutting meet, rows are whole or refused, and no lost page is touched."""
    path, ending = tmp_path / "data", threading.Event()
    path.write_bytes(bytes(1 << 22))
    tensor = MappedTensor("w", (1024, 1024), F32, np.frombuffer(map_file(path, "a file"), np.uint8))

    def cut_and_mend() -> None:
        while not ending.is_set():
            for size in (0, 1 << 22):
                os.truncate(path, size)

    cutter = threading.Thread(target=cut_and_mend)
    cutter.start()
    outcomes = {"whole": 0, "refused": 0}
    deadline = time.monotonic() + 20.0
    while min(outcomes.values()) < 5 and time.monotonic() < deadline:
        try:
            assert tensor.rows(0, 1024).sum() == 0
            outcomes["whole"] += 1
        except ModelFileError:
            outcomes["refused"] += 1
    ending.set()
    cutter.join()
    assert min(outcomes.values()) >= 5
