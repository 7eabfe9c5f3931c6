"""Meta's folders: shards of model parallelism merged by name and shape, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import safetensors_bytes, torch_bytes
from test_checkpoint_hugging_face import refusal

from edgellama.convert.sources.opening import open_checkpoint
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import (
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
WIDTH, HEADS, KEY_HEADS, HEAD_SIZE, HIDDEN, VOCABULARY = 16, 8, 4, 4, 24, 32
LAYER = "layers.0."
# Along which axis each matrix is cut.
AXES = {
    "output.weight": 0,
    f"{LAYER}attention.wq.weight": 0,
    f"{LAYER}attention.wk.weight": 0,
    f"{LAYER}attention.wv.weight": 0,
    f"{LAYER}attention.wo.weight": 1,
    f"{LAYER}feed_forward.w1.weight": 0,
    f"{LAYER}feed_forward.w2.weight": 1,
    f"{LAYER}feed_forward.w3.weight": 0,
}
PARAMETERS = {"dim": WIDTH, "n_layers": 1, "n_heads": HEADS, "n_kv_heads": KEY_HEADS}
PARAMETERS |= {"head_dim": HEAD_SIZE, "vocab_size": -1}


def whole_model() -> dict[str, Array]:
    """Every tensor of a model of one layer, filled with numbers of its own."""
    shapes = {
        "tok_embeddings.weight": (VOCABULARY, WIDTH),
        "norm.weight": (WIDTH,),
        "rope.freqs": (HEAD_SIZE // 2,),
        "output.weight": (VOCABULARY, WIDTH),
        f"{LAYER}attention.wq.weight": (HEADS * HEAD_SIZE, WIDTH),
        f"{LAYER}attention.wk.weight": (KEY_HEADS * HEAD_SIZE, WIDTH),
        f"{LAYER}attention.wv.weight": (KEY_HEADS * HEAD_SIZE, WIDTH),
        f"{LAYER}attention.wo.weight": (WIDTH, HEADS * HEAD_SIZE),
        f"{LAYER}feed_forward.w1.weight": (HIDDEN, WIDTH),
        f"{LAYER}feed_forward.w2.weight": (WIDTH, HIDDEN),
        f"{LAYER}feed_forward.w3.weight": (HIDDEN, WIDTH),
        f"{LAYER}attention_norm.weight": (WIDTH,),
        f"{LAYER}ffn_norm.weight": (WIDTH,),
    }
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def shards_of(
    model: Mapping[str, Array], count: int, embedding_axis: int
) -> list[dict[str, Array]]:
    """What each process of model parallelism saves."""
    axes = {**AXES, "tok_embeddings.weight": embedding_axis}
    return [
        {
            name: np.ascontiguousarray(np.split(array, count, axes[name])[number])
            if name in axes
            else array
            for name, array in model.items()
        }
        for number in range(count)
    ]


def write(folder: Path, shards: list[dict[str, Array]], parameters: object = None) -> Path:
    """Write params.json and the shards; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(parameters or PARAMETERS))
    for number, shard in enumerate(shards):
        (folder / f"consolidated.{number:02d}.pth").write_bytes(torch_bytes.saved(shard))
    return folder


def values(tensor: SourceTensor) -> Array:
    """An F32 tensor as an array of its shape."""
    return tensor.rows(0, tensor.num_rows).view(np.float32).reshape(tensor.shape)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("embedding_axis", [0, 1], ids=["llama 3", "llama 1 and 2"])
def test_shards_are_merged(tmp_path: Path, count: int, embedding_axis: int) -> None:
    """Every tensor of a split model is what it was before the split."""
    model = whole_model()
    write(tmp_path, shards_of(model, count, embedding_axis))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.kind == "meta" and len(checkpoint.files) == count
        assert checkpoint.parameters == PARAMETERS
        assert set(checkpoint.tensors) == set(model)
        for name, array in model.items():
            assert np.array_equal(values(checkpoint.tensors[name]), array), name


