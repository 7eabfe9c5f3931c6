"""Indexes that promise what is not there: refused when a Llama needs it, else passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.family import MEMBERS
from reference.family_member import write_safetensors

from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.quant.errors import EdgellamaError, ModelFileError, ModelNotFoundError

BY_NAME = {member.name: member for member in MEMBERS}
SHARDS = tuple(f"model-{number:05d}-of-00002.safetensors" for number in (1, 2))
INDEX = "model.safetensors.index.json"


def described(folder: Path) -> ModelDescription:
    """The description of a folder."""
    with open_checkpoint(folder) as checkpoint:
        return describe(checkpoint)


def split(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every other tensor in one of two shards."""
    names = [*weights]
    return {n: weights[n] for n in names[::2]}, {n: weights[n] for n in names[1::2]}


def write_model(
    folder: Path, member: str, shards: Sequence[Mapping[str, Any]], promised: Mapping[str, str]
) -> Path:
    """A member's folder with these two shards, and an index of what they hold and ``promised``."""
    BY_NAME[member].write(folder)
    (folder / "model.safetensors").unlink()
    places = {}
    for shard, tensors in zip(SHARDS, shards, strict=True):
        write_safetensors(folder / shard, dict(tensors))
        places |= dict.fromkeys(tensors, shard)
    index = {"metadata": {}, "weight_map": places | dict(promised)}
    (folder / INDEX).write_text(json.dumps(index), "ascii")
    return folder


@pytest.mark.parametrize(
    "promised",
    [
        {"lm_head.weight": SHARDS[0]},
        {"lm_head.weight": "model-00003-of-00003.safetensors"},
        {"model.layers.0.self_attn.rotary_emb.inv_freq": SHARDS[1]},
        {"rotary_emb.inv_freq": "gone.safetensors", "lm_head.weight": "gone.safetensors"},
    ],
)
def test_what_is_not_needed_may_be_absent(promised: dict[str, str], tmp_path: Path) -> None:
    """The head of a tied model and buffers may be promised and absent, their whole shard too."""
    shards = split(BY_NAME["smollm2"].weights())
    write_model(tmp_path / "model", "smollm2", shards, promised)
    BY_NAME["smollm2"].write(tmp_path / "plain")
    found, expected = described(tmp_path / "model"), described(tmp_path / "plain")
    assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
    assert found.notes == ()


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_what_is_needed_and_absent_is_named_with_its_shard(name: str, tmp_path: Path) -> None:
    """A tensor that the model needs, and that no shard holds, is named with its shard."""
    weights = BY_NAME["llama-2"].weights()
    weights.pop(name)
    write_model(tmp_path / "model", "llama-2", split(weights), {name: SHARDS[1]})
    with pytest.raises(ModelFileError) as caught:
        described(tmp_path / "model")
    assert f"tensor {name} is missing (the index names {name} in '{SHARDS[1]}'" in str(caught.value)


def test_a_needed_shard_that_is_absent_is_named(tmp_path: Path) -> None:
    """A missing shard is named with a tensor that it should hold."""
    shards = split(BY_NAME["llama-2"].weights())
    write_model(tmp_path / "model", "llama-2", shards, {})
    (tmp_path / "model" / SHARDS[1]).unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        described(tmp_path / "model")
    assert f"missing, with '{SHARDS[1]}', where the index places what is missing" in str(
        caught.value
    )
    assert any(name in str(caught.value) for name in shards[1])


@pytest.mark.parametrize("place", [0, 1])
def test_a_superseded_copy_is_passed_over(place: int, tmp_path: Path) -> None:
    """Of two heads the one that the index names is the model's."""
    weights = BY_NAME["llama-2"].weights()
    heads = weights["lm_head.weight"], 2 * weights["lm_head.weight"]
    shards = [
        tensors | {"lm_head.weight": head}
        for tensors, head in zip(split(weights), heads, strict=True)
    ]
    write_model(tmp_path / "model", "llama-2", shards, {"lm_head.weight": SHARDS[place]})
    output = described(tmp_path / "model").tensors[-1]
    values = output.rows(0, output.num_rows).view(np.float16).reshape(output.shape)
    assert output.name == "output.weight" and np.array_equal(values, heads[place])


def test_errors_are_one_line(tmp_path: Path) -> None:
    """An index whose names mean nothing gives one line."""
    weights = BY_NAME["llama-2"].weights()
    weights = {name: values for name, values in weights.items() if "norm" not in name}
    write_model(tmp_path / "model", "llama-2", split(weights), {"a\n": "x", ".": "x"})
    with pytest.raises(EdgellamaError, match="missing") as caught:
        described(tmp_path / "model")
    assert "\n" not in str(caught.value)
