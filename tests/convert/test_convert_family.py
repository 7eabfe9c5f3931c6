"""Every member of the Llama family, converted: logits, tokens and metadata against references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.description_file import values_of, write_description
from reference.family import MEMBERS
from reference.family_member import Member, write_safetensors

from edgellama.convert import convert
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.model.rope_scaling import Llama3Scaling
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.quant.gguf.file import GGUFFile

GOLDEN = DATA / "family_golden.npz"
NUM_PIECES = 400
NUM_BYTE_LEVEL = 316
# What is special about each member; every other key is checked for all of them together.
QUIRKS: dict[str, dict[str, Any]] = {
    "llama-1": {
        "llama.context_length": 2048,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": None,
    },
    "llama-2": {"llama.attention.head_count_kv": 4, "tokenizer.ggml.unknown_token_id": 0},
    "llama-2-70b": {"llama.attention.head_count": 8, "llama.attention.head_count_kv": 1},
    "code-llama": {
        "llama.context_length": 16384,
        "llama.rope.freq_base": 1e6,
        "tokenizer.ggml.prefix_token_id": NUM_PIECES + 1,
        "tokenizer.ggml.suffix_token_id": NUM_PIECES + 2,
        "tokenizer.ggml.middle_token_id": NUM_PIECES + 3,
        "tokenizer.ggml.eot_token_id": NUM_PIECES + 4,
        "tokenizer.ggml.fim_pre_token_id": NUM_PIECES + 1,
    },
    "llama-3": {
        "llama.rope.freq_base": 5e5,
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": NUM_BYTE_LEVEL,
        "tokenizer.ggml.eos_token_id": NUM_BYTE_LEVEL + 3,
        "tokenizer.ggml.add_bos_token": True,
    },
    "llama-3-meta": {"llama.context_length": 8192},
    "llama-3.1-meta": {"llama.context_length": 131072},
    "llama-3.1": {
        "llama.rope.scaling.type": None,
        "llama.context_length": 131072,
        "tokenizer.ggml.eom_token_id": NUM_BYTE_LEVEL + 5,
        "tokenizer.ggml.padding_token_id": NUM_BYTE_LEVEL + 4,
    },
    "llama-3.2": {"llama.rope.freq_base": 5e5, "tokenizer.ggml.eot_token_id": NUM_BYTE_LEVEL + 3},
    "vicuna": {"tokenizer.ggml.padding_token_id": 0, "llama.context_length": 4096},
    "alpaca": {
        "llama.vocab_size": NUM_PIECES + 1,
        "tokenizer.ggml.padding_token_id": NUM_PIECES,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    },
    "open-llama": {"tokenizer.ggml.remove_extra_whitespaces": True},
    "sheared-llama": {"llama.embedding_length": 40, "llama.attention.head_count": 5},
    "mistral": {
        "general.architecture": "llama",
        "llama.attention.sliding_window": 4096,
        "llama.context_length": 32768,
    },
    "mistral-nemo": {
        "llama.attention.key_length": 12,
        "llama.attention.value_length": 12,
        "llama.rope.dimension_count": 12,
        "tokenizer.ggml.pre": "tekken",
    },
    "smollm2": {
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    },
    "biases": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    "yarn": {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 300,
        "llama.rope.scaling.yarn_beta_fast": 20.0,
        "llama.rope.scaling.yarn_beta_slow": 2.0,
        "llama.rope.scaling.attn_factor": pytest.approx(1.3 / (0.1 * np.log(4) + 1)),
    },
    "vicuna-16k": {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
        "llama.context_length": 64,
    },
    "dynamic-ntk": {
        "edgellama.rope.dynamic_factor": 2.0,
        "llama.rope.scaling.type": None,
        "llama.context_length": 16,
    },
    "long-llama": {"general.architecture": "llama", "llama.context_length": 2048},
}
ALWAYS = (
    *("general.architecture", "general.name", "llama.vocab_size", "llama.context_length"),
    *("llama.embedding_length", "llama.block_count", "llama.feed_forward_length"),
    *("llama.attention.head_count", "llama.attention.head_count_kv"),
    *("llama.attention.layer_norm_rms_epsilon", "llama.rope.dimension_count"),
    *("llama.rope.freq_base", "tokenizer.ggml.model", "tokenizer.ggml.pre"),
    *("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id"),
    *("tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token"),
    *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"),
)
NAMES = [member.name for member in MEMBERS]
BY_NAME = {member.name: member for member in MEMBERS}
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed."""
    return dict(np.load(GOLDEN))


def described(member: Member, folder: Path) -> ModelDescription:
    """The description of a member's Hugging Face folder."""
    with open_checkpoint(member.write(folder / member.name)) as checkpoint:
        return describe(checkpoint)


