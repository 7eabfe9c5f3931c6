"""Adapters: a GGUF file adds to each matrix what PEFT's settings say, and variants are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants
from raw_files.torch_bytes import archive, dictionary, storage, tensor, whole
from reference.tiny_adapter import (
    MODULES,
    adapter_tensors,
    added_weights,
    random_factors,
    write_adapter,
    write_base_config,
)
from reference.tiny_models import Array, TinyLlama, write_tiny_llama

from edgellama.convert.adapter.lora import convert_lora
from edgellama.engine.engine import Engine
from edgellama.quant.errors import (
    ConversionError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(width=64, heads=4, kv_heads=2, layers=2, feed_forward=96)
NAMES = [f"blk.{layer}.{part}" for layer in range(2) for part in MODULES]
PREFIX = "base_model.model.model.layers.0.self_attn."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The base model's config.json."""
    return write_base_config(tmp_path / "base", MODEL)


def read_adapter(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Metadata, and tensors as f32."""
    reader = GGUFReader(path)
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = {t.name: quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return fields, tensors


def added_by(path: Path) -> dict[str, Array]:
    """What llama.cpp adds to each matrix: alpha / rank * B A."""
    fields, tensors = read_adapter(path)
    added = {}
    for name, a in tensors.items():
        if name.endswith(".weight.lora_a"):
            b = tensors[name[:-1] + "b"].astype(np.float64)
            added[name.removesuffix(".weight.lora_a")] = (
                fields["adapter.lora.alpha"] / len(a) * b @ a.astype(np.float64)
            )
    return added


def check_added(path: Path, expected: dict[str, Array], tolerance: float = 1e-5) -> None:
    """The file adds what it must, to exactly these matrices."""
    added = added_by(path)
    assert set(added) == set(expected)
    for name, delta in expected.items():
        np.testing.assert_allclose(added[name], delta, rtol=0, atol=tolerance)


def test_heads_that_stay_in_halves(tmp_path: Path) -> None:
    """Of Qwen 3 the rows stay as PEFT has them, by folder and by file, and the model takes them."""
    model = replace(MODEL, architecture="qwen3", head_size=24)
    named = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    factors = random_factors(model, ["blk.0.attn_q", "blk.1.attn_k"], {"": 4})
    folder = write_adapter(tmp_path / "lora", adapter_tensors(factors))
    file_path = write_tiny_llama(tmp_path / "qwen3.gguf", model)
    for base in (write_base_config(tmp_path / "base", model, **named), file_path):
        path = convert_lora(folder, base=base, type="f32", overwrite=True).path
        fields, tensors = read_adapter(path)
        assert fields["general.architecture"] == "qwen3"
        for name, (_, b) in factors.items():
            np.testing.assert_array_equal(tensors[f"{name}.weight.lora_b"], b)
    with GGUFFile(file_path) as file, Engine(file) as engine:
        assert engine.adapters.load(path).name == "lora-lora-f32"
    plain = write_tiny_llama(tmp_path / "plain.gguf", replace(model, architecture="llama"))
    with (
        GGUFFile(plain) as file,
        Engine(file) as engine,
        pytest.raises(ModelFileError, match=r"'qwen3', whose queries .* order than .*plain\.gguf"),
    ):
        engine.adapters.load(path)


def test_all_matrices(tmp_path: Path, base: Path) -> None:
    """Every matrix of every layer and the output get alpha / rank * B A, in GGUF's order."""
    factors = random_factors(MODEL, [*NAMES, "output"], {"": 4})
    folder = write_adapter(tmp_path / "adapter", adapter_tensors(factors))
    report = convert_lora(folder, base=base)
    assert report.path == tmp_path / "adapter-lora-f32.gguf"
    assert (report.num_matrices, report.ranks) == (15, (4,))
    check_added(report.path, added_weights(MODEL, factors, dict.fromkeys(factors, 2.0)))


def test_layout_is_that_of_llama_cpp(tmp_path: Path, base: Path) -> None:
    """Keys, tensor names, shapes and formats are those of convert_lora_to_gguf."""
    factors = random_factors(MODEL, ["blk.1.attn_q"], {"": 4})
    folder = write_adapter(tmp_path / "adapter", adapter_tensors(factors))
    path = convert_lora(folder, tmp_path / "a.gguf", type="F16", base=base).path
    fields, _ = read_adapter(path)
    assert fields == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.name": "adapter",
        "general.base_model.count": 1,
        "general.base_model.0.name": "tiny-llama",
        "general.base_model.0.organization": "someone",
        "general.base_model.0.repo_url": "https://huggingface.co/someone/tiny-llama",
        "general.file_type": 1,
        "general.quantization_version": 2,
    }
    reader = GGUFReader(path)
    assert [(t.name, t.shape.tolist(), t.tensor_type.name) for t in reader.tensors] == [
        ("blk.1.attn_q.weight.lora_a", [64, 4], "F16"),
        ("blk.1.attn_q.weight.lora_b", [4, 64], "F16"),
    ]


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_scales(tmp_path: Path, base: Path, rank_stabilised: bool) -> None:
    """Ranks and alphas that differ by module, and rsLoRA's square root, all come out right."""
    ranks = {"": 4, "blk.0.attn_v": 2, "blk.1.ffn_down": 9}
    factors = random_factors(MODEL, NAMES, ranks)
    folder = write_adapter(
        tmp_path / "adapter",
        adapter_tensors(factors),
        use_rslora=rank_stabilised,
        rank_pattern={"model.layers.0.self_attn.v_proj": 2, "^model.layers.1.mlp.down_proj": 9},
        alpha_pattern={"v_proj": 3, "^model.layers.1.mlp.down_proj": 5.5, "proj": 100},
    )
    path = convert_lora(folder, base=base).path
    alphas = {"blk.0.attn_v": 3, "blk.1.attn_v": 3, "blk.1.ffn_down": 5.5}
    scales = {}
    for name, (a, _) in factors.items():
        scales[name] = alphas.get(name, 8) / (len(a) ** 0.5 if rank_stabilised else len(a))
    check_added(path, added_weights(MODEL, factors, scales))


