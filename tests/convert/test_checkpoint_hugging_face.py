"""Hugging Face folders: every layout of weights, and files that do not belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from raw_files import safetensors_bytes, torch_bytes

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.quant.errors import EdgellamaError, ModelFileError, ModelNotFoundError

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Writer: TypeAlias = Callable[[Mapping[str, Array]], bytes]
A, B, C = (np.full((2, 3), number, np.float32) for number in (1, 2, 3))
SHARDS = ({"a": A, "c": C}, {"b": B})
# stem, suffix, writer
SUFFIXES: dict[str, tuple[str, str, Writer]] = {
    "safetensors": ("model", ".safetensors", safetensors_bytes.saved),
    "torch": ("pytorch_model", ".bin", torch_bytes.saved),
}


@pytest.fixture(params=SUFFIXES)
def layout(request: pytest.FixtureRequest) -> tuple[str, str, Writer]:
    """Stem, suffix and writer of one kind of weight files."""
    return SUFFIXES[request.param]


def shard_names(stem: str, suffix: str) -> list[str]:
    """The names of two numbered shards."""
    return [f"{stem}-{number:05d}-of-00002{suffix}" for number in (1, 2)]


def write_shards(folder: Path, layout: tuple[str, str, Writer], config: object = None) -> list[str]:
    """Write config.json and two shards; return their names."""
    stem, suffix, saved = layout
    (folder / "config.json").write_text(json.dumps(config or {"hidden_size": 3}))
    names = shard_names(stem, suffix)
    for name, arrays in zip(names, SHARDS, strict=True):
        (folder / name).write_bytes(saved(arrays))
    return names


def write_index(folder: Path, layout: tuple[str, str, Writer], weight_map: object) -> Path:
    """Write the index beside the shards."""
    path = folder / f"{layout[0]}{layout[1]}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": weight_map}))
    return path


def contents(checkpoint: Checkpoint) -> dict[str, float]:
    """The number that each tensor is filled with."""
    found = {}
    for name, tensor in checkpoint.tensors.items():
        numbers = set(tensor.rows(0, tensor.num_rows).view(np.float32).ravel().tolist())
        assert tensor.shape == (2, 3) and len(numbers) == 1
        found[name] = numbers.pop()
    return found


def refusal(folder: Path, error: type[EdgellamaError]) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(error) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and message.isprintable() and message.isascii()
    return message


def test_plain_shards(tmp_path: Path, layout: tuple[str, str, Writer]) -> None:
    """Numbered shards make a model without an index."""
    names = write_shards(tmp_path, layout)
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == names
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
        assert checkpoint.parameters == {"hidden_size": 3}


def test_indexed_shards(tmp_path: Path, layout: tuple[str, str, Writer]) -> None:
    """An index may give the shards any names, and need not name every tensor in them."""
    first, second = write_shards(tmp_path, layout)
    (tmp_path / second).rename(tmp_path / f"other{layout[1]}")
    write_index(tmp_path, layout, {"a": first, "b": f"other{layout[1]}"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert {file.name for file in checkpoint.files} == {first, f"other{layout[1]}"}
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}


def test_shards_that_are_numbered_without_zeros(tmp_path: Path) -> None:
    """Numbers of fewer digits, which some programs write, are shards in their order too."""
    layout = SUFFIXES["torch"]
    for number, name in enumerate(write_shards(tmp_path, layout), 1):
        (tmp_path / name).rename(tmp_path / f"pytorch_model-{number}-of-2.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_shard(tmp_path: Path, layout: tuple[str, str, Writer], number: int) -> None:
    """A shard that the others' names count is missed by name."""
    names = write_shards(tmp_path, layout)
    (tmp_path / names[number]).unlink()
    message = refusal(tmp_path, ModelNotFoundError)
    assert f"shard {names[number]} is missing; allowed: all 2 shards" in message


@pytest.mark.parametrize("name", ["{}-00001-of-00003{}", "{}-00003-of-00002{}", "{}-1-of-2{}"])
def test_shards_of_two_models(tmp_path: Path, layout: tuple[str, str, Writer], name: str) -> None:
    """Shards that do not count as one model are refused."""
    stem, suffix, saved = layout
    write_shards(tmp_path, layout)
    (tmp_path / name.format(stem, suffix)).write_bytes(saved({"d": A}))
    assert re.search(r"has 3 shards of .*; allowed: one model", refusal(tmp_path, ModelFileError))


def test_files_of_similar_names_are_no_shards(
    tmp_path: Path, layout: tuple[str, str, Writer]
) -> None:
    """Only names that are exactly a shard's count."""
    stem, suffix, _ = layout
    write_shards(tmp_path, layout)
    for name in (f"{stem}-ema-00001-of-00002{suffix}", f"{stem}-00001-of-00002{suffix}.part"):
        (tmp_path / name).write_bytes(b"junk")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.files) == 2


