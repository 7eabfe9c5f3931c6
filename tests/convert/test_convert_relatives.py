"""Architectures that are Llamas written otherwise: ``transformers``' logits, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DATA
from reference.family_member import write_safetensors
from reference.relatives import RELATIVES, drawn, write_relative
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.convert import convert
from edgellama.convert.adapter.lora_base import find_base
from edgellama.convert.model.derived_tensors import PickedRows
from edgellama.convert.sources.source_tensor import ArrayTensor, PermutedTensor
from edgellama.engine.engine import Engine
from edgellama.models.facts import ModelFacts
from edgellama.quant.errors import (
    InvalidOptionError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.rope_choice import choice_for, config_of

TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed, and the settings of each model."""
    return dict(np.load(DATA / "relatives_golden.npz"))


@pytest.mark.parametrize("name", RELATIVES)
def test_logits(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The converted file is a Llama with the same logits."""
    path = tmp_path / "model.gguf"
    convert(write_relative(tmp_path / name, name, golden), path, type="f32")
    tokens = golden[f"{name}/tokens"].tolist()
    with (
        GGUFFile(path) as file,
        Engine(file, rope_scaling=choice_for(file, None, len(tokens))) as engine,
    ):
        cache = engine.new_cache(len(tokens), kv_type="f32")
        logits = engine.forward(tokens, cache, logits="all")
    expected = golden[f"{name}/logits"]
    np.testing.assert_allclose(logits[-len(expected) :], expected, rtol=0, atol=TOLERANCE)


def test_layers_without_positions(golden: dict[str, Any], tmp_path: Path) -> None:
    """SmolLM 3 has GGUF's own name, from which other programs know its layers; halves agree."""
    path = tmp_path / "model.gguf"
    convert(write_relative(tmp_path / "smollm3", "smollm3", golden), path, type="f32")
    tokens = golden["smollm3/tokens"].tolist()
    with GGUFFile(path) as file:
        assert file.metadata["general.architecture"] == "smollm3"
        assert file.metadata["smollm3.block_count"] == 5
        assert not any(key.startswith("llama.") for key in file.metadata)
        with (
            Engine(file) as whole,
            Engine(file, layers=range(3)) as first,
            Engine(file, layers=range(3, 5)) as last,
        ):
            rows = first.forward(tokens, first.new_cache(), logits="rows")
            logits = last.forward(tokens, last.new_cache(), logits="all", rows=rows)
            expected = whole.forward(tokens, whole.new_cache(), logits="all")
    np.testing.assert_array_equal(logits, expected)
    convert(write_relative(tmp_path / "all", "smollm3-all", golden), tmp_path / "all.gguf")
    with GGUFFile(tmp_path / "all.gguf") as file:
        assert file.metadata["general.architecture"] == "llama"


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_models_for_vectors(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """Without an output matrix they make the same vectors, whatever their class; files tell how."""
    folder = write_relative(tmp_path / "whole", name, golden)
    convert(folder, tmp_path / "whole.gguf", type="f32")
    vectors = {}
    with Llama(tmp_path / "whole.gguf", exact=True) as llama:
        vectors["whole"] = llama.embed([[1, 20, 30], [1, 5]], pooling="last")
    tensors = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    bare = {n.removeprefix("model."): t for n, t in tensors.items() if not n.startswith("lm_head")}
    write_safetensors(folder / "model.safetensors", bare)
    (folder / "1_Pooling").mkdir()
    pooling = json.dumps({"pooling_mode_lasttoken": True})
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    kind = config["architectures"][0]
    for architecture in (kind, kind.replace("ForCausalLM", "Model")):
        changed = config | {"architectures": [architecture]}
        (folder / "config.json").write_text(json.dumps(changed))
        convert(folder, tmp_path / f"{architecture}.gguf", type="f32")
        with Llama(tmp_path / f"{architecture}.gguf", exact=True) as llama:
            vectors[architecture] = llama.embed([[1, 20, 30], [1, 5]])
    assert len(vectors) == 3
    for found in vectors.values():
        np.testing.assert_array_equal(found, vectors["whole"])


@pytest.mark.parametrize("architecture", ["smollm3", "internlm2", "xverse", "ernie4_5"])
def test_gguf_files_under_other_names(architecture: str, tmp_path: Path) -> None:
    """They run, are converted again, and keep their name; those of few layers are Llamas."""
    model = TinyLlama(architecture=architecture, tied=False)
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    llama = write_tiny_llama(tmp_path / "llama.gguf", replace(model, architecture="llama"))
    convert(path, tmp_path / "again.gguf", type="f32")
    logits = []
    for source in (path, tmp_path / "again.gguf", llama):
        with GGUFFile(source) as file, Engine(file) as engine:
            assert file.metadata["general.architecture"] in (architecture, "llama")
            logits.append(engine.forward([1, 2, 3], engine.new_cache(), logits="all"))
    np.testing.assert_array_equal(logits[0], logits[2])
    np.testing.assert_array_equal(logits[1], logits[2])


@pytest.mark.parametrize(
    ("name", "fits"), [("qwen2", True), ("qwen3", True), ("granite", False), ("phi3", False)]
)
def test_adapters_fit_the_matrices_of_the_checkpoint(
    name: str, fits: bool, golden: dict[str, Any], tmp_path: Path
) -> None:
    """An adapter for matrices that are others in the file is refused, by folder and by file."""
    folder = write_relative(tmp_path / name, name, golden)
    convert(folder, tmp_path / "model.gguf", type="f32")
    for base in (folder, tmp_path / "model.gguf"):
        if fits:
            assert find_base(base, None, tmp_path).head_count == 4
        else:
            with pytest.raises(UnsupportedModelError, match="merge the adapter into its base"):
                find_base(base, None, tmp_path)


@given(st.data())
def test_picked_rows(data: st.DataObject) -> None:
    """Whatever runs and rows are asked for, they are NumPy's."""
    matrix = np.arange(36, dtype=np.float32).reshape(12, 3)
    ends = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)
    runs = [range(*pair) for pair in data.draw(st.lists(ends, max_size=4))]
    expected = np.concatenate([matrix[:0], *(matrix[run.start : run.stop] for run in runs)])
    picked = PickedRows("picked", ArrayTensor("matrix", matrix), runs)
    first, last = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(expected))])))
    found = picked.rows(first, last).view(np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(found, expected[first:last])


def test_frequencies_fit_the_context(golden: dict[str, Any], tmp_path: Path) -> None:
    """LongRoPE's are those of longer texts, unless sessions are no longer than the original one."""
    path = convert(write_relative(tmp_path / "f", "phi3-long", golden), tmp_path / "m.gguf").path
    with GGUFFile(path) as file:
        assert file.metadata["llama.rope.scaling.type"] == "longrope"
        assert ModelConfig.from_gguf(file).context_length == 256
        assert choice_for(file, None, 65) is choice_for(file, None, None) is None
        assert choice_for(file, None, 64) == "none"
        assert config_of(file, "none").context_length == 64
        assert config_of(file, "none").rope.divisors == "rope_factors_short.weight"
        assert config_of(file, None).rope.divisors == "rope_factors_long.weight"
        with pytest.raises(
            InvalidOptionError, match='scaled by LongRoPE; allowed: None, or "none"'
        ):
            config_of(file, "yarn:2")
        assert "LongRoPE) for texts of more than 64 tokens" in str(ModelFacts.of(file).positions)
    short = write_relative(tmp_path / "short", "phi3-long", golden, max_position_embeddings=64)
    convert(short, tmp_path / "short.gguf")
    with GGUFFile(tmp_path / "short.gguf") as file:
        assert ModelConfig.from_gguf(file).rope.scaling == "none"
        assert "rope_freqs.weight" in file.tensors


@pytest.mark.parametrize("length", [64, 256])
def test_a_model_is_loaded_for_its_context(
    length: int, golden: dict[str, Any], tmp_path: Path
) -> None:
    """What a call loads has the logits of transformers within and beyond the original length."""
    name = {64: "phi3-long", 256: "phi3-longer"}[length]
    path = tmp_path / "model.gguf"
    convert(write_relative(tmp_path / name, name, golden), path, type="f32")
    with Llama(path, context_length=length, kv_type="f32") as llama:
        tokens = golden[f"{name}/tokens"].tolist()
        found = llama.generate(tokens, max_tokens=1, temperature=0, logprobs=3)
    expected = golden[f"{name}/logits"][-1].astype(np.float64)
    expected -= np.log(np.exp(expected).sum())
    best = np.argsort(-expected)[:3]
    assert found.logprobs is not None
    given = {entry.token: entry.logprob for entry in found.logprobs[0].alternatives}
    assert list(given) == best.tolist()
    np.testing.assert_allclose(list(given.values()), expected[best], rtol=0, atol=TOLERANCE)


def test_growing_queries_have_a_name(golden: dict[str, Any], tmp_path: Path) -> None:
    """Ministral 3 has GGUF's own name, without them it is a Llama; the context is the whole one."""
    convert(write_relative(tmp_path / "long", "ministral3", golden), tmp_path / "long.gguf")
    with GGUFFile(tmp_path / "long.gguf") as file:
        assert file.metadata["general.architecture"] == "mistral3"
        assert file.metadata["mistral3.context_length"] == 256
        assert file.metadata["mistral3.attention.temperature_scale"] == np.float32(0.1)
    plain = json.loads(str(golden["ministral3/config"]))["rope_parameters"]
    del plain["llama_4_scaling_beta"]
    folder = write_relative(tmp_path / "plain", "ministral3", golden, rope_parameters=plain)
    convert(folder, tmp_path / "plain.gguf")
    with GGUFFile(tmp_path / "plain.gguf") as file:
        assert file.metadata["general.architecture"] == "llama"


@given(st.data())
def test_heads_that_are_rotated_in_part(data: st.DataObject) -> None:
    """The first rows of every head are interleaved, the others stay, however they are read."""
    matrix = np.arange(60, dtype=np.float32).reshape(20, 3)
    rotated = data.draw(st.sampled_from([2, 4, 6, 8, 10]))
    order = np.arange(10)
    order[:rotated] = order[:rotated].reshape(2, -1).T.reshape(-1)
    expected = matrix.reshape(2, 10, 3)[:, order].reshape(20, 3)
    tensor = PermutedTensor(ArrayTensor("matrix", matrix), 2, rotated)
    first, last = sorted(data.draw(st.tuples(*2 * [st.integers(0, 20)])))
    found = tensor.rows(first, last).view(np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(found, expected[first:last])
    vector = PermutedTensor(ArrayTensor("vector", matrix[:, 0].copy()), 2, rotated)
    np.testing.assert_array_equal(vector.rows(0, 1).view(np.float32)[0], expected[:, 0])


@pytest.mark.parametrize("name", ["granite", "qwen2", "phi3", "ministral3"])
def test_inside_models_with_vision(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The text model of a LLaVA is the same whichever family it is of."""
    folder = write_relative(tmp_path / name, name, golden)
    text = json.loads((folder / "config.json").read_text("utf-8")) | {"model_type": name}
    outer = {"architectures": ["LlavaNextForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(outer), "utf-8")
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    named = {f"language_model.{tensor}": values for tensor, values in weights.items()}
    write_safetensors(folder / "model.safetensors", named)
    convert(folder, tmp_path / "model.gguf", type="f32")
    tokens = golden[f"{name}/tokens"].tolist()
    with GGUFFile(tmp_path / "model.gguf") as file, Engine(file) as engine:
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"))
    np.testing.assert_allclose(logits, golden[f"{name}/logits"], rtol=0, atol=TOLERANCE)


def test_settings_that_are_silent(golden: dict[str, Any], tmp_path: Path) -> None:
    """What config.json leaves out is what transformers takes for granted of that architecture."""
    folder = write_relative(tmp_path / "helium", "helium", golden)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for name in ("rms_norm_eps", "rope_parameters", "max_position_embeddings"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["llama.rope.freq_base"] == 1e5
        assert file.metadata["llama.context_length"] == 4096
        assert file.metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-8)


@pytest.mark.parametrize("name", ["granite", "minicpm", "phi3", "internlm2"])
def test_names_of_wrappers_say_nothing(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """What a framework has put around modules leaves each tensor what it is."""
    folder = write_relative(tmp_path / name, name, golden)
    convert(folder, tmp_path / "plain.gguf", type="f32")
    wrapped = {}
    for tensor, values in drawn(name, json.loads(str(golden[f"{name}/shapes"]))).items():
        module, _, kind = tensor.rpartition(".")
        wrapped[f"{module}.{'_orig_mod' if 'norm' in module else 'base_layer'}.{kind}"] = values
    write_safetensors(folder / "model.safetensors", wrapped)
    convert(folder, tmp_path / "wrapped.gguf", type="f32")
    assert (tmp_path / "wrapped.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_architectures_that_are_no_names(golden: dict[str, Any], tmp_path: Path) -> None:
    """They are passed over, and no reason to fail."""
    named = {"architectures": [["x"], "GraniteForCausalLM"]}
    folder = write_relative(tmp_path / "granite", "granite", golden, **named)
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert file.metadata["edgellama.source_architecture"] == "GraniteForCausalLM"


@pytest.mark.parametrize("name", ["internlm2", "phi3"])
def test_missing_shards_are_named_by_the_checkpoints_names(
    name: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Also where the Llama's tensors have others."""
    folder = write_relative(tmp_path / name, name, golden)
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    (folder / "model.safetensors").unlink()
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    there = {tensor: values for tensor, values in weights.items() if ".layers.1." not in tensor}
    write_safetensors(folder / first, there)
    places = {tensor: first if tensor in there else second for tensor in weights}
    index = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, "utf-8")
    with pytest.raises(ModelNotFoundError, match=second) as caught:
        convert(folder, tmp_path / "model.gguf", type="f32")
    assert any(tensor in str(caught.value) for tensor in weights)
