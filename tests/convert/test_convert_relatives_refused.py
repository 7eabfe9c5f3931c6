"""Relatives of a Llama that cannot be one: settings without a place, damage, windows; and what
is made of the few tensors that change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.family_member import write_safetensors
from reference.relatives import drawn, write_relative

from edgellama.convert import convert
from edgellama.quant.errors import EdgellamaError, ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile

PANGU = {"architectures": ["PanguEmbeddedForCausalLM"]}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What transformers computed, and the settings of each model."""
    return dict(np.load(DATA / "relatives_golden.npz"))


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            ModelFileError,
            "layer_types has sliding_attention, and no window is in use",
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention", "chunked_attention"]},
            ModelFileError,
            "layer_types is .*allowed: 2 times full_attention or sliding_attention",
        ),
        ("chatglm", {"rmsnorm": None}, UnsupportedModelError, "the first ChatGLM has LayerNorm"),
        ("chatglm", {"kv_channels": 6}, ModelFileError, "kv_channels is 6; allowed: a multiple"),
        (
            "chatglm",
            {"_name_or_path": "THUDM/chatglm2-6b-32k"},
            ModelFileError,
            "rope_ratio is 50; allowed: 1 for a ChatGLM 2",
        ),
        (
            "chatglm",
            {"apply_residual_connection_post_layernorm": True},
            ModelFileError,
            "apply_residual_connection_post_layernorm is True; allowed: false",
        ),
        ("qwen", {"rotary_pct": 0.5}, ModelFileError, "rotary_pct is 0.5; allowed: 1"),
        ("qwen", {"intermediate_size": 95}, ModelFileError, "size is 95; allowed: an even number"),
        ("cwm", {"layer_types": ["full_attention"]}, ModelFileError, "layer_types is .*: 5 times"),
        ("ministral", {"sliding_window": 0}, ModelFileError, "sliding_window is 0"),
        (
            "phi3-long",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "long_factor": [1],
                },
                "partial_rotary_factor": 0.75,
            },
            ModelFileError,
            "short_factor of positions has 1 numbers; needed: 3",
        ),
        (
            "phi3-long",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1, 0, "x"]}},
            ModelFileError,
            "short_factor is of type list; allowed: a list of numbers above 0",
        ),
        (
            "phi3",
            {"rope_parameters": None, "partial_rotary_factor": 2},
            ModelFileError,
            "partial_rotary_factor is 2",
        ),
        (
            "phi3-long",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1, 2, 3, 1e-50],
                    "long_factor": [1],
                }
            },
            ModelFileError,
            "short_factor of positions is 1e-50 to 3; needed: what 32 bits hold",
        ),
        (
            "phi3-long",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1, 2, 3, 4]}},
            ModelFileError,
            "long_factor is missing; allowed: a list of numbers above 0",
        ),
        ("phi3", {"intermediate_size": 40}, ModelFileError, "gate_up_proj.* needed: 80 rows"),
        ("phi3", {"num_key_value_heads": 3}, ModelFileError, "a divisor of num_attention_heads 4"),
        ("internlm2", {"num_key_value_heads": 4}, ModelFileError, "wqkv.* needed: 96 rows"),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 1, 1]}, ModelFileError, "or 0 for each 4th"),
        ("granite4", {"num_local_experts": 4}, UnsupportedModelError, ": 4 experts cannot be"),
        (
            "granite4",
            {"layer_types": ["attention", "mamba"]},
            UnsupportedModelError,
            "without experts, all layers of which are attention",
        ),
        (
            "granite4",
            {"position_embedding_type": None},
            UnsupportedModelError,
            "attention with rotary positions",
        ),
        ("granite", {"embedding_multiplier": 0}, ModelFileError, "embedding_multiplier is 0"),
        ("granite", {"embedding_multiplier": 1e-200}, ModelFileError, "from 1e-06 to 1e.06"),
        ("granite", {"logits_scaling": "8"}, ModelFileError, "logits_scaling is '8'"),
        ("granite", {"residual_multiplier": float("nan")}, ModelFileError, "multiplier is nan"),
        ("minicpm", {"scale_depth": float("inf")}, ModelFileError, "scale_depth is inf"),
        ("minicpm", {"dim_model_base": 0}, ModelFileError, "dim_model_base is 0"),
        ("teleflm", {"output_mult": 0}, ModelFileError, "output_mult is 0"),
        ("hyperclovax", {"logits_scaling": 0}, ModelFileError, "logits_scaling is 0"),
        ("hyperclovax", {"use_post_norm": None}, UnsupportedModelError, "use_post_norm"),
        ("telechat", {"training_seqlen": 0}, ModelFileError, "training_seqlen is 0"),
        ("telechat", {"base_seqlen": -1}, ModelFileError, "base_seqlen is -1"),
        ("telechat", {"n_head": 0}, ModelFileError, "num_attention_heads is 0"),
        ("telechat", {"head_dim": 2}, ModelFileError, "heads of more than 2 elements"),
        ("telechat", {"num_key_value_heads": 4}, ModelFileError, "key_value.* needed: 64 rows"),
        ("baichuan", {"num_attention_heads": 1 << 20}, ModelFileError, "allowed: up to 65536"),
        ("baichuan", {"head_dim": 16}, ModelFileError, "W_pack.* needed: 192 rows"),
        ("baichuan2", {"max_position_embeddings": None}, UnsupportedModelError, "ALiBi"),
        ("baichuan2", {"hidden_size": 5120}, UnsupportedModelError, "Baichuan 13B"),
        ("internlm", {"rotary": {"type": "other"}}, ModelFileError, "rotary.type is 'other'"),
        ("internlm", {"rotary": {"base": 0}}, ModelFileError, "rotary.base is 0"),
        ("internlm", {"rotary": [1]}, ModelFileError, "allowed: an object"),
        ("exaone", {"num_layers": None}, ModelFileError, "num_hidden_layers is missing"),
        ("exaone", {"activation_function": "gelu"}, UnsupportedModelError, "function 'gelu'"),
        ("glm", {"partial_rotary_factor": 0.2, "rope_parameters": None}, ModelFileError, "is 0.2"),
        ("index", {"norm_head": 2}, ModelFileError, "norm_head is 2; allowed: true or false, 1"),
        ("index", {"norm_head": None}, ModelFileError, "norm_head is missing; allowed: true"),
        (
            "xverse",
            PANGU | {"rotary_percent": 0.25},
            ModelFileError,
            "rotary_percent is 0.25; allowed: 1",
        ),
        ("xverse", PANGU | {"param_sink_number": 128}, ModelFileError, "param_sink_number is 128"),
        (
            "xverse",
            PANGU | {"layer_types": ["full_attention", "sliding_attention"]},
            UnsupportedModelError,
            "openPangu with windows",
        ),
        ("telechat", {"use_mup": True}, ModelFileError, "use_mup is True; allowed: false"),
        ("telechat", {"embed_layernorm": True}, ModelFileError, "embed_layernorm is True"),
        ("mobilellm", {"layer_sharing": 2}, ModelFileError, "layer_sharing is 2"),
        ("mobilellm", {"num_hidden_layers": 1}, ModelFileError, r"layers\.1\..* is of layer 2; "),
        ("xverse", {"edgellama_rotated": 3}, ModelFileError, "rotate 3 of 8 elements of a head"),
        ("glm", {"intermediate_size": 40}, ModelFileError, "gate_up_proj.* needed: 80 rows"),
    ],
)
def test_what_is_no_llama(
    name: str,
    changes: dict[str, Any],
    error: type[EdgellamaError],
    message: str,
    golden: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Settings without a place in a Llama, or that contradict the tensors, are told in a line."""
    folder = write_relative(tmp_path / name, name, golden, **changes)
    with pytest.raises(error, match=message) as caught:
        convert(folder, tmp_path / "model.gguf", type="f32")
    assert "\n" not in str(caught.value) and not (tmp_path / "model.gguf").exists()


def rewrite(
    folder: Path, name: str, golden: dict[str, Any], change: Callable[[dict[str, Any]], Any]
) -> None:
    """Change what the checkpoint's file holds."""
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    change(weights)
    write_safetensors(folder / "model.safetensors", weights)


LAYER = "transformer.h.0."
DAMAGE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "tensor model.layers.0.self_attn.k_proj.weight is missing|tensors .* are missing": (
        "telechat",
        lambda w: w.pop(f"{LAYER}self_attention.key_value.weight"),
    ),
    "input_layernorm.weight is missing": ("exaone", lambda w: w.pop(f"{LAYER}ln_1.weight")),
    "are both 'model.layers.0.mlp.up_proj.weight'": (
        "exaone",
        lambda w: w.update({f"{LAYER}mlp.up_proj.weight": w[f"{LAYER}mlp.c_fc_1.weight"]}),
    ),
    "q_proj.weight' is there twice": (
        "baichuan",
        lambda w: w.update({"model.layers.0.self_attn.q_proj.weight": np.ones((32, 32), "f2")}),
    ),
    "W_pack.weight' has shape 4; needed: 96 rows": (
        "baichuan",
        lambda w: w.update({"model.layers.0.self_attn.W_pack.weight": np.ones(4, np.float16)}),
    ),
    "lm_head.weight .* is not finite|output.weight": (
        "baichuan2",
        lambda w: w["lm_head.weight"].__setitem__((3, 4), np.nan),
    ),
    "gate_up_proj.bias' has shape 95; needed: 96 rows, of gate_proj, up_proj": (
        "glm",
        lambda w: w.update({"model.layers.0.mlp.gate_up_proj.bias": np.ones(95, np.float16)}),
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_tensors(message: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """What is missing, misshapen, there twice or not a number is told in a line."""
    name, change = DAMAGE[message]
    folder = write_relative(tmp_path / name, name, golden)
    rewrite(folder, name, golden, change)
    with pytest.raises(EdgellamaError, match=message) as caught:
        convert(folder, tmp_path / "model.gguf", type="f32")
    assert "\n" not in str(caught.value)


def test_rows_of_an_output_that_are_zero(golden: dict[str, Any], tmp_path: Path) -> None:
    """Baichuan 2's output divides each row by its length, and leaves one that has none."""
    folder = write_relative(tmp_path / "baichuan2", "baichuan2", golden)
    rewrite(folder, "baichuan2", golden, lambda w: w["lm_head.weight"].__setitem__(3, 0))
    convert(folder, tmp_path / "model.gguf", type="f32")
    with GGUFFile(tmp_path / "model.gguf") as file:
        rows = file.tensors["output.weight"].data.view(np.float32).reshape(-1, 32)
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths[3] == 0
    np.testing.assert_allclose(np.delete(lengths, 3), 1, rtol=1e-6)


def test_layers_that_guess_further_tokens(golden: dict[str, Any], tmp_path: Path) -> None:
    """They are left out with a note, and nothing else changes."""
    folder = write_relative(tmp_path / "mimo", "mimo", golden)
    assert convert(folder, tmp_path / "plain.gguf", type="f32").notes == ()
    extra = {"model.mtp_layers.0.input_proj.weight": np.ones((32, 64), np.float16)}
    rewrite(folder, "mimo", golden, lambda w: w.update(extra))
    report = convert(folder, tmp_path / "model.gguf", type="f32")
    assert report.notes[0].startswith("1 tensors of model.mtp_layers.* are left out")
    assert (tmp_path / "model.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


@pytest.mark.parametrize(
    ("name", "context", "window", "changes"),
    [
        ("qwen2-windows", 32, None, {}),
        ("qwen2-windows", 256, None, {"sliding_window": None, "layer_types": None}),
        ("qwen2-windows", 256, None, {"use_sliding_window": False, "layer_types": None}),
        ("qwen2-windows", 256, 32, {"max_window_layers": 0, "layer_types": None}),
        ("qwen2-windows", 256, None, {"sliding_window": 512}),
        ("cwm", 32, None, {"layer_types": None}),
        ("ministral", 256, 8, {"layer_types": None}),
        ("ministral", 256, None, {"layer_types": None, "sliding_window": None}),
        (
            "smollm3",
            8,
            None,
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": None},
        ),
    ],
)
def test_windows(
    name: str,
    context: int,
    window: int | None,
    changes: dict[str, Any],
    golden: dict[str, Any],
    tmp_path: Path,
) -> None:
    """A window of all layers is kept; one of some layers ends the context, with a note."""
    report = convert(write_relative(tmp_path / name, name, golden, **changes), tmp_path / "x.gguf")
    is_cut = context < 256
    assert any("a window that GGUF has no keys for" in note for note in report.notes) == is_cut
    with GGUFFile(tmp_path / "x.gguf") as file:
        own = file.metadata["general.architecture"]
        assert file.metadata[f"{own}.context_length"] == context
        assert file.metadata.get(f"{own}.attention.sliding_window") == window


def test_contexts_of_telechat(golden: dict[str, Any], tmp_path: Path) -> None:
    """They end where positions are stretched further, if the model is made for longer ones."""
    for length, context in ((256, 200), (128, 128)):
        folder = write_relative(tmp_path / f"{length}", "telechat", golden, seq_length=length)
        report = convert(folder, tmp_path / f"{length}.gguf")
        cut = [note for note in report.notes if "positions of longer texts are scaled" in note]
        assert len(cut) == (context < length)
        with GGUFFile(tmp_path / f"{length}.gguf") as file:
            assert file.metadata["llama.context_length"] == context


def test_layers_whose_numbers_are_written_in_two_ways(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    """A second tensor of a layer that runs twice is refused, and none is lost."""
    folder = write_relative(tmp_path / "mobilellm", "mobilellm", golden)
    extra = {"model.layers.00.mlp.up_proj.weight": np.ones((48, 32), np.float16)}
    rewrite(folder, "mobilellm", golden, lambda w: w.update(extra))
    with pytest.raises(EdgellamaError, match=r"layers\.00\.mlp\.up_proj\.weight is of no Llama"):
        convert(folder, tmp_path / "model.gguf", type="f32")


def test_windows_that_no_layer_has(golden: dict[str, Any], tmp_path: Path) -> None:
    """Where every layer says that it sees all, or the first with a window comes behind the last."""
    kinds = {"layer_types": ["full_attention"] * 2, "max_window_layers": 0}
    for number, changes in enumerate([kinds, {"layer_types": None, "max_window_layers": None}]):
        own = {"use_sliding_window": True, "sliding_window": 8} | changes
        folder = write_relative(tmp_path / f"qwen2-{number}", "qwen2", golden, **own)
        convert(folder, tmp_path / f"{number}.gguf", type="f32")
