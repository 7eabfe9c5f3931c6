"""safetensors files: what the reference implementation reads, and refusals of hostile ones."""

import json
import random
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from harness.traced_memory import traced_peak
from raw_files.damage import MUTATIONS
from raw_files.safetensors_bytes import entry, file_of, saved
from safetensors.numpy import save_file

from edgellama.convert.sources.safetensors_reader import read_safetensors
from edgellama.quant.errors import (
    EdgellamaError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)

HUGE = 2**64 - 1
FLOATS = np.arange(24, dtype=np.float32).reshape(6, 4)
GOOD = saved(
    {"a": FLOATS, "b": FLOATS.astype(np.float16), "c": np.arange(5, dtype=np.uint16)},
    {"format": "pt"},
)


def write(folder: Path, content: bytes) -> Path:
    """``content`` as a file."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def all_bytes(path: Path) -> dict[str, bytes]:
    """The bytes of each tensor that can be read."""
    tensors = read_safetensors(path)
    return {name: tensor.rows(0, tensor.num_rows).tobytes() for name, tensor in tensors.items()}


def test_a_file_of_the_reference_implementation(tmp_path: Path) -> None:
    """Names, shapes, formats and bytes are those that the safetensors package wrote."""
    path = tmp_path / "model.safetensors"
    arrays = {"w": FLOATS, "h": FLOATS.astype(np.float16), "one": np.ones((), np.float32)}
    save_file(arrays, path, {"format": "pt"})
    tensors = read_safetensors(path)
    assert {name: (t.shape, t.format.name) for name, t in tensors.items()} == {
        "w": ((6, 4), "F32"),
        "h": ((6, 4), "F16"),
        "one": ((), "F32"),
    }
    assert all_bytes(path) == {name: array.tobytes() for name, array in arrays.items()}
    assert tensors["h"].rows(2, 4).view(np.float16).tolist() == FLOATS[2:4].tolist()


def test_bfloat16_is_read_as_it_lies(tmp_path: Path) -> None:
    """BF16, for which NumPy has no type, gives the file's bytes, and the package agrees."""
    path = write(tmp_path, GOOD)
    assert read_safetensors(path)["c"].format.name == "BF16"
    reference = {name: bytes(value["data"]) for name, value in safetensors.deserialize(GOOD)}
    assert all_bytes(path) == reference


@pytest.mark.skipif(sys.platform == "win32", reason="makes a sparse file")
def test_opening_reads_the_header_alone(tmp_path: Path) -> None:
    """A file of gigabytes opens without memory."""
    size = 4 << 30
    path = write(tmp_path, file_of({"w": entry("F16", [size // 2048, 1024], 0, size)}))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + size)
    with traced_peak() as peak:
        rows = read_safetensors(path)["w"].rows(1_999_900, 2_000_000)
    assert rows.shape == (100, 2048) and not rows.flags.writeable
    assert peak.num_bytes < 1_000_000


@pytest.mark.parametrize("dtype", ["C64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F4", "NEW"])
def test_other_dtypes_are_refused_when_they_are_used(tmp_path: Path, dtype: str) -> None:
    """A buffer of any type does no harm; used as a weight it is refused by name."""
    bits = {"C64": 64, "I64": 64, "I32": 32, "F4": 4}.get(dtype, 8)
    content = file_of({"x": entry(dtype, [4, 2], 0, bits)}, bytes(bits))
    tensor = read_safetensors(write(tmp_path, content))["x"]
    assert tensor.shape == (4, 2)
    with pytest.raises(UnsupportedModelError, match=f"'x' has dtype '{dtype}'; allowed: F32, F16"):
        assert tensor.format
    with pytest.raises(UnsupportedModelError, match="dequantized first"):
        tensor.rows(0, 1)


def one(dtype: str = "F32", shape: object = (8,), start: int = 0, end: int = 32) -> bytes:
    """A file of one tensor and 32 bytes of data."""
    return file_of({"w": entry(dtype, shape, start, end)}, bytes(32))


# name: (content, what the message must hold)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty, 0 bytes"),
    "three bytes": (b"abc", r"header has \d+ bytes; allowed: at most 0 here"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer"),
    "header length": (file_of({}, num_header_bytes=HUGE), rf"header has {HUGE} bytes"),
    "header length off by one": (file_of({}, num_header_bytes=3), r"header has 3 bytes; .* 2 here"),
    "no header": (file_of(b""), r"is not JSON"),
    "not JSON": (file_of(b"{'a': 1}"), r"the header is not JSON, Expecting property name"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), r"not UTF-8 at byte 2"),
    "a list": (file_of([]), r"holds JSON of type list; allowed: a JSON object"),
    "deep": (file_of(b'{"a":' + b"[" * 10**5), r"nests JSON too deep"),
    "many values": (file_of(b"[" + b"0," * 2_100_000 + b"0]"), r"some 2100001 JSON values"),
    "name twice": (
        file_of(b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{}}'),
        r"'w' is twice in the header",
    ),
    "key twice in a tensor": (
        file_of(b'{"w":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
        r"'dtype' is twice",
    ),
    "tensor is a number": (file_of({"w": 1}), r"tensor 'w' is 1; allowed: an object"),
    "name empty": (file_of({"": entry("F32", [0], 0, 0)}), r"tensor '' is no name"),
    "name with an escape": (file_of({"\x1b[2J": {}}), r"tensor '\\x1b\[2J' is no name"),
    "no dtype": (file_of({"w": {}}), r"dtype of tensor 'w' is None"),
    "no shape": (file_of({"w": {"dtype": "F32"}}), r"shape of tensor 'w' is None"),
    "no offsets": (
        file_of({"w": {"dtype": "F32", "shape": [1]}}),
        r"data_offsets of tensor 'w' is None",
    ),
    "shape of text": (one(shape="8"), r"shape of tensor 'w' is '8'"),
    "shape of texts": (one(shape=["8"]), r"shape of tensor 'w' holds '8'"),
    "shape of booleans": (one(shape=[True, 8]), r"holds True"),
    "shape of fractions": (one(shape=[8.0]), r"holds 8.0"),
    "shape negative": (one(shape=[-8]), r"holds -8; allowed: whole numbers from 0"),
    "shape huge": (one(shape=[2**62, 4]), r"has 32 bytes; allowed: 73786976294838206464"),
    "shape past 64 bits": (one(shape=[2**64]), r"holds 18446744073709551616"),
    "shape of many axes": (one(shape=[1] * 9), r"shape of tensor 'w' is of type list"),
    "shape of absurd digits": (one(shape=[10**4000]), r"holds 1000"),
    "one offset": (
        file_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}),
        r"are \(4,\); allowed: \[start, end\]",
    ),
    "offsets swapped": (one(start=32, end=0), r"data_offsets of tensor 'w' are \(32, 0\)"),
    "offset negative": (one(start=-32, end=0), r"data_offsets of tensor 'w' holds -32"),
    "offset huge": (one(start=HUGE, end=HUGE), r"has 0 bytes; allowed: 32"),
    "size": (one(end=28), r"shape \[8\] in F32 has 28 bytes; allowed: 32"),
    "past the end": (
        one(shape=[9], end=36),
        r"tensors have 36 bytes, the file 32; .*incomplete: download it again",
    ),
    "data left over": (one(shape=[7], end=28), r"tensors have 28 bytes, the file 32"),
    "gap at the start": (one(shape=[7], start=4), r"'w' at offset 4 leaves a gap; allowed: 0"),
    "gap between": (
        file_of({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)),
        r"'b' at offset 2 leaves a gap; allowed: 1",
    ),
    "overlap": (
        file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)),
        r"'b' at offset 1 overlaps the one before; allowed: 2",
    ),
    "same place": (
        file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, bytes(2)),
        r"'b' at offset 0 overlaps",
    ),
    "no data": (file_of({"w": entry("F32", [8], 0, 32)}), r"have 32 bytes, the file 0"),
}