def test_an_index_that_names_an_absent_file(
    tmp_path: Path, layout: tuple[str, str, Writer]
) -> None:
    """What an absent file should hold is told; whether it is needed is for others to say."""
    first, second = write_shards(tmp_path, layout)
    write_index(tmp_path, layout, {"a": first, "b": second, "x": "x.bin"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
        assert checkpoint.absent == {"x": tmp_path / "x.bin"}


def test_an_index_whose_files_are_all_absent(
    tmp_path: Path, layout: tuple[str, str, Writer]
) -> None:
    """Without any file the first is named; where other shards make a model, they count."""
    names = write_shards(tmp_path, layout)
    index = write_index(tmp_path, layout, {"a": "x.bin", "b": "y\x1b[2J"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
        assert checkpoint.notes == (
            f"{index.name} names none of the 2 shards that are there, which count",
        )
    for name in names:
        (tmp_path / name).unlink()
    message = refusal(tmp_path, ModelNotFoundError)
    assert message == (
        f"{index}: names 'x.bin', which is missing; allowed: all 2 files that the index names"
    )


@pytest.mark.parametrize(("name", "place"), [("b", 0), ("a", 1)])
def test_an_index_that_names_another_file(
    tmp_path: Path, layout: tuple[str, str, Writer], name: str, place: int
) -> None:
    """A tensor in another file than the index says is taken from where it is."""
    names = write_shards(tmp_path, layout)
    write_index(tmp_path, layout, {"c": names[0], "b": names[1], name: names[place]})
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
        assert not checkpoint.absent


def test_an_index_that_names_an_absent_tensor(
    tmp_path: Path, layout: tuple[str, str, Writer]
) -> None:
    """A tensor that is nowhere is told with the file that should hold it."""
    names = write_shards(tmp_path, layout)
    write_index(tmp_path, layout, {"x": names[0], "b": names[1]})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.absent == {"x": tmp_path / names[0]}


def test_a_shard_that_the_index_does_not_name(
    tmp_path: Path, layout: tuple[str, str, Writer]
) -> None:
    """A shard of the same count gives what no other has, and that is told; others are let be."""
    stem, suffix, saved = layout
    first, second = write_shards(tmp_path, layout)
    write_index(tmp_path, layout, {"a": first})
    (tmp_path / second).write_bytes(saved({"b": B, "a": C}))
    (tmp_path / f"{stem}-00007-of-00007{suffix}").write_bytes(saved({"d": A}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
        (note,) = checkpoint.notes
        assert note.startswith(f"'{second}' is not named by the index, but holds 1 tensors")
    with open_checkpoint(tmp_path / second) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
    (tmp_path / second).write_bytes(b"junk that is no tensor")
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "c": 3}
        (note,) = checkpoint.notes
        assert note.startswith("a shard that the index does not name is passed over: ")


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        (None, r"weight_map is None; allowed: tensor names and their files"),
        ([], r"weight_map is of type list"),
        ({}, r"weight_map is of type dict"),
        ({"a": 1}, r"weight_map names 1 for 'a'; allowed: files in the same folder"),
        ({"a": "../a.bin"}, r"names '../a.bin' for 'a'"),
        ({"a": "/etc/passwd"}, r"names '/etc/passwd'"),
        ({"a": "x\\a.bin"}, r"names 'x\\\\a.bin'"),
        ({"a": ".."}, r"names '\.\.'"),
        ({"a": "."}, r"names '\.'"),
        ({"a": ""}, r"names ''"),
        ({"a": "x\0"}, r"names 'x\\x00'"),
    ],
)
def test_a_malformed_index(
    tmp_path: Path, layout: tuple[str, str, Writer], weight_map: object, expected: str
) -> None:
    """An index that does not map names to files of its folder is refused, and opens no other."""
    write_shards(tmp_path, layout)
    write_index(tmp_path, layout, weight_map)
    assert re.search(expected, refusal(tmp_path, EdgellamaError))


def test_a_tensor_in_two_shards(tmp_path: Path, layout: tuple[str, str, Writer]) -> None:
    """The index decides between two copies; without its word they must be the same."""
    saved = layout[2]
    first, second = write_shards(tmp_path, layout)
    (tmp_path / second).write_bytes(saved({"b": B, "a": A}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert contents(checkpoint) == {"a": 1, "b": 2, "c": 3}
    (tmp_path / second).write_bytes(saved({"b": B, "a": B}))
    for weight_map in (None, {"b": second, "c": first}):
        if weight_map is not None:
            write_index(tmp_path, layout, weight_map)
        message = refusal(tmp_path, ModelFileError)
        assert f"{second}: tensor 'a' is in {first} too, with other values; allowed" in message
    for place, expected in ((first, 1.0), (second, 2.0)):
        write_index(tmp_path, layout, {"a": place, "b": second, "c": first})
        with open_checkpoint(tmp_path) as checkpoint:
            assert contents(checkpoint) == {"a": expected, "b": 2, "c": 3}


def test_a_shard_that_is_malformed(tmp_path: Path, layout: tuple[str, str, Writer]) -> None:
    """The error of one file names that file."""
    names = write_shards(tmp_path, layout)
    (tmp_path / names[1]).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    message = refusal(tmp_path, ModelFileError)
    assert f"{names[1]}: is a Git LFS pointer" in message