def check_logits(path: Path, name: str, golden: dict[str, Any]) -> None:
    """The engine gives transformers' logits for a model file, and the same best tokens."""
    from edgellama.engine.engine import Engine

    tokens = golden[f"{name}/tokens"].tolist()
    with GGUFFile(path) as file, Engine(file) as engine:
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"), logits="all")
    expected = golden[f"{name}/logits"]
    np.testing.assert_allclose(logits[-len(expected) :], expected, rtol=0, atol=TOLERANCE)
    assert logits.argmax(1).tolist() == golden[f"{name}/best"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_logits(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """What the description says, written by the gguf package, is the model of transformers."""
    path = write_description(tmp_path / "model.gguf", described(BY_NAME[name], tmp_path))
    check_logits(path, name, golden)


@pytest.mark.parametrize("name", NAMES)
def test_converted_file(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The file that the converter itself writes is the same model; F16 loses nothing of these."""
    convert(BY_NAME[name].write(tmp_path / name), tmp_path / "model.gguf", type="f16")
    check_logits(tmp_path / "model.gguf", name, golden)


@pytest.mark.parametrize("name", NAMES)
def test_metadata(name: str, tmp_path: Path) -> None:
    """Every key that a reader needs is there, and what is special about each member."""
    description = described(BY_NAME[name], tmp_path)
    metadata = description.metadata
    assert [key for key in ALWAYS if key not in metadata] == []
    config = BY_NAME[name].full_config
    assert metadata["llama.rope.freq_base"].value == pytest.approx(
        config.get("rope_theta", config.get("rope_parameters", {}).get("rope_theta", 1e4))
    )
    assert metadata["llama.attention.layer_norm_rms_epsilon"].value == config["rms_norm_eps"]
    found = {key: metadata[key].value if key in metadata else None for key in QUIRKS[name]}
    assert found == QUIRKS[name]
    num_tokens = config["vocab_size"]
    for key in ("tokens", "token_type"):
        assert len(metadata[f"tokenizer.ggml.{key}"].value) == num_tokens
    assert not {"general.file_type", "general.quantization_version"} & set(metadata)


def test_order_and_names(tmp_path: Path) -> None:
    """Tensors come as a reader walks them: frequencies, embedding, layer by layer, output."""
    description = described(BY_NAME["llama-3.1"], tmp_path)
    names = [tensor.name for tensor in description.tensors]
    assert names[:5] == [
        "rope_freqs.weight",
        "token_embd.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
    ]
    assert names[-2:] == ["output_norm.weight", "output.weight"]
    assert len(names) == len(set(names)) == 2 * 9 + 4


@pytest.mark.parametrize(("head_size", "factor"), [(128, 8.0), (64, 32.0), (128, 32.0)])
def test_divisors(golden: dict[str, Any], head_size: int, factor: float) -> None:
    """Frequencies are divided as transformers does for Llama 3.1 (8B, 70B, 405B) and 3.2."""
    divisors = Llama3Scaling(factor).tensors(5e5, head_size)["rope_freqs.weight"]
    np.testing.assert_allclose(divisors, golden[f"divisors/{head_size}/{factor:g}"], rtol=2e-5)
    assert divisors[0] == 1.0
    assert divisors[-1] == factor


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window": 8}, 8),
        ({"sliding_window": None}, None),
        ({"sliding_window": 0}, None),
        ({"sliding_window": 8, "use_sliding_window": False}, None),
        ({"sliding_window": 8, "max_window_layers": 1, "model_type": None}, 8),
        ({"sliding_window": 8, "model_type": "llama"}, None),
        ({"sliding_window": 8, "architectures": ["LlamaForCausalLM"], "model_type": None}, None),
    ],
)
def test_sliding_window(changes: dict[str, Any], expected: int | None, tmp_path: Path) -> None:
    """A Mistral's window goes into the file, where it has one; a Llama's config may say one."""
    config = {**BY_NAME["mistral"].config, **changes}
    description = described(replace(BY_NAME["mistral"], config=config), tmp_path)
    item = description.metadata.get("llama.attention.sliding_window")
    assert (None if item is None else item.value) == expected


def test_tied_output_is_left_out(tmp_path: Path) -> None:
    """A copy of the embedding that was saved as the output of a tied model is no tensor."""
    member = BY_NAME["smollm2"]
    folder = member.write(tmp_path / "model")
    tensors = member.weights()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_safetensors(folder / "model.safetensors", tensors)
    with open_checkpoint(folder) as checkpoint:
        names = [tensor.name for tensor in describe(checkpoint).tensors]
    assert "output.weight" not in names


def test_long_llama_is_told(tmp_path: Path) -> None:
    """Who converts a LongLLaMA hears that its memory is left out; others hear nothing."""
    notes = {name: described(BY_NAME[name], tmp_path).notes for name in ("long-llama", "llama-2")}
    assert [("memory" in note) for note in notes["long-llama"]] == [True]
    assert notes["llama-2"] == ()


def test_models_for_vectors(tmp_path: Path) -> None:
    """A checkpoint without an output matrix is converted, told, and makes the same vectors."""
    from edgellama import Llama

    member = BY_NAME["llama-2"]
    whole = member.write(tmp_path / "whole")
    bare = replace(member, config={**member.config, "architectures": ["LlamaModel"]})
    folder = bare.write(tmp_path / "bare")
    tensors = {
        name.removeprefix("model."): values
        for name, values in member.weights().items()
        if name != "lm_head.weight"
    }
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", tensors)
    with open_checkpoint(folder) as checkpoint:
        assert ["for vectors" in note for note in describe(checkpoint).notes] == [True]
    vectors = []
    for name, source in (("whole", whole), ("bare", folder)):
        convert(source, tmp_path / f"{name}.gguf", type="f16")
        with Llama(tmp_path / f"{name}.gguf", exact=True) as llama:
            vectors.append(llama.embed([[1, 20, 30], [1, 5]], pooling="last"))
    np.testing.assert_array_equal(*vectors)


def test_names_without_prefix(tmp_path: Path) -> None:
    """Tensors whose names lack the leading ``model.`` are the same tensors."""
    member = BY_NAME["llama-2"]
    expected = described(member, tmp_path).tensors
    folder = member.write(tmp_path / "other")
    renamed = {name.removeprefix("model."): values for name, values in member.weights().items()}
    write_safetensors(folder / "model.safetensors", renamed)
    with open_checkpoint(folder) as checkpoint:
        tensors = describe(checkpoint).tensors
    assert [tensor.name for tensor in tensors] == [tensor.name for tensor in expected]
    for ours, other in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(values_of(ours), values_of(other))
