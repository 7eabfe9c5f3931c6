"""Models split over several GGUF files: joined when they belong together, refused otherwise."""

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from raw_files.gguf_bytes import INT32, STRING, UINT16, entry, model, pair, string, u32, write

from edgellama.quant.errors import ModelFileError, ModelNotFoundError
from edgellama.quant.gguf.file import GGUFFile

NUM_TENSORS = 5


@pytest.fixture
def split_model(tmp_path: Path) -> list[Path]:
    """Five tensors in three files, split by the gguf package's own writer."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_string("general.name", "split")
    for index in range(NUM_TENSORS):
        writer.add_tensor(f"t{index}", np.full((2, 4), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in paths] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    return paths


def part(number: int, count: int, total: int, tensor: str) -> bytes:
    """One part with one tensor and these split numbers."""
    pairs = [
        pair("split.no", UINT16, number.to_bytes(2, "little")),
        pair("split.count", UINT16, count.to_bytes(2, "little")),
        pair("split.tensors.count", INT32, u32(total)),
    ]
    return model(pairs, [entry(tensor)], bytes(32))


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_part_opens_all(split_model: list[Path], opened: int) -> None:
    """Every tensor is there, with the first part's metadata, whichever part was named."""
    with GGUFFile(split_model[opened]) as file:
        assert file.files == tuple(split_model)
        assert file.path == split_model[0]
        assert file.file_bytes == sum(path.stat().st_size for path in split_model)
        assert file.metadata["general.name"] == "split"
        assert list(file.tensors) == [f"t{index}" for index in range(NUM_TENSORS)]
        for index in range(NUM_TENSORS):
            values = file.tensors[f"t{index}"].data.view(np.float32)
            assert values.tolist() == [index] * 8


def test_missing_part_is_named(split_model: list[Path]) -> None:
    """The error names the file that is not there and the one that was opened."""
    split_model[1].unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        GGUFFile(split_model[0])
    assert split_model[1].name in str(caught.value) and split_model[0].name in str(caught.value)


def test_damaged_part_is_named(split_model: list[Path]) -> None:
    """An error in a later part names that part."""
    split_model[2].write_bytes(split_model[2].read_bytes()[:-40])
    with pytest.raises(ModelFileError, match=split_model[2].name):
        GGUFFile(split_model[0])


def test_renamed_part_is_refused(split_model: list[Path]) -> None:
    """A part whose name does not say so is refused with the name it should have."""
    renamed = split_model[0].rename(split_model[0].with_name("renamed.gguf"))
    with pytest.raises(ModelFileError, match=r"split.count 3.*-00001-of-00003"):
        GGUFFile(renamed)


def test_parts_in_the_wrong_place_are_refused(split_model: list[Path]) -> None:
    """A part under another part's name is refused by its number."""
    shutil.copy(split_model[1], split_model[2])
    with pytest.raises(ModelFileError, match=r"00003-of-00003.*split.no is 1; allowed: 2"):
        GGUFFile(split_model[0])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (part(1, 2, 2, "a"), "'a' is in an earlier part"),
        (part(1, 2, 9, "b"), "split.tensors.count is 9; allowed: 2"),
        (part(1, 3, 2, "b"), "split.count is 3; allowed: 2"),
        (part(1, 2, 2**32 - 1, "b"), "split.tensors.count is -1"),
        (model([], [entry("b")], bytes(32)), "split.no is None"),
        (model([pair("split.no", STRING, string("1"))]), "split.no is '1'"),
    ],
    ids=["same tensor", "total", "count", "negative", "no numbers", "text"],
)
def test_parts_that_do_not_fit(tmp_path: Path, second: bytes, message: str) -> None:
    """Split numbers that do not agree with the files are refused, naming key and value."""
    first = write(tmp_path, part(0, 2, 2, "a"), "m-00001-of-00002.gguf")
    write(tmp_path, second, "m-00002-of-00002.gguf")
    with pytest.raises(ModelFileError, match=message):
        GGUFFile(first)


def test_lying_split_count_does_not_search(tmp_path: Path) -> None:
    """A count of 65535 ends at the first part that is missing."""
    path = write(tmp_path, part(0, 65535, 9, "a"), "m-00001-of-65535.gguf")
    with pytest.raises(ModelNotFoundError, match="m-00002-of-65535"):
        GGUFFile(path)


def test_name_of_a_part_alone_means_nothing(tmp_path: Path) -> None:
    """A file that is named like a part, but has no split numbers, is a whole model."""
    path = write(tmp_path, model([], [entry("t")], bytes(32)), "m-00001-of-00002.gguf")
    with GGUFFile(path) as file:
        assert file.files == (path,)