def refusal(folder: Path, content: bytes) -> str:
    """The message with which a file of this content is refused."""
    path = write(folder, content)
    with pytest.raises(ModelFileError) as caught:
        read_safetensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "allowed: " in message
    assert message.isascii() and message.isprintable() and len(message) < 1000
    return message


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_file_is_refused_by_name(tmp_path: Path, key: str) -> None:
    """The error names the file, the offending value and what is allowed, in little memory."""
    content, expected = HOSTILE[key]
    with traced_peak() as peak:
        message = refusal(tmp_path, content)
    assert re.search(expected, message), message
    assert peak.num_bytes < 1_000_000 + 20 * len(content)


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A file cut at any byte is refused, with what to do."""
    for size in range(1, len(GOOD)):
        assert "incomplete: download it again" in refusal(tmp_path, GOOD[:size])


@pytest.mark.skipif(sys.platform == "win32", reason="makes a sparse file")
def test_a_header_as_large_as_a_model(tmp_path: Path) -> None:
    """A header of gigabytes that are really in the file is refused without being read."""
    path = write(tmp_path, struct.pack("<Q", 3 << 30))
    with open(path, "r+b") as file:
        file.truncate(4 << 30)
    with pytest.raises(
        ModelFileError, match="header has 3221225472 bytes; allowed: at most 16777216 here"
    ):
        read_safetensors(path)


def test_absent_file(tmp_path: Path) -> None:
    """A file that is not there raises ModelNotFoundError."""
    with pytest.raises(ModelNotFoundError, match=r"no\.safetensors: no such file"):
        read_safetensors(tmp_path / "no.safetensors")


@pytest.mark.parametrize("seed", MUTATIONS)
def test_damaged_headers_are_judged_as_the_reference_does(tmp_path: Path, seed: str) -> None:
    """What opens here opens in the safetensors package, with the same bytes; and the reverse."""
    rng = random.Random(seed)
    header_bytes = 8 + int.from_bytes(GOOD[:8], "little")
    num_refused = 0
    for _ in range(300):
        header = bytearray(GOOD[:header_bytes])
        MUTATIONS[seed](rng, header)
        content = bytes(header) + GOOD[header_bytes:]
        path = write(tmp_path, content)
        try:
            reference = {n: bytes(v["data"]) for n, v in safetensors.deserialize(content)}
        except safetensors.SafetensorError:
            reference = None
        try:
            found = {
                name: tensor.rows(0, tensor.num_rows).tobytes()
                for name, tensor in read_safetensors(path).items()
            }
        except EdgellamaError as error:
            num_refused += 1
            assert str(path) in str(error)
            assert reference is None or "tensor" in str(error), content
        else:
            assert found == reference, content
    assert num_refused > 60


def test_the_header_may_end_in_spaces(tmp_path: Path) -> None:
    """Writers pad the header with spaces, so that the data is aligned."""
    header = json.dumps({"w": entry("F32", [8], 0, 32)}).encode()
    path = write(tmp_path, file_of(header + b" " * 7, bytes(32)))
    assert all_bytes(path) == {"w": bytes(32)}
