"""Files of torch.save: the tensors of real ones, and refusals of whatever else they may hold."""

import io
import os
import pickle
import re
import struct
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.traced_memory import traced_peak
from places import DATA
from raw_files.torch_bytes import (
    archive,
    call,
    dictionary,
    group,
    legacy,
    name,
    number,
    saved,
    storage,
    tensor,
    text,
    whole,
)

from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.convert.sources.torch_reader import read_torch
from edgellama.quant.errors import (
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)

FLOATS = np.arange(24, dtype=np.float32).reshape(6, 4)
KIND = "FloatStorage"


def bytes_of(tensor: SourceTensor) -> bytes:
    """All rows of a tensor."""
    return tensor.rows(0, tensor.num_rows).tobytes()


def counting(*shape: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """0, 1, 2 ... in this shape."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def as_bfloat(array: "np.ndarray[Any, np.dtype[np.float32]]") -> bytes:
    """Small whole numbers as bfloat16, which drops the lower half of a float32."""
    return (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def refusal(folder: Path, content: bytes) -> str:
    """The message with which a file of this content is refused."""
    path = folder / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "allowed: " in message
    assert message.isascii() and message.isprintable() and len(message) < 1000
    return message


@pytest.mark.parametrize("file", ["torch_zip.bin", "torch_legacy.bin"])
def test_files_of_the_real_torch(file: str) -> None:
    """Both containers of torch.save give every tensor, views of shared storages too."""
    tensors = read_torch(DATA / file)
    assert list(tensors)[:3] == ["single", "rows", "half"]
    assert bytes_of(tensors["single"]) == counting(6, 4).tobytes()
    assert bytes_of(tensors["rows"]) == counting(6, 4)[2:4].tobytes()
    assert bytes_of(tensors["half"]) == counting(3, 5).astype(np.float16).tobytes()
    assert bytes_of(tensors["bfloat"]) == as_bfloat(counting(3, 5))
    assert bytes_of(tensors["attribute"]) == counting(2, 2).tobytes()
    assert bytes_of(tensors["scalar"]) == np.float32(2).tobytes()
    assert tensors["empty"].shape == (0, 4) and bytes_of(tensors["empty"]) == b""
    formats = [tensors[key].format.name for key in ("single", "half", "bfloat")]
    assert formats == ["F32", "F16", "BF16"]


def test_a_nested_state_dict_of_the_real_torch() -> None:
    """A module's state_dict under "model" is found, with its private attributes left out."""
    tensors = read_torch(DATA / "torch_nested.pth")
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        "weight": (2, 3),
        "bias": (2,),
    }
    assert bytes_of(tensors["weight"]) == counting(2, 3).tobytes()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("transposed", r"strides \(1, 4\); allowed: rows one after the other"),
        ("integer", r"dtype int64; allowed: float32, float16, bfloat16"),
        ("float8", r"dtype float8_e4m3fn"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_refused_when_it_is_used(key: str, expected: str) -> None:
    """Such a tensor has a name and a shape; format, size and rows are refused by name."""
    tensor = read_torch(DATA / "torch_zip.bin")[key].renamed("other")
    assert tensor.name == "other" and len(tensor.shape) in (1, 2)
    for use in (
        lambda: tensor.format,
        lambda: tensor.row_bytes,
        lambda: tensor.num_bytes,
        lambda: tensor.rows(0, 1),
    ):
        with pytest.raises(UnsupportedModelError, match=f"'{key}'.*{expected}"):
            use()


def test_double_precision_is_given_as_single() -> None:
    """The nearest float32 of each number."""
    tensor = read_torch(DATA / "torch_zip.bin")["double"]
    assert tensor.format.name == "F32" and tensor.num_bytes == 12
    assert bytes_of(tensor) == counting(3).tobytes()


@pytest.mark.parametrize("wrapper", [("state_dict",), ("model",), ("module", "model_state_dict")])
def test_wrapped_state_dicts(tmp_path: Path, wrapper: tuple[str, ...]) -> None:
    """The dictionaries that training programs put around a state_dict are seen through."""
    inner = dictionary({"w": tensor(storage(KIND, "0", 24), (6, 4))})
    for key in wrapper:
        inner = dictionary({"epoch": number(3), key: inner})
    (tmp_path / "w.bin").write_bytes(archive(whole(inner), {"0": FLOATS.tobytes()}))
    assert bytes_of(read_torch(tmp_path / "w.bin")["w"]) == FLOATS.tobytes()


def test_nothing_but_the_directory_is_read(tmp_path: Path) -> None:
    """Opening allocates next to nothing, and only the rows that are asked for are read."""
    large = np.zeros((4096, 1024), np.float32)
    (tmp_path / "w.bin").write_bytes(saved({"w": large}))
    with traced_peak() as peak:
        rows = read_torch(tmp_path / "w.bin")["w"].rows(3900, 4000)
    assert rows.shape == (100, 4096) and not rows.flags.writeable
    assert peak.num_bytes < 1_000_000


class Exploit:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def exploits(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that make ``marker`` when Python loads them, and the name each is refused by."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    shell = text(command)
    made = {
        "os.system": (Exploit(os.system, command), r"(posix|nt)\.system"),
        "eval": (Exploit(eval, code), r"(builtins|__builtin__)\.eval"),
        "exec": (Exploit(exec, code), r"(builtins|__builtin__)\.exec"),
        "subprocess": (
            Exploit(subprocess.check_output, command.split()),
            r"(subprocess|commands)\.check_out",
        ),
        "inside a state_dict": (OrderedDict(w=Exploit(os.system, command)), r"(posix|nt)\.system"),
    }
    pickles = {
        f"{key}, protocol {protocol}": (pickle.dumps(value, protocol), expected)
        for key, (value, expected) in made.items()
        for protocol in (2, 4)
    }
    pickles["getattr chain"] = (
        whole(call(call(name("builtins", "getattr"), name("os", "path"), shell), shell)),
        r"builtins\.getattr",
    )
    pickles["INST"] = (b"\x80\x02(" + shell + b"ios\nsystem\n.", r"os\.system")
    pickles["OBJ"] = (b"\x80\x02(" + name("os", "system") + shell + b"o.", r"os\.system")
    pickles["NEWOBJ"] = (whole(name("os", "system") + group(shell) + b"\x81"), r"os\.system")
    pickles["STACK_GLOBAL"] = (
        b"\x80\x04" + b"\x8c\x02os" + b"\x8c\x06system" + b"\x93" + group(shell) + b"R.",
        r"os\.system",
    )
    pickles["dotted STACK_GLOBAL"] = (
        b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93" + group(shell) + b"R.",
        r"torch\._utils\.os\.system",
    )
    pickles["allowed module, other name"] = (
        whole(call(name("torch._utils", "_import_dotted_name"), shell)),
        r"torch\._utils\._import_dotted_name",
    )
    pickles["name with an escape"] = (whole(name("os\x1b[2J", "system")), r"'os\\x1b\[2J\.system'")
    pickles["extension code"] = (whole(b"\x82\x01"), r"opcode EXT1")
    pickles["state of a class"] = (
        whole(name("collections", "OrderedDict") + dictionary({}) + b"b"),
        r"damaged",
    )
    pickles["call of a storage type"] = (
        whole(call(name("torch", "FloatStorage"), number(1 << 62))),
        r"calls torch\.FloatStorage",
    )
    pickles["call of a number"] = (whole(call(number(1), number(1))), r"damaged")
    pickles["copies"] = (
        whole(call(name("collections", "OrderedDict"), dictionary({}))),
        r"OrderedDict is made with arguments",
    )
    return pickles


EXPLOITS = exploits(Path("marker"))


@pytest.mark.parametrize("key", EXPLOITS)
def test_exploits_are_refused_by_name(tmp_path: Path, key: str) -> None:
    """What a pickle names is refused before it runs, in a zip archive and without one."""
    marker = tmp_path / "marker"
    content, expected = exploits(marker)[key]
    for form in (archive(content), content, legacy(content, {})):
        assert re.search(expected, refusal(tmp_path, form))
        assert not marker.exists()


def test_the_exploits_work(tmp_path: Path) -> None:
    """The pickles that are refused do what they are feared for, so the test can fail."""
    marker = tmp_path / "marker"
    content, _ = exploits(marker)["eval, protocol 2"]
    pickle.loads(content)
    assert marker.exists()


def test_an_exploit_of_the_first_protocol(tmp_path: Path) -> None:
    """A pickle in the text protocol is refused by name too."""
    content = pickle.dumps(Exploit(os.system, "touch marker"), protocol=0)
    assert re.search(r"(posix|nt)\.system", refusal(tmp_path, content))


def of(opcodes: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive of one tensor "w" that ``opcodes`` push."""
    return archive(whole(dictionary({"w": opcodes})), {"0": bytes(96), **(storages or {})})


def with_bytes(content: bytes, place: int, new: bytes) -> bytes:
    """``content`` with ``new`` written over it at ``place``, from the end if negative."""
    place %= len(content)
    return content[:place] + new + content[place + len(new) :]


SIX_BY_FOUR = tensor(storage(KIND, "0", 24), (6, 4))
GOOD = of(SIX_BY_FOUR)
END = GOOD.rindex(b"PK\5\6")
ENTRY = GOOD.rindex(b"PK\1\2")
ZIP64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 46, 1 << 63)
LEGACY = legacy(whole(dictionary({"w": SIX_BY_FOUR})), {"0": (24, bytes(96))})

# name: (content, what the message must hold)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "text": (b"hello world", r"starts with b'hell'; allowed: files of torch.save"),
    "lfs pointer": (b"version https://git-lfs", r"Git LFS pointer"),
    "gguf": (b"GGUF" + bytes(99), r"is a GGUF file"),
    "tar": (bytes(257) + b"ustar" + bytes(255), r"tar archive of an old torch"),
    "plain pickle": (pickle.dumps({"a": 1}, 2), r"is a pickle, but none of torch.save"),
    "zip, cut off": (GOOD[: END - 1], r"has no directory.*cut off"),
    "zip, nothing but a head": (b"PK\3\4", r"has no directory"),
    "zip, no pickle": (archive(b"").replace(b"data.pkl", b"data.xxx"), r"0 times data.pkl"),
    "zip, two pickles": (
        GOOD.replace(b"archive/byteorder", b"archive_/data.pkl"),
        r"2 times data.pkl",
    ),
    "zip, member twice": (
        of(SIX_BY_FOUR, {"1": b"x"}).replace(b"archive/data/1", b"archive/data/0"),
        r"zip member 'archive/data/0' is there twice",
    ),
    "zip, compressed": (
        archive(whole(b"}"), compression=zipfile.ZIP_DEFLATED),
        r"data.pkl' is compressed; allowed: members that are stored",
    ),
    "zip, encrypted": (with_bytes(GOOD, ENTRY + 8, b"\1"), r"is compressed"),
    "zip, lying size": (
        with_bytes(GOOD, ENTRY + 20, struct.pack("<2I", 1 << 31, 1 << 31)),
        r"has 2147483648 bytes at \d+; allowed: the file ends by",
    ),
    "zip, two sizes": (with_bytes(GOOD, ENTRY + 24, struct.pack("<I", 97)), r"is compressed"),
    "zip, place past the end": (
        with_bytes(GOOD, ENTRY + 42, struct.pack("<I", 1 << 30)),
        r"is not at byte 1073741824",
    ),
    "zip, place of no member": (
        with_bytes(GOOD, ENTRY + 42, struct.pack("<I", 1)),
        r"is not at byte 1;",
    ),
    "zip, count": (with_bytes(GOOD, END + 10, struct.pack("<H", 9)), r"member 3 of 9 is no entry"),
    "zip, directory past the end": (
        with_bytes(GOOD, END + 16, struct.pack("<I", 1 << 31)),
        r"zip directory has 3 members and \d+ bytes at 2147483648",
    ),
    "zip, directory size": (
        with_bytes(GOOD, END + 12, struct.pack("<I", 0xFFFFFFFE)),
        r"and 4294967294 bytes",
    ),
    "zip64, hostile": (
        GOOD[:END] + ZIP64 + struct.pack("<4sIQI", b"PK\6\7", 0, END, 1) + GOOD[END:],
        r"at 9223372036854775808",
    ),
    "zip64, pointing nowhere": (
        GOOD[:END] + struct.pack("<4sIQI", b"PK\6\7", 0, 1 << 60, 1) + GOOD[END:],
        r"zip64 directory's end at 1152921504606846976",
    ),
    "big-endian": (archive(whole(b"}"), byte_order=b"big"), r"byte order is b'big'"),
    "huge byte order": (archive(whole(b"}"), byte_order=bytes(99999)), r"byte order is b'\\x00"),
    "empty pickle": (archive(b""), r"pickle runs past the end"),
    "pickle cut off": (archive(whole(dictionary({"w": SIX_BY_FOUR}))[:-9]), r"damaged before byte"),
    "pickle too large": (archive(b"\x80\x02" + b"N" * (9 << 20)), r"data.pkl has 9437186 bytes"),
    "pickle without end": (archive(b"\x80\x02" + b"N" * (4 << 20)), r"does not end.*operations"),
    "pickle, empty stack": (archive(whole(b"")), r"damaged"),
    "pickle, no mark": (archive(whole(b"t")), r"damaged"),
    "pickle, memo": (archive(whole(b"h\x07")), r"damaged"),
    "pickle, long text": (archive(whole(b"X\xff\xff\xff\xff")), r"past the end, 4294967295 bytes"),
    "pickle, long name": (archive(whole(b"c" + b"a" * 999)), r"damaged"),
    "pickle, LONG4": (archive(whole(b"\x8b\xff\xff\xff\x7f")), r"opcode LONG4"),
    "pickle, BINBYTES8": (archive(whole(b"\x8e" + b"\xff" * 8)), r"opcode BINBYTES8"),
    "pickle, unknown": (archive(whole(b"\xff")), r"opcode b'\\xff'"),
    "pickle, deep": (archive(b"\x80\x02" + b"(" * 10**5 + b"t" * 10**5 + b"."), r"no tensors"),
    "pickle, deep key": (
        archive(whole(b"})" + b"\x85" * 10**5 + b"Ns")),
        r"has a key of type tuple; allowed: text, and numbers below",
    ),
    "pickle, large key": (archive(whole(b"}" + number(1 << 70) + b"Ns")), r"key 118059162071741"),
    "pickle, odd items": (archive(whole(b"}(" + number(1) + b"u")), r"damaged"),
    "no tensors": (archive(whole(dictionary({"a": number(1)}))), r"holds no tensors by name"),
    "a tensor without a name": (archive(whole(SIX_BY_FOUR), {"0": bytes(96)}), r"no tensors by"),
    "wrapped too often": (
        archive(whole(dictionary({"model": dictionary({"model": dictionary({"model": b"}"})})}))),
        r"no tensors by name",
    ),
    "tensor with a number for a name": (
        archive(whole(b"}" + number(7) + SIX_BY_FOUR + b"s"), {"0": bytes(96)}),
        r"tensor 7 is no name",
    ),
    "tensor name with an escape": (
        archive(whole(dictionary({"\x1b[2J": SIX_BY_FOUR})), {"0": bytes(96)}),
        r"tensor '\\x1b\[2J' is no name",
    ),
    "storage missing": (of(tensor(storage(KIND, "7", 24), (6, 4))), r"'7' is missing; .* 96 bytes"),
    "storage outside": (
        of(tensor(storage(KIND, "../data.pkl", 24), (6, 4))),
        r"storage '../data.pkl' is missing",
    ),
    "storage too small": (of(tensor(storage(KIND, "0", 25), (6, 4))), r"'0' is 96 bytes; .*100"),
    "storage too large": (of(tensor(storage(KIND, "0", 23), (5, 4))), r"'0' is 96 bytes; .*92"),
    "storage huge": (of(tensor(storage(KIND, "0", 1 << 62), (6, 4))), r"18446744073709551616"),
    "storage of size -1": (of(tensor(storage(KIND, "0", -1), (6, 4))), r"size of a storage is -1"),
    "storage of no type": (
        of(tensor(group(*[text("storage")] * 4, number(1)) + b"Q", (1,))),
        r"has no type",
    ),
    "storage of another kind": (of(group(text("module")) + b"Q"), r"refers to something outside"),
    "storage with a number": (
        of(group(text("storage"), name("torch", KIND), *[number(0)] * 3) + b"Q"),
        r"key of a storage is 0",
    ),
    "view of a storage": (
        of(tensor(storage(KIND, "0", 24, group(text("a"))), (6, 4))),
        r"is a view of another",
    ),
    "tensor past its storage": (
        of(tensor(storage(KIND, "0", 24), (6, 4), offset=1)),
        r"shape \(6, 4\) at element 1; allowed: its storage has 24 elements",
    ),
    "tensor far larger": (
        of(tensor(storage(KIND, "0", 24), (1 << 40, 1 << 40))),
        r"\(1099511627776, 1099511627776\)",
    ),
    "tensor of size -1": (of(tensor(storage(KIND, "0", 24), (-1, 4))), r"size of a tensor is -1"),
    "tensor of huge size": (
        of(tensor(storage(KIND, "0", 24), (1 << 64,))),
        r"tensor is 18446",
    ),
    "tensor of many axes": (
        of(tensor(storage(KIND, "0", 24), (1,) * 9)),
        r"size of a tensor is of type tuple; allowed: up to 8",
    ),
    "tensor of size text": (
        of(call(name("torch._utils", "_rebuild_tensor"), storage(KIND, "0", 1), *[text("a")] * 3)),
        r"size of a tensor is 'a'",
    ),
    "tensor without strides": (
        of(tensor(storage(KIND, "0", 24), (6, 4), strides=())),
        r"size \(6, 4\) and stride \(\)",
    ),
    "tensor of nothing": (of(call(name("torch._utils", "_rebuild_tensor_v2"))), r"no storage"),
    "parameter of nothing": (
        of(call(name("torch._utils", "_rebuild_parameter"), number(1))),
        r"made of no tensor",
    ),
    "type of nothing": (
        of(call(name("torch._utils", "_rebuild_tensor_v3"), storage(KIND, "0", 24))),
        r"has no type",
    ),
    "legacy, version": (legacy(whole(b"}"), {}, version=1000), r"torch format is 1000"),
    "legacy, big-endian": (legacy(whole(b"}"), {}, is_little=False), r"little-endian machine"),
    "legacy, other storages": (
        legacy(whole(dictionary({"w": SIX_BY_FOUR})), {"1": (24, bytes(96))}),
        r"list of storages is not that of the tensors",
    ),
    "legacy, storage count": (
        legacy(whole(dictionary({"w": SIX_BY_FOUR})), {"0": (23, bytes(96))}),
        r"has 23 elements at byte \d+; allowed: 24 elements",
    ),
    "legacy, cut off": (LEGACY[:-1], r"24 elements at byte"),
    "legacy, two sizes": (
        legacy(
            whole(dictionary({"a": SIX_BY_FOUR, "w": tensor(storage(KIND, "0", 23), (5, 4))})),
            {"0": (24, bytes(96))},
        ),
        r"storage '0' has two sizes",
    ),
}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_file_is_refused_by_name(tmp_path: Path, key: str) -> None:
    """The error names the file, the offending value and what is allowed, in little memory."""
    content, expected = HOSTILE[key]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with traced_peak() as peak:
        message = refusal(tmp_path, content)
    assert re.search(expected, message), message
    assert peak.num_bytes < 1_000_000 + 80 * len(content)


@pytest.mark.parametrize("content", [GOOD, LEGACY], ids=["zip", "legacy"])
def test_truncated_anywhere(tmp_path: Path, content: bytes) -> None:
    """A file cut at any byte is refused."""
    for size in range(len(content)):
        refusal(tmp_path, content[:size])


def test_zip_of_python_and_of_wide_numbers(tmp_path: Path) -> None:
    """An archive with zip64 numbers, as torch writes for large files, is read like any other."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for member, raw in (
            ("a/data.pkl", whole(dictionary({"w": SIX_BY_FOUR}))),
            ("a/data/0", FLOATS.tobytes()),
        ):
            with file.open(member, "w", force_zip64=True) as stream:
                stream.write(raw)
    (tmp_path / "w.bin").write_bytes(content.getvalue())
    assert bytes_of(read_torch(tmp_path / "w.bin")["w"]) == FLOATS.tobytes()


def test_absent_file_and_folder(tmp_path: Path) -> None:
    """A path without a file, and one of a folder, are told apart."""
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_torch(tmp_path / "no.bin")
    with pytest.raises(ModelFileError, match="is a directory; allowed: a torch file"):
        read_torch(tmp_path)