def test_plain_factors_keep_their_bits(tmp_path: Path, base: Path) -> None:
    """Where no scale is folded in, the factors are written as they are."""
    factors = random_factors(MODEL, ["blk.0.ffn_up"], {"": 4})
    folder = write_adapter(tmp_path / "adapter", adapter_tensors(factors))
    _, tensors = read_adapter(convert_lora(folder, base=base).path)
    np.testing.assert_array_equal(tensors["blk.0.ffn_up.weight.lora_b"], factors["blk.0.ffn_up"][1])


@pytest.mark.parametrize(
    ("type_name", "tolerance"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 2e-2)]
)
def test_types(tmp_path: Path, base: Path, type_name: str, tolerance: float) -> None:
    """Smaller types are close, and rows too short for blocks of q8_0 become f16."""
    factors = random_factors(MODEL, NAMES, {"": 4})
    folder = write_adapter(tmp_path / "adapter", adapter_tensors(factors))
    path = convert_lora(folder, type=type_name, base=base).path
    check_added(path, added_weights(MODEL, factors, dict.fromkeys(factors, 2.0)), tolerance)
    formats = {t.name[-1]: t.tensor_type for t in GGUFReader(path).tensors}
    other = "F16" if type_name == "q8_0" else type_name.upper()
    expected = {"a": type_name.upper(), "b": other}
    assert formats == {key: GGMLQuantizationType[value] for key, value in expected.items()}


