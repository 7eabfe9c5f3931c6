"""Malformed and hostile GGUF files: refused by name, never a crash, a hang or much memory."""

import os
import re
import sys
from pathlib import Path

import pytest
from harness.traced_memory import traced_peak
from raw_files.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    INT8,
    INT32,
    Q4_0,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    entry,
    model,
    pair,
    string,
    strings,
    u32,
    u64,
    write,
)

from edgellama.quant.errors import (
    EdgellamaError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
)
from edgellama.quant.gguf.file import GGUFFile

HUGE = 2**64 - 1
DATA = bytes(64)
ONE = pair("k", UINT8, b"\x01")


def nested(depth: int) -> bytes:
    """An array in an array, ``depth`` arrays in all, the last one empty."""
    return pair("k", ARRAY, (u32(ARRAY) + u64(1)) * (depth - 1) + u32(UINT8) + u64(0))


def array_of(type_id: int, count: int, items: bytes = b"") -> bytes:
    """An array whose count may lie."""
    return pair("k", ARRAY, u32(type_id) + u64(count) + items)


def aligned_to(value: bytes, type_id: int = UINT32) -> bytes:
    """A file with this general.alignment and one tensor."""
    return model([pair("general.alignment", type_id, value)], [entry("t")], DATA)


# name: (content, what the message must hold)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty, 0 bytes"),
    "one byte": (b"G", r"magic number runs past the end, 4 bytes"),
    "text": (b"hello world", r"not a GGUF file; it starts with 'hell'; allowed: 'GGUF'"),
    "zip": (b"PK\x03\x04" + DATA, r"zip archive"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer"),
    "old ggml": (b"tjgg" + DATA, r"older than GGUF"),
    "version 0": (model(version=0), r"version is 0; allowed: 2 and 3"),
    "version 1": (model(version=1), r"version is 1; allowed: 2 and 3"),
    "version 4": (model(version=4), r"version is 4"),
    "big-endian": (b"GGUF" + (3).to_bytes(4, "big") + DATA, r"big-endian, version 3"),
    "tensor count": (model(num_tensors=HUGE), rf"number of tensors is {HUGE}"),
    "tensor count, plausible": (model(num_tensors=3), r"number of tensors is 3; .*at most 0"),
    "key count": (model(num_pairs=HUGE), rf"number of metadata keys is {HUGE}"),
    "key count off by one": (model([ONE] * 40, num_pairs=41), r"metadata key.* twice"),
    "key length": (model([string("k", HUGE) + DATA]), rf"key 0 is {HUGE}; allowed: 1 to 65535"),
    "key length past end": (model([string("k", 60000) + DATA]), r"key 0 runs past the end, 60000"),
    "empty key": (model([pair("", UINT8, b"1")]), r"length of metadata key 0 is 0"),
    "key not UTF-8": (model([pair(b"\xff", UINT8, b"1")]), r"key 0 is b'\\xff'.*UTF-8"),
    "key with escape": (model([pair("\x1b[2J", UINT8, b"1")]), r"x1b\[2J.*printable"),
    "key twice": (model([ONE, ONE]), r"key 'k' is there twice"),
    "value type": (model([pair("k", 13, DATA)]), r"type of metadata key 'k' is 13.*12 float64"),
    "value type huge": (model([pair("k", 2**32 - 1, DATA)]), r"'k' is 4294967295"),
    "boolean": (model([pair("k", BOOL, b"\x02")]), r"'k' holds the boolean 2; allowed: 0 and 1"),
    "booleans": (model([array_of(BOOL, 3, b"\x01\xff\x00")]), r"holds the boolean 255"),
    "string length": (model([pair("k", STRING, string("x", HUGE))]), rf"past the end, {HUGE}"),
    "string past end": (model([pair("k", STRING, string("x", 99))]), r"past the end, 99"),
    "item type": (model([array_of(14, 1, DATA)]), r"items of metadata key 'k' is 14"),
    "array length": (model([array_of(UINT8, HUGE)]), rf"length of metadata key 'k' is {HUGE}"),
    "array length * size": (model([array_of(UINT64, 2**61 + 1, DATA)]), r"is 2305843009213693953"),
    "array past end": (model([array_of(INT32, 99, DATA)]), r"is 99; allowed: at most"),
    "strings count": (model([array_of(STRING, HUGE, DATA)]), rf"'k' is {HUGE}; allowed: at most"),
    "strings past end": (
        model([array_of(STRING, 3, string("a") + string("b") + string("c", 99))]),
        r"string 2 of 3 in metadata key 'k' runs past the end, 99",
    ),
    "strings wrap around": (
        model([array_of(STRING, 2, string("a", HUGE - 7) + DATA)]),
        r"string 0 of 2 in .* 18446744073709551608 bytes",
    ),
    "arrays count": (model([array_of(ARRAY, HUGE, DATA)]), r"at most"),
    "arrays too deep": (model([nested(5)]), r"nests arrays 5 deep; allowed: 4"),
    "arrays far too deep": (model([nested(20_000)]), r"nests arrays 5 deep; allowed: 4"),
    "too many arrays": (
        model([array_of(ARRAY, 65537, (u32(UINT8) + u64(0)) * 65537)]),
        r"is 65537; allowed: at most 65536",
    ),
    "too many arrays in arrays": (
        model([array_of(ARRAY, 2, (u32(ARRAY) + u64(40000) + (u32(UINT8) + u64(0)) * 40000) * 2)]),
        r"is 40000; allowed: at most 25534",
    ),
    "alignment 0": (aligned_to(u32(0)), r"general.alignment is 0; allowed: powers of two"),
    "alignment 1": (aligned_to(u32(1)), r"general.alignment is 1;"),
    "alignment 24": (aligned_to(u32(24)), r"general.alignment is 24;"),
    "alignment huge": (aligned_to(u32(2**31)), r"data section has 0 bytes"),
    "alignment negative": (aligned_to(u32(2**32 - 32), INT32), r"alignment is -32"),
    "alignment text": (aligned_to(string("32"), STRING), r"alignment is '32'"),
    "alignment boolean": (aligned_to(b"\x01", BOOL), r"alignment is True"),
    "alignment array": (
        model([pair("general.alignment", ARRAY, strings(["32"]))], [entry("t")], DATA),
        r"alignment is of type StringArray",
    ),
    "tensor name length": (
        model([], [string("t", HUGE) + DATA]),
        rf"name of tensor 0 is {HUGE}; allowed: 1 to 64 bytes",
    ),
    "tensor name long": (model([], [entry("t" * 65)], DATA), r"tensor 0 is 65"),
    "tensor name empty": (model([], [entry("")], DATA), r"tensor 0 is 0"),
    "tensor name with newline": (model([], [entry("a\nb")], DATA), r"a\\nb.*printable"),
    "tensor name with direction": (model([], [entry("\u202eb")], DATA), r"printable"),
    "tensor twice": (model([], [entry("t"), entry("t", offset=32)], DATA), r"'t' is there twice"),
    "no dimensions": (model([], [entry("t", ())], DATA), r"'t' has 0 dimensions; allowed: 1 to 4"),
    "five dimensions": (model([], [entry("t", (1,) * 5)], DATA), r"has 5 dimensions"),
    "many dimensions": (model([], [entry("t", num_dimensions=2**32 - 1)], DATA), r"4294967295 dim"),
    "size 0": (model([], [entry("t", (4, 0))], DATA), r"sizes \[4, 0\]; allowed: sizes of 1"),
    "size huge": (model([], [entry("t", (HUGE,))], DATA), r"data section has 64 bytes"),
    "size product wraps": (
        model([], [entry("t", (2**32, 2**32, 1, 1))], DATA),
        r"73786976294838206464 bytes",
    ),
    "size product wraps to small": (
        model([], [entry("t", (2**62, 2**2, 2))], DATA),
        r"has 147573952589676412928 bytes",
    ),
    "partial blocks": (
        model([], [entry("t", (33,), Q4_0)], DATA),
        r"'t': a row of 33 elements .* Q4_0; allowed: multiples of 32",
    ),
    "format unknown": (model([], [entry("t", format_id=99)], DATA), r"'t' is 99; .*0 F32, 1 F16"),
    "format huge": (model([], [entry("t", format_id=2**32 - 1)], DATA), r"is 4294967295"),
    "format retired": (model([], [entry("t", format_id=31)], DATA), r"31 \(Q4_0_4_4, .*withdrawn"),
    "offset unaligned": (
        model([], [entry("t", offset=8)], DATA),
        r"is 8; allowed: multiples of 32",
    ),
    "offset huge": (
        model([], [entry("t", offset=2**64 - 32)], DATA),
        r"offset 18446744073709551584",
    ),
    "offset past end": (model([], [entry("t", offset=64)], DATA), r"32 bytes at offset 64"),
    "tensor past end": (
        model([], [entry("t", (17,))], DATA),
        r"68 bytes at offset 0.*has 64 bytes",
    ),
    "tensors overlap": (
        model([], [entry("a", (16,)), entry("b", offset=32)], DATA),
        r"'b' at offset 32 overlaps 'a'; allowed: offsets from 64",
    ),
    "tensors at one place": (
        model([], [entry("a"), entry("b")], DATA),
        r"'b' at offset 0 overlaps",
    ),
    "no data section": (model([], [entry("t")]), r"data section has 0 bytes"),
}


