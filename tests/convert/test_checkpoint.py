"""Which source a path is: kinds, single files, folders that hold no model, GGUF files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from raw_files import safetensors_bytes, torch_bytes
from raw_files.gguf_bytes import F32, Q4_0, STRING, UINT16, entry, model, pair, string

from edgellama.convert.sources.opening import open_checkpoint
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import (
    EdgellamaError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)

FLOATS = np.arange(32, dtype=np.float32).reshape(4, 8)
SAFETENSORS = safetensors_bytes.saved({"w": FLOATS})
TORCH = torch_bytes.saved({"w": FLOATS})


def fill(folder: Path, **files: bytes | str) -> Path:
    """Write files into ``folder``; in their names "__" stands for a dot."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        raw = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(raw)
    return folder


def values(tensor: SourceTensor) -> list[list[float]]:
    """The rows of an F32 tensor."""
    rows: list[list[float]] = tensor.rows(0, tensor.num_rows).view(np.float32).tolist()
    return rows


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config__json": "{}", "model__safetensors": SAFETENSORS}, "hugging_face"),
        ({"config__json": "{}", "pytorch_model__bin": TORCH}, "hugging_face"),
        ({"params__json": '{"dim": 8}', "consolidated__00__pth": TORCH}, "meta"),
        ({"params__json": '{"dim": 8}', "consolidated__safetensors": SAFETENSORS}, "meta"),
    ],
)
def test_folders(tmp_path: Path, files: dict[str, bytes | str], kind: str) -> None:
    """A folder is what its files say, and its parameters and tensors are read."""
    folder = fill(tmp_path / "model", **files)
    with open_checkpoint(folder) as checkpoint:
        assert (checkpoint.kind, checkpoint.path, checkpoint.folder) == (kind, folder, folder)
        assert [file.name for file in checkpoint.files] == [list(files)[1].replace("__", ".")]
        assert checkpoint.parameters == json.loads(files[next(iter(files))])
        assert values(checkpoint.tensors["w"]) == FLOATS.tolist()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model__safetensors", SAFETENSORS),
        ("pytorch_model__bin", TORCH),
        ("finetuned__safetensors", SAFETENSORS),
        ("finetuned__pth", TORCH),
        ("finetuned__pt", TORCH),
    ],
)
def test_a_weight_file_stands_for_its_folder(tmp_path: Path, file: str, content: bytes) -> None:
    """A file of weights is opened with the config.json beside it, whatever its name."""
    folder = fill(tmp_path, config__json='{"a": 1}', **{file: content})
    path = folder / file.replace("__", ".")
    with open_checkpoint(str(path)) as checkpoint:
        assert (checkpoint.kind, checkpoint.path, checkpoint.files) == (
            "hugging_face",
            path,
            (path,),
        )
        assert checkpoint.folder == folder and checkpoint.parameters == {"a": 1}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_a_json_file_stands_for_its_folder(tmp_path: Path, file: str) -> None:
    """The configuration's or the index's path opens the model that it is part of."""
    index = json.dumps({"weight_map": {"w": "weights.safetensors"}})
    fill(tmp_path, config__json="{}", weights__safetensors=SAFETENSORS)
    fill(tmp_path, model__safetensors__index__json=index)
    with open_checkpoint(tmp_path / file) as checkpoint:
        assert values(checkpoint.tensors["w"]) == FLOATS.tolist()


def test_gguf_under_another_name(tmp_path: Path) -> None:
    """A GGUF file is one whatever its name ends in."""
    fill(tmp_path, ggml_model__bin=model([], [entry("a", (8, 4))], FLOATS.tobytes()))
    with open_checkpoint(tmp_path / "ggml_model.bin") as checkpoint:
        assert checkpoint.kind == "gguf"


def test_one_shard_stands_for_all(tmp_path: Path) -> None:
    """A shard's path opens the whole model, Hugging Face's or Meta's."""
    other = safetensors_bytes.saved({"v": FLOATS})
    shards = {"model-00001-of-00002__safetensors": SAFETENSORS}
    shards["model-00002-of-00002__safetensors"] = other
    folder = fill(tmp_path, config__json="{}", params__json='{"dim": 8}', **shards)
    fill(tmp_path, consolidated__00__pth=TORCH, consolidated__01__pth=TORCH)
    with open_checkpoint(folder / "model-00002-of-00002.safetensors") as checkpoint:
        assert checkpoint.kind == "hugging_face" and set(checkpoint.tensors) == {"v", "w"}
    with open_checkpoint(folder / "consolidated.01.pth") as checkpoint:
        assert checkpoint.kind == "meta" and len(checkpoint.files) == 2
        assert checkpoint.tensors["w"].shape == (8, 8)


def test_hugging_face_comes_before_meta(tmp_path: Path) -> None:
    """A folder that holds both is Hugging Face's; without its weights it is Meta's."""
    fill(tmp_path, config__json="{}", params__json='{"dim": 8}', consolidated__00__pth=TORCH)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.kind == "meta"
    fill(tmp_path, model__safetensors=SAFETENSORS)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.kind == "hugging_face"


