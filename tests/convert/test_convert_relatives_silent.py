"""Relatives of a Llama whose config.json is silent, or tells of positions in words of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.family_member import write_safetensors
from reference.relatives import drawn, write_relative

from edgellama.convert import convert
from edgellama.convert.model.relative_settings import telechat_settings
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.gguf.file import GGUFFile


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed, and the settings of each model."""
    return dict(np.load(DATA / "relatives_golden.npz"))


def test_the_base_of_telechat(golden: dict[str, Any], tmp_path: Path) -> None:
    """Where config.json is silent, positions are stretched from 8192 tokens on, 4096 in the 7B."""
    silent = {"base_seqlen": None, "seq_length": 8192, "training_seqlen": 8192}
    folder = write_relative(tmp_path / "telechat", "telechat", golden, **silent, logn=True)
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["llama.rope.freq_base"] == 10000
    seven = Fields({"hidden_size": 4096, "n_head": 32, "training_seqlen": 8192}, "config.json")
    base = telechat_settings(seven)["rope_theta"]
    assert base == pytest.approx(10000 * 3 ** (128 / 126))


def test_positions_of_telechat_3(golden: dict[str, Any], tmp_path: Path) -> None:
    """Its own YaRN grows less with the factor, which is told over what GGUF's readers compute."""
    rope = {
        "type": "telechat3-yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = write_relative(
        *(tmp_path / "telechat3", "xverse", golden),
        architectures=["Telechat3ForCausalLM"],
        rope_parameters=None,
        rope_scaling=rope,
        rms_norm_eps=None,
    )
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["llama.rope.freq_base"] == 1e6
        assert file.metadata["llama.rope.scaling.type"] == "yarn"
        expected = (0.07 * math.log(4) + 1) / (0.1 * math.log(4) + 1)
        found = file.metadata["llama.rope.scaling.attn_factor"]
        assert found == pytest.approx(expected)
        assert file.metadata["llama.context_length"] == 256


@pytest.mark.parametrize(
    ("told", "base", "factor"),
    [
        ({}, 1e6, 16),
        ({"rope_theta": 5e5}, 5e5, 16),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, 1e6, 2),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}, "rope_theta": 5e5}, 5e5, 2),
    ],
)
def test_positions_of_cwm(
    told: dict[str, Any], base: float, factor: float, golden: dict[str, Any], tmp_path: Path
) -> None:
    """What config.json tells counts, in the old words, too; what it leaves out is CWM's."""
    silent = {"rope_parameters": None, "head_dim": 8}
    folder = write_relative(tmp_path / "cwm", "cwm", golden, **silent, **told)
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["llama.rope.freq_base"] == base
        divisors = file.tensors["rope_freqs.weight"].data.view(np.float32)
    assert divisors.max() == factor


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("exaone", "tie_word_embeddings"),
        ("telechat", "tie_word_embeddings"),
        ("mobilellm", "share_embedding"),
    ],
)
def test_outputs_that_are_tied_without_a_word(
    name: str, setting: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """A checkpoint without an output matrix has the embedding for one, as its code has it."""
    folder = write_relative(tmp_path / name, name, golden)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop(setting)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    weights.pop("lm_head.weight", None)
    write_safetensors(folder / "model.safetensors", weights)
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert "output.weight" not in file.tensors