def test_embedding(tmp_path: Path, base: Path) -> None:
    """The embedding's first factor is turned, so that a token's row can be looked up."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, MODEL.vocab_size)).astype(np.float32)
    b = rng.normal(size=(MODEL.width, 4)).astype(np.float32)
    module = "base_model.model.model.embed_tokens"
    tensors = {
        f"{module}.lora_embedding_A": a,
        f"{module}.lora_embedding_B": b,
        f"{module}.base_layer.weight": np.zeros((MODEL.vocab_size, MODEL.width), np.float32),
    }
    folder = write_adapter(tmp_path / "adapter", tensors)
    _, written = read_adapter(convert_lora(folder, base=base).path)
    np.testing.assert_array_equal(written["token_embd.weight.lora_a"], a.T)
    np.testing.assert_array_equal(written["token_embd.weight.lora_b"], b)
    assert len(written) == 2


def test_weights_of_torch(tmp_path: Path, base: Path) -> None:
    """adapter_model.bin gives the same tensors as the safetensors file."""
    tensors = adapter_tensors(random_factors(MODEL, NAMES, {"": 4}))
    folder = write_adapter(tmp_path / "adapter", tensors)
    _, expected = read_adapter(convert_lora(folder, tmp_path / "1.gguf", base=base).path)
    (folder / "adapter_model.safetensors").unlink()
    pickled = {
        name: tensor(storage("FloatStorage", str(index), values.size), values.shape)
        for index, (name, values) in enumerate(tensors.items())
    }
    contents = {str(index): values.tobytes() for index, values in enumerate(tensors.values())}
    (folder / "adapter_model.bin").write_bytes(archive(whole(dictionary(pickled)), contents))
    _, written = read_adapter(convert_lora(folder, tmp_path / "2.gguf", base=base).path)
    assert set(written) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(written[name], values)


def test_base_can_be_a_gguf_file_or_what_the_adapter_names(tmp_path: Path, base: Path) -> None:
    """All ways to say which base model it is give the same tensors."""
    factors = random_factors(MODEL, NAMES, {"": 4})
    tensors = adapter_tensors(factors)
    gguf = write_tiny_llama(tmp_path / "base.gguf", MODEL)
    plain = write_adapter(tmp_path / "adapter", tensors)
    named = write_adapter(tmp_path / "named", tensors, base_model_name_or_path=str(base))
    paths = [
        convert_lora(plain, tmp_path / "1.gguf", base=base).path,
        convert_lora(plain, tmp_path / "2.gguf", base=gguf).path,
        convert_lora(named, tmp_path / "3.gguf").path,
    ]
    first, *others = [read_adapter(path)[1] for path in paths]
    for other in others:
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values)


def test_unknown_base_says_what_to_give(tmp_path: Path, base: Path) -> None:
    """A base model that is only a name on a hub, or a wrong --base, is explained."""
    tensors = adapter_tensors(random_factors(MODEL, NAMES, {"": 4}))
    folder = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(
        ModelNotFoundError, match=r"'someone/tiny-llama', needed .* is not .* pass base="
    ):
        convert_lora(folder)
    with pytest.raises(
        ModelNotFoundError, match="is no base model; needed: a folder with a config"
    ):
        convert_lora(folder, base=tmp_path)
    config = json.loads((base / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel"):
        convert_lora(folder, base=base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; supported: 'LORA'"),
        ({"use_dora": True}, "use_dora is True, DoRA"),
        ({"bias": "all"}, "bias is 'all', trained biases"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is of type list, modules that were"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"alpha_pattern": {".*_proj": 3}}, r"alpha_pattern.'\.\*_proj' is a pattern"),
    ],
)
def test_variants_are_refused(
    tmp_path: Path, base: Path, settings: dict[str, Any], message: str
) -> None:
    """What a GGUF adapter cannot hold is refused by the name of its setting."""
    tensors = adapter_tensors(random_factors(MODEL, NAMES, {"": 4}))
    folder = write_adapter(tmp_path / "adapter", tensors, **settings)
    with pytest.raises(UnsupportedModelError, match=message):
        convert_lora(folder, base=base)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "base"}


@pytest.mark.parametrize("alpha", [0, -1, "8", None, True, float("nan"), 1e-20, 1e20])
def test_wrong_alphas_are_refused(tmp_path: Path, base: Path, alpha: object) -> None:
    """An alpha that is no positive number would scale by nonsense."""
    tensors = adapter_tensors(random_factors(MODEL, NAMES, {"": 4}))
    folder = write_adapter(tmp_path / "adapter", tensors, lora_alpha=alpha)
    with pytest.raises(ModelFileError, match="lora_alpha"):
        convert_lora(folder, base=base)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q_proj.lora_B.weight": None}, ModelFileError, "'model.layers.0.self_attn.q_proj' has 1"),
        ({"q_proj.lora_A.weight": (4, 60)}, ModelFileError, "4 x 60 and 64 x 4; needed: rank x 64"),
        ({"q_proj.lora_B.weight": (32, 4)}, ModelFileError, "4 x 64 and 32 x 4"),
        ({"q_proj.lora_B.weight": (64, 3)}, ModelFileError, "4 x 64 and 64 x 3"),
        ({"q_proj.lora_A.weight": (64,)}, ModelFileError, "shapes 64 and 64 x 4"),
        ({"q_proj.lora_magnitude_vector": (64,)}, UnsupportedModelError, "is no factor of LoRA"),
        ({"rotary.lora_A.weight": (4, 64)}, UnsupportedModelError, "rotary' is of no Llama"),
    ],
)
def test_wrong_tensors_are_refused(
    tmp_path: Path,
    base: Path,
    changes: dict[str, tuple[int, ...] | None],
    error: type[Exception],
    message: str,
) -> None:
    """Missing partners, shapes of another model and strange tensors are named; no file is left."""
    tensors = adapter_tensors(random_factors(MODEL, ["blk.0.attn_q"], {"": 4}))
    for name, shape in changes.items():
        if shape is None:
            del tensors[PREFIX + name]
        else:
            tensors[PREFIX + name] = np.ones(shape, np.float32)
    folder = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(error, match=message):
        convert_lora(folder, base=base)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "base"}


def test_matrices_that_the_base_lacks(tmp_path: Path) -> None:
    """Layers beyond the base's, and the embedding or output of a tied model, are refused."""
    tied = TinyLlama(tied=True)
    base = write_base_config(tmp_path / "base", tied)
    deep = TinyLlama(layers=3)
    for name, model in (("blk.2.attn_q", deep), ("output", TinyLlama())):
        tensors = adapter_tensors(random_factors(model, [name], {"": 4}))
        folder = write_adapter(tmp_path / name, tensors)
        with pytest.raises(ModelFileError, match=f"{name}.weight, a matrix that the base model"):
            convert_lora(folder, base=base)
    module = "base_model.model.model.embed_tokens.lora_embedding_"
    tensors = {f"{module}A": np.ones((4, 288), "f4"), f"{module}B": np.ones((64, 4), "f4")}
    folder = write_adapter(tmp_path / "embedding", tensors)
    with pytest.raises(UnsupportedModelError, match="an embedding that is the output too"):
        convert_lora(folder, base=base)