def test_safetensors_come_before_torch(tmp_path: Path) -> None:
    """With both in a folder the pickle is left alone."""
    fill(tmp_path, config__json="{}", model__safetensors=SAFETENSORS, pytorch_model__bin=b"junk")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["model.safetensors"]


LOOKED_FOR = "looked for config.json with model*.safetensors or pytorch_model*.bin"


@pytest.mark.parametrize(
    ("files", "error", "expected"),
    [
        ({}, ModelNotFoundError, f"holds no whole model, none of its files; {LOOKED_FOR}"),
        (
            {"config__json": "{}"},
            ModelNotFoundError,
            "model, only config.json; looked",
        ),
        (
            {"model__safetensors": SAFETENSORS},
            ModelNotFoundError,
            "only *.safetensors; looked",
        ),
        (
            {"params__json": "{}"},
            ModelNotFoundError,
            "model, only params.json; looked",
        ),
        (
            {"consolidated__00__pth": TORCH},
            ModelNotFoundError,
            "only *.pth; looked",
        ),
        ({"b__gguf": b"", "a__gguf": b""}, ModelNotFoundError, "name the file in it: 'a.gguf'"),
        (
            {"config__json": "{}", "gptq-4bit__safetensors": SAFETENSORS},
            ModelNotFoundError,
            "is a folder; name the file in it: 'gptq-4bit.safetensors'",
        ),
        (
            {"adapter_config__json": "{}", "adapter_model__safetensors": SAFETENSORS},
            UnsupportedModelError,
            "holds a LoRA adapter, adapter_config.json, not a model; convert it with "
            "edgellama.convert.adapter.lora.convert_lora(",
        ),
    ],
)
def test_folders_without_a_model(
    tmp_path: Path, files: dict[str, bytes | str], error: type[Exception], expected: str
) -> None:
    """A folder that is no model says what is there and what was looked for."""
    with pytest.raises(error) as caught:
        open_checkpoint(fill(tmp_path / "folder", **files))
    assert str(caught.value).startswith(f"{tmp_path / 'folder'}: ")
    assert expected in str(caught.value)


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    """A link into a cache that was emptied says where it leads, a folder that it is one."""
    folder = fill(tmp_path / "folder", config__json="{}")
    weights = folder / "model.safetensors"
    weights.mkdir()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: is a directory; allowed"):
        open_checkpoint(folder)
    weights.rmdir()
    try:
        weights.symlink_to(Path("..") / "blobs" / "abc")
    except OSError:
        pytest.skip("links are not allowed here")
    with pytest.raises(ModelNotFoundError, match=r"is a link to '.*abc', which is not there"):
        open_checkpoint(folder)