@given(
    count=st.integers(2, 4),
    width=st.integers(1, 3),
    vocabulary=st.integers(1, 5),
    embedding_axis=st.integers(0, 1),
)
@settings(max_examples=25, deadline=None)
def test_embeddings_are_joined_by_their_shapes(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    width: int,
    vocabulary: int,
    embedding_axis: int,
) -> None:
    """Whatever the sizes, the shards' width tells which axis was cut."""
    shape = (vocabulary * count, width * count)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    shards = shards_of({"tok_embeddings.weight": array}, count, embedding_axis)
    folder = write(tmp_path_factory.mktemp("meta"), shards, {"dim": width * count})
    with open_checkpoint(folder) as checkpoint:
        assert np.array_equal(values(checkpoint.tensors["tok_embeddings.weight"]), array)


def test_more_shards_than_key_heads(tmp_path: Path) -> None:
    """Where neighbouring shards hold copies of one key head, each head is taken once."""
    model = whole_model()
    shards = shards_of(model, 8, 0)
    for kind in ("wk", "wv"):
        name = f"{LAYER}attention.{kind}.weight"
        heads = np.split(model[name], KEY_HEADS)
        for number, shard in enumerate(shards):
            shard[name] = heads[number // 2]
    write(tmp_path, shards)
    with open_checkpoint(tmp_path) as checkpoint:
        for name, array in model.items():
            assert np.array_equal(values(checkpoint.tensors[name]), array), name


def test_parameters_may_lie_deeper(tmp_path: Path) -> None:
    """Some params.json have the model's sizes under "model"."""
    write(tmp_path, shards_of(whole_model(), 2, 0), {"model": PARAMETERS, "other": 1})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.parameters == PARAMETERS


def test_one_file_of_safetensors(tmp_path: Path) -> None:
    """consolidated.safetensors is a whole model, and comes before torch files."""
    write(tmp_path, [{"w": np.zeros((2, 2), np.float32)}])
    content = safetensors_bytes.saved({"norm.weight": np.ones(4, np.float32)})
    (tmp_path / "consolidated.safetensors").write_bytes(content)
    with open_checkpoint(tmp_path) as checkpoint:
        assert values(checkpoint.tensors["norm.weight"]).tolist() == [1, 1, 1, 1]
        assert set(checkpoint.tensors) == {"norm.weight"}


def test_a_single_file_needs_no_sizes(tmp_path: Path) -> None:
    """Where nothing is merged, params.json need not tell the width here."""
    write(tmp_path, [{"tok_embeddings.weight": np.zeros((2, 2), np.float32)}], {"other": 1})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors["tok_embeddings.weight"].shape == (2, 2)


def test_a_missing_shard_number(tmp_path: Path) -> None:
    """A gap in the numbers is missed by name."""
    write(tmp_path, shards_of(whole_model(), 4, 0))
    (tmp_path / "consolidated.01.pth").unlink()
    assert "shard consolidated.01.pth is missing; allowed: all from 00 to 03" in refusal(
        tmp_path, ModelNotFoundError
    )


@pytest.mark.parametrize("embedding_axis", [0, 1])
def test_a_missing_last_shard(tmp_path: Path, embedding_axis: int) -> None:
    """Without the last shard, which no number tells, the sizes of params.json are not met."""
    write(tmp_path, shards_of(whole_model(), 4, embedding_axis))
    (tmp_path / "consolidated.03.pth").unlink()
    message = refusal(tmp_path, ModelFileError)
    assert re.search(r"tensor '.*' has 3 shards of shape \(32, 4\)|is a shard missing\?", message)


def edited(name: str, array: Array | None, shard: int = 1) -> list[dict[str, Array]]:
    """Two shards, one tensor of one of them exchanged or taken out."""
    shards = shards_of(whole_model(), 2, 1)
    if array is None:
        del shards[shard][name]
    else:
        shards[shard][name] = array
    return shards


WQ = f"{LAYER}attention.wq.weight"


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (edited("norm.weight", None), r"01\.pth: has no tensor 'norm.weight', which consolidated"),
        (edited("norm.weight", None, 0), r"00\.pth: has no tensor 'norm.weight', which conso"),
        (edited("extra", np.zeros(3, np.float32)), r"00\.pth: has no tensor 'extra', which"),
        (
            edited("norm.weight", np.zeros(3, np.float32)),
            r"'norm.weight' has shards of 1 formats and shapes \(3,\), \(16,\)",
        ),
        (
            edited("norm.weight", np.zeros(WIDTH, np.float16)),
            r"'norm.weight' has shards of 2 formats and shapes \(16,\)",
        ),
        (edited(WQ, np.zeros((15, WIDTH), np.float32)), r"shapes \(15, 16\), \(16, 16\)"),
        (edited(WQ, np.zeros(WIDTH, np.float32)), r"shapes \(16,\), \(16, 16\)"),
    ],
)
def test_shards_that_contradict_each_other(
    tmp_path: Path, shards: list[dict[str, Array]], expected: str
) -> None:
    """Shards with other names, shapes or formats are refused, and the tensor is named."""
    assert re.search(expected, refusal(write(tmp_path, shards), ModelFileError))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (WQ, (16, 15), r"wq.weight' has 2 shards of shape \(16, 15\); .* matrix of width 16"),
        (WQ, (8, 16), r"wq.weight' has 16 rows in 2 shards where params.json says 32"),
        (f"{LAYER}attention.wk.weight", (16, 16), r"has 32 rows .* says 16: is a shard missing"),
        (f"{LAYER}attention.wv.weight", (4, 16), r"has 8 rows in 2 shards where .* says 16"),
        (f"{LAYER}attention.wo.weight", (15, 16), r"wo.weight' has 2 shards of shape \(15, 16\)"),
        ("tok_embeddings.weight", (32, 15), r"has 2 shards of shape \(32, 15\)"),
        ("other.weight", (2, 2, 16), r"'other.weight' has 2 shards of shape \(2, 2, 16\)"),
        ("other", (2, 15), r"'other' has 2 shards of shape \(2, 15\)"),
    ],
)
def test_shapes_that_do_not_join(
    tmp_path: Path, name: str, shape: tuple[int, ...], expected: str
) -> None:
    """Pieces that make no matrix of the model's width are refused, and the tensor is named."""
    shards = shards_of(whole_model(), 2, 1)
    rng = np.random.default_rng(7)
    for shard in shards:
        shard[name] = rng.normal(size=shape).astype(np.float32)
    assert re.search(expected, refusal(write(tmp_path, shards), ModelFileError))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"n_heads": 8}, r"params\.json: dim is missing"),
        ({"dim": "16"}, r"dim is '16'; allowed: 1 to"),
        ({"dim": True}, r"dim is True"),
        ({"dim": 0}, r"dim is 0"),
        ({"dim": 1 << 40}, r"dim is 1099511627776"),
        ({"dim": 16, "n_heads": -8}, r"n_heads is -8"),
        ({"dim": 16, "n_heads": 8, "n_kv_heads": []}, r"n_kv_heads is of type list"),
        ({"model": 3}, r"model is 3; allowed: an object"),
    ],
)
def test_parameters_that_cannot_be(tmp_path: Path, parameters: object, expected: str) -> None:
    """A size in params.json that is none is refused by its key."""
    write(tmp_path, shards_of(whole_model(), 2, 1), parameters)
    assert re.search(expected, refusal(tmp_path, ModelFileError))


def test_shards_of_unreadable_tensors(tmp_path: Path) -> None:
    """Shards whose matrices are of a type that is no weight are refused by that type."""
    opcodes = torch_bytes.tensor(torch_bytes.storage("CharStorage", "0", 32), (2, 16))
    pickle = torch_bytes.whole(torch_bytes.dictionary({"output.weight": opcodes}))
    (tmp_path / "params.json").write_text(json.dumps(PARAMETERS))
    for number in range(2):
        content = torch_bytes.archive(pickle, {"0": bytes(32)})
        (tmp_path / f"consolidated.{number:02d}.pth").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"'output.weight' has dtype int8"):
        open_checkpoint(tmp_path)