def test_two_modules_of_one_matrix_are_refused(tmp_path: Path, base: Path) -> None:
    """A matrix that is adapted under two names is a damaged file."""
    tensors = adapter_tensors(random_factors(MODEL, ["blk.0.attn_q"], {"": 4}))
    tensors |= {name.replace(".model.model.", ".model."): t.copy() for name, t in tensors.items()}
    folder = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(ModelFileError, match=r"are both blk\.0\.attn_q\.weight"):
        convert_lora(folder, base=base)


def test_wrong_numbers_are_refused(tmp_path: Path, base: Path) -> None:
    """NaN never reaches the file, nor does what is too large for the type."""
    for value, type_name, error, message in (
        (np.nan, "f32", ModelFileError, "holds NaN or Inf"),
        (1e6, "f16", ConversionError, "1e[+]06, too large for f16"),
        (1e6, "q8_0", ConversionError, "1e[+]06, too large for f16"),
    ):
        tensors = adapter_tensors(random_factors(MODEL, ["blk.0.attn_q"], {"": 4}))
        tensors[f"{PREFIX}q_proj.lora_B.weight"][3, 1] = value
        folder = write_adapter(tmp_path / "adapter", tensors)
        with pytest.raises(error, match=message):
            convert_lora(folder, tmp_path / "a.gguf", type=type_name, base=base)
        assert not (tmp_path / "a.gguf").exists()


def test_no_adapter(tmp_path: Path, base: Path) -> None:
    """A folder without settings or without weights, and an unknown type, are explained."""
    with pytest.raises(
        ModelNotFoundError, match=r"holds no adapter_config\.json; needed: a folder"
    ):
        convert_lora(base, base=base)
    folder = write_adapter(tmp_path / "adapter", {})
    with pytest.raises(ModelFileError, match="holds 0 tensors"):
        convert_lora(folder, base=base)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="holds no weights; needed: adapter_model"):
        convert_lora(folder, base=base)
    with pytest.raises(InvalidOptionError, match="type is 'q4_0'; allowed: f32, f16, bf16, q8_0"):
        convert_lora(folder, type="q4_0", base=base)