def test_files_without_a_model(tmp_path: Path) -> None:
    """A weight file without parameters, an absent path and a file of no kind are refused."""
    fill(tmp_path, model__safetensors=SAFETENSORS, notes__txt="hello")
    with pytest.raises(ModelNotFoundError, match=r"neither config\.json nor params\.json lies"):
        open_checkpoint(tmp_path / "model.safetensors")
    for name in ("absent", "absent.bin", "absent.gguf"):
        with pytest.raises(ModelNotFoundError, match=f"{name}: no such file"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(ModelFileError, match=r"notes\.txt: not a GGUF file; it starts with 'hell'"):
        open_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(EdgellamaError):
        open_checkpoint("a\0b.bin")


@pytest.mark.parametrize("inner", ["original", "snapshots/abc"])
def test_a_model_in_a_folder_of_its_own(inner: str, tmp_path: Path) -> None:
    """Whoever names a download's outer folder learns where in it the model is."""
    (tmp_path / "1_Pooling").mkdir()
    fill(tmp_path / "1_Pooling", config__json="{}")
    with pytest.raises(ModelNotFoundError, match="holds no whole model"):
        open_checkpoint(tmp_path)
    (tmp_path / inner).mkdir(parents=True)
    fill(tmp_path / inner, config__json="{}", model__safetensors=SAFETENSORS)
    with pytest.raises(ModelNotFoundError, match=f"a folder of its own: {tmp_path / inner}"):
        open_checkpoint(tmp_path)


def test_what_trainers_save_is_no_model(tmp_path: Path) -> None:
    """Nobody is sent to the file of an optimizer, whose names end as those of weights."""
    fill(tmp_path, config__json="{}", training_args__bin="PK", optimizer__pt="PK")
    with pytest.raises(ModelNotFoundError, match="holds no whole model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "params.json"])
def test_parameters_that_are_no_file(name: str, tmp_path: Path) -> None:
    """A folder by that name is told, and not taken for parameters that are missing."""
    fill(tmp_path, model__safetensors=SAFETENSORS)
    (tmp_path / name).mkdir()
    with pytest.raises(ModelFileError, match=rf"{name}: is a directory; allowed: a JSON file"):
        open_checkpoint(tmp_path)


def test_shards_beside_a_whole_file(tmp_path: Path) -> None:
    """The whole file counts, and a note says so."""
    shard = {"model-00001-of-00001__safetensors": SAFETENSORS}
    fill(tmp_path, config__json="{}", model__safetensors=SAFETENSORS, **shard)
    (note,) = open_checkpoint(tmp_path).notes
    assert note == "model.safetensors counts, and the 1 shards beside it do not"


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without permission is refused by our own error."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelFileError, match=r"cannot be read, .*Permission denied"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"is empty, 0 bytes; allowed: a JSON file"),
        (b"{", r"the file is not JSON, Expecting property name"),
        (b"[1]", r"holds JSON of type list; allowed: a JSON object"),
        (b"null", r"holds JSON None"),
        (b'{"a": "\xff"}', r"not UTF-8 at byte 7"),
        ("{}".encode("utf-16"), r"not UTF-8 at byte 0"),
        (b'{"a":' * 10**5, r"nests JSON too deep"),
        (b" " * (17 << 20), r"JSON file of 17825792 bytes; allowed: 16777216"),
        (b"[" + b"0," * 2_000_001 + b"0]", r"some 2000002 JSON values; allowed: 2000000"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"has a number of thousands of digits"),
    ],
    ids=["empty", "cut", "list", "null", "latin", "utf-16", "deep", "large", "many", "digits"],
)
def test_parameters_that_are_no_json_object(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever is wrong with config.json is one line that names it."""
    fill(tmp_path, config__json=content, model__safetensors=SAFETENSORS)
    with pytest.raises(ModelFileError, match=rf"config\.json: .*{expected}") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """An editor's byte order mark does not make config.json unreadable."""
    fill(tmp_path, config__json=b'\xef\xbb\xbf{"a": 1}', model__safetensors=SAFETENSORS)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.parameters == {"a": 1}


def test_a_closed_checkpoint(tmp_path: Path) -> None:
    """After close() tensors cannot be looked up, and arrays that were taken stay valid."""
    fill(tmp_path, config__json="{}", model__safetensors=SAFETENSORS)
    checkpoint = open_checkpoint(tmp_path)
    rows = checkpoint.tensors["w"].rows(0, 4)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ModelFileError, match="the checkpoint is closed"):
        assert checkpoint.tensors
    assert rows.view(np.float32).tolist() == FLOATS.tolist()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_closing_ends_the_mapping(tmp_path: Path) -> None:
    """Nothing of a closed checkpoint stays mapped, whichever reader opened it."""
    fill(tmp_path, config__json="{}", model__safetensors=SAFETENSORS)
    fill(tmp_path / "torch", config__json="{}", pytorch_model__bin=TORCH)
    for folder in (tmp_path, tmp_path / "torch"):
        with open_checkpoint(folder) as checkpoint:
            (file,) = checkpoint.files
            assert str(file) in Path("/proc/self/maps").read_text()
        assert str(file) not in Path("/proc/self/maps").read_text()


def test_gguf(tmp_path: Path) -> None:
    """A GGUF file gives its metadata and its tensors in the formats that they have."""
    pairs = [pair("general.architecture", STRING, string("llama"))]
    entries = [entry("a", (8, 4), F32, 0), entry("b", (64, 2), Q4_0, 128), entry("c", (8,), 16, 0)]
    path = tmp_path / "m.gguf"
    path.write_bytes(model(pairs, entries[:2], FLOATS.tobytes() + bytes(range(72))))
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.kind, checkpoint.files, checkpoint.folder) == ("gguf", (path,), tmp_path)
        assert checkpoint.parameters == {"general.architecture": "llama"}
        assert values(checkpoint.tensors["a"]) == FLOATS.tolist()
        quantized = checkpoint.tensors["b"]
        assert quantized.format.name == "Q4_0" and quantized.shape == (2, 64)
        assert quantized.rows(1, 2).tolist() == [list(range(36, 72))]


def test_gguf_in_formats_that_no_kernel_reads(tmp_path: Path) -> None:
    """A tensor in a rare format appears under its format's name, for others to expand."""
    content = model([], [entry("x", (256, 1), 19, 0)], bytes(50))
    (tmp_path / "m.gguf").write_bytes(content)
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        assert checkpoint.tensors["x"].format.name == "IQ1_S"


def test_split_gguf(tmp_path: Path) -> None:
    """Any part of a split GGUF file opens all of them."""
    paths = [tmp_path / f"m-{number:05d}-of-00002.gguf" for number in (1, 2)]
    for number, path in enumerate(paths):
        pairs = [
            pair("split.no", UINT16, bytes([number, 0])),
            pair("split.count", UINT16, b"\2\0"),
            pair("split.tensors.count", UINT16, b"\2\0"),
        ]
        path.write_bytes(model(pairs, [entry(f"t{number}", (8, 4))], FLOATS.tobytes()))
    with open_checkpoint(paths[1]) as checkpoint:
        assert checkpoint.files == tuple(paths) and set(checkpoint.tensors) == {"t0", "t1"}
