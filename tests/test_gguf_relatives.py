"""GGUF files of Qwen 2 and Phi-3, as llama.cpp's converter writes them, as files of a Llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from reference.relatives import drawn
from reference.tiny_vocabulary import TinyVocabulary

from edgellama.convert import convert
from edgellama.engine.engine import Engine
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile

KINDS = {"qwen2": "QWEN2", "phi3": "PHI3", "phi3-long": "PHI3"}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed, and the settings of each model."""
    return dict(np.load(Path(__file__).parent / "data" / "relatives_golden.npz"))


def write_gguf(
    path: Path, name: str, golden: dict[str, Any], *, quantized: bool = False, **changes: Any
) -> Path:
    """The model in its own architecture, rows as in Hugging Face; ``changes`` of its config."""
    kind = gguf.MODEL_ARCH[KINDS[name]]
    config = json.loads(str(golden[f"{name}/config"])) | changes
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    heads = config["num_attention_heads"]
    rope = config["rope_parameters"] or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta", 1e4))
    if kind is gguf.MODEL_ARCH.PHI3:
        size = config["hidden_size"] // heads
        writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
        writer.add_sliding_window(config["sliding_window"] or 0)
    if "short_factor" in rope:
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        ratio = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(ratio) / np.log(original))))
        for length in ("short", "long"):
            factors = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)
    TinyVocabulary(config["vocab_size"]).write(writer, chat_template=None, add_bos=True)
    for extra in config.get("extra", ()):
        writer.add_tensor(extra, np.ones(4, np.float32))
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for tensor, values in drawn(name, json.loads(str(golden[f"{name}/shapes"]))).items():
        own = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        assert own is not None
        is_quantized = quantized and values.ndim == 2 and values.shape[1] % 32 == 0
        stored = gguf.GGMLQuantizationType[("F32", "Q8_0")[is_quantized]]
        data = gguf.quants.quantize(values.astype(np.float32), stored)
        writer.add_tensor(own, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", KINDS)
def test_logits(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The copy is a Llama with the logits of transformers."""
    path = write_gguf(tmp_path / "own.gguf", name, golden)
    report = convert(path, tmp_path / "llama.gguf", type="copy")
    notes = [note for note in report.notes if "the context is 64 tokens" in note]
    assert len(notes) == (name == "phi3-long")
    tokens = golden[f"{name}/tokens"].tolist()
    with GGUFFile(tmp_path / "llama.gguf") as file, Engine(file) as engine:
        assert file.metadata["general.architecture"] == "llama"
        context = {"phi3-long": 64}.get(name, 256)
        assert file.metadata["llama.context_length"] == context
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"), logits="all")
    expected = golden[f"{name}/logits"]
    np.testing.assert_allclose(logits[-len(expected) :], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["qwen2", "phi3"])
def test_nothing_is_quantized_anew(name: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """Rows in blocks are the same bytes in another order."""
    path = write_gguf(tmp_path / "own.gguf", name, golden, quantized=True)
    convert(path, tmp_path / "llama.gguf", type="copy")

    def rows(source: Path) -> list[bytes]:
        with GGUFFile(source) as file:
            found = [t for t in file.tensors.values() if t.format.name == "Q8_0"]
            return sorted(row.tobytes() for t in found for row in t.data.reshape(t.shape[0], -1))

    assert rows(tmp_path / "llama.gguf") == rows(path)


def test_what_to_do_is_said(golden: dict[str, Any], tmp_path: Path) -> None:
    """Whoever runs such a file learns how it becomes one that runs."""
    path = write_gguf(tmp_path / "own.gguf", "qwen2", golden)
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