def refusal(path: Path) -> str:
    """The message with which opening ``path`` is refused."""
    with pytest.raises(ModelFileError) as caught:
        GGUFFile(path)
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """The error names the file, the offending value and what is allowed, in little memory."""
    content, expected = HOSTILE[name]
    path = write(tmp_path, content)
    with traced_peak() as peak:
        message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert re.search(expected, message), message
    assert "allowed: " in message
    assert message.isascii() and message.isprintable() and len(message) < 1000 + len(str(path))
    assert peak.num_bytes < 1_000_000 + 20 * len(content)


def full_model() -> bytes:
    """A valid file with a value of every kind and tensors of several formats."""
    pairs = [
        pair("general.architecture", STRING, string("llama")),
        pair("general.alignment", UINT32, u32(32)),
        *(pair(f"n{i}", i, bytes(8)[:size]) for i, size in enumerate((1, 1, 2, 2, 4, 4, 4, 1))),
        *(pair(f"n{i}", i, bytes(8)) for i in (10, 11, 12)),
        pair("split.count", UINT16, b"\x01\x00"),
        pair("tokens", ARRAY, strings(["a", "", "bcd", "\u00e9" * 20])),
        pair("scores", ARRAY, u32(6) + u64(4) + bytes(16)),
        pair("flags", ARRAY, u32(BOOL) + u64(3) + b"\x00\x01\x01"),
        pair("nested", ARRAY, u32(ARRAY) + u64(2) + strings(["x"]) + u32(INT8) + u64(1) + b"\x07"),
    ]
    entries = [
        entry("blk.0.ffn.weight", (64, 4), Q4_0, 0),
        entry("output_norm.weight", (8,), F32, 160),
        entry("output.weight", (32, 2), 1, 192),
    ]
    return model(pairs, entries, bytes(range(256)) + bytes(64))


