"""GGUF files of other architectures, as llama.cpp's converter writes them, as files of a Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from places import DATA
from reference.relatives_gguf import KINDS, MULTIPLIED, PLAIN, write_gguf

from edgellama.convert import convert, metadata
from edgellama.convert.adapter.lora_base import find_base
from edgellama.convert.model import gguf_relatives
from edgellama.convert.model.derived_tensors import SCALES, ScaledBlocks
from edgellama.convert.model.gguf_multipliers import GGUFMultipliers
from edgellama.convert.sources.source_tensor import MappedTensor
from edgellama.engine.engine import Engine
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.errors import EdgellamaError, ModelFileError, UnsupportedModelError
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import CONVERTIBLE, ModelConfig
from edgellama.quant.rope_choice import choice_for


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed, and the settings of each model."""
    return dict(np.load(DATA / "relatives_golden.npz"))


@pytest.mark.parametrize("name", [*KINDS, *PLAIN, *MULTIPLIED])
def test_logits(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The copy is a Llama with the logits of transformers."""
    path = write_gguf(tmp_path / "own.gguf", name, golden)
    assert convert(path, tmp_path / "llama.gguf", type="copy").notes == ()
    with GGUFFile(tmp_path / "llama.gguf") as file:
        assert file.metadata["general.architecture"] == "llama"
        assert not any("dimension_sections" in key for key in file.metadata)
        assert file.metadata["llama.context_length"] == 256
    check_logits(tmp_path / "llama.gguf", name, golden)


def check_logits(path: Path, name: str, golden: dict[str, Any]) -> None:
    """The file computes what transformers does."""
    tokens = golden[f"{name}/tokens"].tolist()
    with (
        GGUFFile(path) as file,
        Engine(file, rope_scaling=choice_for(file, None, len(tokens))) as engine,
    ):
        cache = engine.new_cache(len(tokens), kv_type="f32")
        logits = engine.forward(tokens, cache, logits="all")
    expected = golden[f"{name}/logits"]
    np.testing.assert_allclose(logits[-len(expected) :], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["qwen2", "qwen2-vl", "qwen3", "qwen3-vl", "exaone", "pangu"])
def test_half_split_files_run_as_they_are(
    name: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Rows stay in their order; a file that is written of Qwen 3's is Qwen 3's again."""
    path = write_gguf(tmp_path / "own.gguf", name, golden)
    check_logits(path, name, golden)
    convert(path, tmp_path / "copy.gguf", type="copy")
    check_logits(tmp_path / "copy.gguf", name, golden)
    with GGUFFile(tmp_path / "copy.gguf") as file:
        expected = {"qwen3": "qwen3", "qwen3-vl": "qwen3vl"}.get(name, "llama")
        assert file.metadata["general.architecture"] == expected


@pytest.mark.parametrize("name", ["qwen3", "ministral3-longer"])
def test_one_token_at_a_time(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The last token's logits are those of transformers if each has a step of its own, too."""
    path = write_gguf(tmp_path / "own.gguf", name, golden)
    with GGUFFile(path) as file, Engine(file) as engine:
        cache = engine.new_cache(kv_type="f32")
        rows = [engine.forward([token], cache) for token in golden[f"{name}/tokens"].tolist()]
    np.testing.assert_allclose(rows[-1], golden[f"{name}/logits"][-1:], rtol=0, atol=5e-5)


def test_qwen3_without_its_norms(golden: dict[str, Any], tmp_path: Path) -> None:
    """A file that lacks a norm of queries is refused, and names it."""
    path = write_gguf(tmp_path / "own.gguf", "qwen2", golden, architecture="QWEN3")
    with (
        GGUFFile(path) as file,
        pytest.raises(ModelFileError, match=r"blk\.0\.attn_q_norm\.weight is missing"),
    ):
        Engine(file)


@pytest.mark.parametrize("name", ["ministral3", "ministral3-longer"])
def test_ministral_runs_as_it_is(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """Within the length from which its queries grow and beyond it, and after a copy."""
    path = write_gguf(tmp_path / "own.gguf", name, golden)
    convert(path, tmp_path / "copy.gguf", type="copy")
    for file_path in (path, tmp_path / "copy.gguf"):
        check_logits(file_path, name, golden)
        with GGUFFile(file_path) as file:
            assert ModelConfig.from_gguf(file).context_length == 256


@pytest.mark.parametrize("multiplier", [-1e9, float("nan"), 1e30])
def test_hostile_growth_of_positions(
    multiplier: float, golden: dict[str, Any], tmp_path: Path
) -> None:
    """What queries and keys cannot be divided by is told by its key."""
    path = write_gguf(tmp_path / "own.gguf", "ministral3", golden)
    with GGUFFile(path) as file:
        metadata = dict(file.metadata)
    metadata["mistral3.rope.scaling.yarn_log_multiplier"] = multiplier
    with pytest.raises(ModelFileError, match=r"yarn_log_multiplier is .*a number|must be from 0"):
        ModelConfig.from_metadata(metadata)


@pytest.mark.parametrize(
    ("name", "architecture"), [("qwen2", None), ("glm", None), ("pangu", None), ("xverse", "LLAMA")]
)
def test_matrices_in_one(
    name: str, architecture: str | None, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Queries, keys and values that lie in one come apart, biases too, also in a Llama's file."""
    path = write_gguf(
        tmp_path / "own.gguf", name, golden, fused=True, architecture=architecture, quantized="F16"
    )
    convert(path, tmp_path / "llama.gguf", type="copy")
    check_logits(tmp_path / "llama.gguf", name, golden)


def test_a_llama_in_one_matrix_is_told_what_to_do(golden: dict[str, Any], tmp_path: Path) -> None:
    """Whoever runs such a file learns how its matrices come apart."""
    path = write_gguf(tmp_path / "own.gguf", "xverse", golden, fused=True, architecture="LLAMA")
    with GGUFFile(path) as file, pytest.raises(UnsupportedModelError) as caught:
        Engine(file)
    assert "attn_qkv.weight holds queries, keys and values" in str(caught.value)
    assert "--type copy" in caught.value.in_terminal


def test_baichuan(golden: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 13B models are refused; of Baichuan 2 a note says what its file leaves open."""
    path = write_gguf(tmp_path / "13b.gguf", "baichuan", golden, hidden_size=5120)
    with pytest.raises(UnsupportedModelError, match=r"13b\.gguf: Baichuan 13B tells .*ALiBi"):
        convert(path, tmp_path / "llama.gguf", type="copy")
    path = write_gguf(tmp_path / "7b.gguf", "baichuan", golden)
    assert convert(path, tmp_path / "first.gguf", type="copy").notes == ()
    monkeypatch.setattr(gguf_relatives, "BAICHUAN_2_TOKENS", 400)
    (note,) = convert(path, tmp_path / "second.gguf", type="copy").notes
    assert "does not say whether its writer did" in note


def test_all_that_convert_are_known() -> None:
    """What is said to become a Llama's file does."""
    assert set(gguf_relatives.KNOWN) == set(CONVERTIBLE)


@pytest.mark.parametrize("name", ["qwen2", "phi3", "exaone"])
def test_nothing_is_quantized_anew(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """Rows in blocks are the same bytes in another order."""
    path = write_gguf(tmp_path / "own.gguf", name, golden, quantized="Q8_0")
    convert(path, tmp_path / "llama.gguf", type="copy")

    def rows(source: Path) -> list[bytes]:
        with GGUFFile(source) as file:
            found = [t for t in file.tensors.values() if t.format.name == "Q8_0"]
            return sorted(row.tobytes() for t in found for row in t.data.reshape(t.shape[0], -1))

    assert rows(tmp_path / "llama.gguf") == rows(path)


@pytest.mark.parametrize("quantized", ["Q8_0", "Q4_1", "F16"])
@pytest.mark.parametrize("name", MULTIPLIED)
def test_the_embedding_alone_changes(
    name: str, quantized: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Its blocks get other scales; every other matrix keeps its bytes; adapters are refused."""
    path = write_gguf(tmp_path / "own.gguf", name, golden, quantized=quantized)
    report = convert(path, tmp_path / "llama.gguf", type="copy")
    assert any("rounded to 16 bits" in n for n in report.notes) == (quantized != "F16")
    with GGUFFile(path) as own, GGUFFile(tmp_path / "llama.gguf") as llama:
        factor = own.metadata[f"{own.metadata['general.architecture']}.embedding_scale"]
        factor /= own.metadata[f"{own.metadata['general.architecture']}.residual_scale"]
        assert not any("_scale" in key or key.endswith("attention.scale") for key in llama.metadata)
        for tensor in own.tensors.values():
            found = llama.tensors[tensor.name]
            if tensor.name == "token_embd.weight":
                values = [
                    gguf.quants.dequantize(t.data, gguf.GGMLQuantizationType(t.format.ggml_id))
                    for t in (tensor, found)
                ]
                largest = np.abs(values[0]).max() * factor
                np.testing.assert_allclose(values[1], values[0] * factor, atol=2e-3 * largest)
            elif tensor.name != "output_norm.weight":
                np.testing.assert_array_equal(found.data, tensor.data)
    with pytest.raises(UnsupportedModelError, match="merge the adapter into its base"):
        find_base(tmp_path / "llama.gguf", None, tmp_path)


@pytest.mark.parametrize("name", SCALES)
def test_scaled_blocks(name: str) -> None:
    """Blocks of every format are those of multiplied numbers: by powers of two, exactly."""
    stored = FORMATS_BY_NAME[name]
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, (4, stored.block_bytes), dtype=np.uint8)
    for start in SCALES[name]:
        scales = rng.uniform(0.01, 1, 4).astype("<f2")
        data[:, start : start + 2] = scales[:, None].view(np.uint8)
    tensor = MappedTensor("blocks", (4, stored.block_size), stored, data.reshape(-1))
    kind = gguf.GGMLQuantizationType(stored.ggml_id)
    expected = gguf.quants.dequantize(data, kind)
    doubled = gguf.quants.dequantize(ScaledBlocks(tensor, 4.0).rows(0, 4), kind)
    np.testing.assert_array_equal(doubled, 4 * expected)
    found = gguf.quants.dequantize(ScaledBlocks(tensor, 3.3).rows(1, 3), kind)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, 3.3 * expected[1:3], rtol=1e-3, atol=4e-3 * largest)


def test_old_files_of_minicpm(golden: dict[str, Any], tmp_path: Path) -> None:
    """Files without keys of multipliers have those of the first models."""
    usual = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 256}
    stated = write_gguf(tmp_path / "stated.gguf", "minicpm", golden, **usual)
    silent = {"embedding_scale": 0.0, "residual_scale": 0.0, "logit_scale": 0.0}
    old = write_gguf(tmp_path / "old.gguf", "minicpm", golden, keys=silent)
    convert(stated, tmp_path / "a.gguf", type="copy")
    convert(old, tmp_path / "b.gguf", type="copy")
    with GGUFFile(tmp_path / "a.gguf") as a, GGUFFile(tmp_path / "b.gguf") as b:
        assert a.metadata.keys() == b.metadata.keys()
        epsilon = "llama.attention.layer_norm_rms_epsilon"
        assert a.metadata[epsilon] == pytest.approx(b.metadata[epsilon], rel=1e-6)
        for name, tensor in a.tensors.items():
            found = b.tensors[name].data.view(np.float32)
            np.testing.assert_allclose(found, tensor.data.view(np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"embedding_scale": float("nan")}, r"granite\.embedding_scale is nan; a number is needed"),
        ({"residual_scale": -0.2}, r"granite\.residual_scale is -0\.2; it must be from 1e-06"),
        ({"logit_scale": 1e30}, r"granite\.logit_scale is 1e\+30; it must be from 1e-06"),
        ({"attention.scale": float("inf")}, r"granite\.attention\.scale is inf"),
        ({"residual_scale": 1e-4}, "the norm's epsilon is"),
        ({"rope.scaling.finetuned": False}, "a Granite without rotary positions"),
    ],
)
def test_multipliers_that_are_none(
    keys: dict[str, Any], message: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Hostile numbers are told by their keys."""
    path = write_gguf(tmp_path / "own.gguf", "granite", golden, keys=keys)
    with pytest.raises(EdgellamaError, match=message) as caught:
        convert(path, tmp_path / "llama.gguf", type="copy")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_magnitudes_that_cancel_out() -> None:
    """A magnitude that becomes 1 with the multiplier of scores is not kept as it was."""
    values = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.scaling.attn_factor": 0.5}
    items = {f"granite.{key}": metadata.number(value) for key, value in values.items()}
    items["general.architecture"] = metadata.text("granite")
    keys = ConfigKeys({key: item.value for key, item in items.items()})
    found = GGUFMultipliers(embedding=1, residual=1, scores=4, logits=1).items(keys, items)
    assert found.keys() == {"general.architecture", "granite.attention.layer_norm_rms_epsilon"}


def test_blocks_that_cannot_be_multiplied(golden: dict[str, Any], tmp_path: Path) -> None:
    """An embedding whose blocks have no scales of 16 bits is refused."""
    path = write_gguf(tmp_path / "own.gguf", "granite", golden, quantized="MXFP4")
    with pytest.raises(UnsupportedModelError, match="stored as MXFP4 and cannot be multiplied"):
        convert(path, tmp_path / "llama.gguf", type="copy")


def test_what_to_do_is_said(golden: dict[str, Any], tmp_path: Path) -> None:
    """Whoever runs such a file learns how it becomes one that runs."""
    path = write_gguf(tmp_path / "own.gguf", "phi3", golden)
    with GGUFFile(path) as file, pytest.raises(UnsupportedModelError) as caught:
        Engine(file)
    assert "edgellama convert OLD.gguf NEW.gguf --type copy" in caught.value.in_terminal


def test_a_tensor_without_a_place(golden: dict[str, Any], tmp_path: Path) -> None:
    """A name of one word is told as what no Llama has."""
    path = write_gguf(tmp_path / "own.gguf", "qwen2", golden, extra=["extra"])
    with pytest.raises(ModelFileError, match=r"own\.gguf: tensor 'extra' is of no Llama"):
        convert(path, tmp_path / "llama.gguf", type="copy")


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 3}, {"num_attention_heads": 16}])
def test_sizes_that_contradict_the_tensors(
    changes: dict[str, int], golden: dict[str, Any], tmp_path: Path
) -> None:
    """Damaged sizes are told in a line, whatever they are."""
    for name in ("qwen2", "phi3"):
        path = write_gguf(tmp_path / f"{name}.gguf", name, golden, **changes)
        with pytest.raises(ModelFileError, match=r"\.gguf: ") as caught:
            convert(path, tmp_path / "llama.gguf", type="copy")
        assert "\n" not in str(caught.value)