def test_full_model_is_valid(tmp_path: Path) -> None:
    """The file that the next tests damage opens before it is damaged."""
    with GGUFFile(write(tmp_path, full_model())) as file:
        assert len(file.metadata) == 18 and len(file.tensors) == 3


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A file cut at any byte is refused, by the size that is missing, with what to do."""
    content = full_model()
    for size in range(len(content)):
        path = write(tmp_path, content[:size])
        message = refusal(path)
        assert str(path) in message
        assert "incomplete: download it again" in message or size == 0


def test_absent_file(tmp_path: Path) -> None:
    """A file or folder that is not there raises ModelNotFoundError, a FileNotFoundError."""
    for path in (tmp_path / "no.gguf", tmp_path / "no" / "m.gguf", write(tmp_path, b"") / "m.gguf"):
        with pytest.raises(ModelNotFoundError, match=r"\.gguf: no such file") as caught:
            GGUFFile(path)
        assert isinstance(caught.value, FileNotFoundError)


def test_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder, a pipe, and a path that no system takes are refused at once."""
    assert "is a directory" in refusal(tmp_path)
    with pytest.raises(InvalidOptionError, match="allowed: the path of a file"):
        GGUFFile(tmp_path / "a\0b")
    said = refusal(tmp_path / ("x" * 5000))
    assert said.endswith("cannot be read, File name too long; allowed: a readable GGUF file")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipe_does_not_wait(tmp_path: Path) -> None:
    """A named pipe without a writer is refused without waiting for one."""
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="makes a sparse file")
@pytest.mark.parametrize(
    "last",
    [
        pair("k", ARRAY, u32(UINT8) + u64(3 << 30)),
        pair("k", ARRAY, u32(STRING) + u64(1 << 28)),
        pair("k", STRING, u64(3 << 30)),
    ],
    ids=["numbers", "strings", "string"],
)
def test_metadata_as_large_as_a_model(tmp_path: Path, last: bytes) -> None:
    """Metadata of gigabytes that are really in the file are refused without being read."""
    path = write(tmp_path, model([last], alignment=1))
    os.truncate(path, 4 << 30)
    with traced_peak() as peak:
        message = refusal(path)
    assert str(128 << 20) in message or "at most" in message
    assert peak.num_bytes < 1_000_000


def test_every_refusal_is_an_edgellama_error() -> None:
    """One except clause of the package catches what the reader raises."""
    assert issubclass(ModelFileError, EdgellamaError) and issubclass(ModelFileError, ValueError)
    assert issubclass(ModelNotFoundError, EdgellamaError)
