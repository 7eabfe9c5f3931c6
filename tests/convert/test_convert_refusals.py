"""Hugging Face folders that are no Llama, incomplete or damaged: one clear line for each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import family_tokenizers as tokenizers
from reference.family import MEMBERS
from reference.family_member import write_safetensors

from edgellama.convert import plan
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.model.strangers import STRANGERS
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.engine.weights.weights import load_weights
from edgellama.quant.errors import EdgellamaError, ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig
from edgellama.text.tokenizer import load_tokenizer

BY_NAME = {member.name: member for member in MEMBERS}
NUM_MUTATIONS = 150
MAX_ITEMS = 12
WRONG_VALUES = (
    *(None, True, 0, -1, 10**30, 1e308, float("nan"), "", "text", "\ud800", [], [None], {}),
    *({"a": 1}, [[["x"]]], [{}], {"0": {}}, "9" * 400),
)


def check_loads(folder: Path) -> None:
    """Plans a conversion, which may fail; what is planned must be what the engine can load."""
    output = folder.parent / "planned.gguf"
    planned = plan(folder, output, type="q8_0")
    (header,) = (file.header for file in planned.files)
    ones = np.ones((planned.num_bytes - len(header)) // 4, "<f4")
    output.write_bytes(header + ones.tobytes())
    try:
        with GGUFFile(output) as model:
            load_weights(model, ModelConfig.from_gguf(model))
            load_tokenizer(model.metadata)
    except EdgellamaError as error:
        raise AssertionError(f"{error} in a file that the converter would write") from error


def described(folder: Path) -> ModelDescription:
    """The description of a folder."""
    with open_checkpoint(folder) as checkpoint:
        return describe(checkpoint)


def with_config(folder: Path, changes: dict[str, Any]) -> Path:
    """Llama 2's folder with another configuration."""
    BY_NAME["llama-2"].write(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("ascii")) | changes), "ascii")
    return folder


FOREIGN: dict[str, dict[str, Any]] = {
    "architecture 'ElsewhereForCausalLM'": {"architectures": ["ElsewhereForCausalLM"]},
    "architecture 'MllamaForConditionalGeneration'": {
        "architectures": ["MllamaForConditionalGeneration"]
    },
    "architecture 'Llama5ForCausalLM'": {"architectures": ["Llama5ForCausalLM"]},
    "model type 'gpt2'": {"architectures": None, "model_type": "gpt2"},
    "activation function 'gelu'": {"hidden_act": "gelu"},
    "a mixture of 8 experts": {"num_local_experts": 8},
    "rotary positions on a part": {"partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize(("what", "changes"), FOREIGN.items(), ids=FOREIGN)
def test_other_models(what: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """What is no Llama is refused by its own name, with what is supported."""
    with pytest.raises(UnsupportedModelError) as caught:
        described(with_config(tmp_path / "model", changes))
    message = str(caught.value).removeprefix(str(tmp_path))
    assert what in message and "\n" not in message and len(message) < 300
    assert (
        "Llama 1 to 3.3, Mistral, Qwen 2.5 and 3, Phi-4 and others, which docs/conversion.md"
        in message
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Llama5ForCausalLM", "supported: LlamaForCausalLM, Llama 1 to 3.3"),
        ("Granite5ForCausalLM", "supported: Granite 3 as GraniteForCausalLM, Llama 1 to 3.3"),
        ("ElsewhereForCausalLM", "supported: Llama 1 to 3.3"),
        ("", "supported: Llama 1 to 3.3"),
    ],
)
def test_architectures_of_like_names(name: str, meant: str, tmp_path: Path) -> None:
    """What has nearly the name of a supported one is told of that."""
    with pytest.raises(UnsupportedModelError) as caught:
        described(with_config(tmp_path / "model", {"architectures": [name]}))
    assert meant in str(caught.value)


@pytest.mark.parametrize("name", STRANGERS)
def test_well_known_architectures(name: str, tmp_path: Path) -> None:
    """One line says what a model computes otherwise, and which models alike can be converted."""
    stranger = STRANGERS[name]
    with pytest.raises(UnsupportedModelError) as caught:
        described(with_config(tmp_path / "model", {"architectures": [name]}))
    message = str(caught.value).removeprefix(str(tmp_path))
    assert f"'{name}' cannot be converted: {stranger.why}; supported: {stranger.instead}" in message
    assert "\n" not in message and len(message) < 300


SCALINGS: dict[str, dict[str, Any]] = {
    "rope scaling 'proportional'": {"rope_type": "proportional", "factor": 4.0},
    "rope scaling 'mrope'": {"type": "mrope"},
    "on a part of each head": {"rope_type": "default", "partial_rotary_factor": 0.5},
    "YaRN without truncate": {"rope_type": "yarn", "factor": 2.0, "truncate": False},
    "differs between kinds of layers": {"full_attention": {"rope_type": "default"}},
}


@pytest.mark.parametrize(("what", "scaling"), SCALINGS.items(), ids=SCALINGS)
def test_other_scalings(what: str, scaling: dict[str, Any], tmp_path: Path) -> None:
    """Positions scaled in a way that GGUF cannot tell are refused."""
    with pytest.raises(UnsupportedModelError, match=what):
        described(with_config(tmp_path / "model", {"rope_scaling": scaling}))


CONTEXT_LENGTHS: dict[str, tuple[int, dict[str, Any]]] = {
    "pretrained length": (32768, {"rope_scaling": {"type": "linear", "factor": 8.0}}),
    "length of its own": (
        16384,
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_sequence_length": 16384},
    ),
    "extended length": (
        16384,
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 16384},
    ),
    "yarn, extended": (
        16384,
        {
            "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 4096},
            "max_position_embeddings": 16384,
        },
    ),
    "yarn, pretrained": (
        16384,
        {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 4096, "factor": 4.0}},
    ),
    # Readers that do not know our key must not believe in more.
    "dynamic": (4096, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
}


@pytest.mark.parametrize(
    ("expected", "changes"), CONTEXT_LENGTHS.values(), ids=CONTEXT_LENGTHS.keys()
)
def test_context_lengths(expected: int, changes: dict[str, Any], tmp_path: Path) -> None:
    """The context is what scaling was meant for, whichever length config.json kept."""
    metadata = described(with_config(tmp_path / "model", changes)).metadata
    assert metadata["llama.context_length"].value == expected


SIZES: dict[str, dict[str, Any]] = {
    "vocab_size is -3; allowed: a whole number": {"vocab_size": -3},
    "hidden_size is 'wide'": {"hidden_size": "wide"},
    "num_hidden_layers is None": {"num_hidden_layers": None},
    "tensor model.embed_tokens.weight has shape 400 x 32; needed: 500 x 32": {"vocab_size": 500},
    "tensor model.layers.0.mlp.gate_proj.weight has shape 48 x 32; needed: 49 x 32": {
        "intermediate_size": 49
    },
    "tensor model.layers.0.self_attn.k_proj.weight has shape 32 x 32; needed: 16 x 32": {
        "num_key_value_heads": 2
    },
    "is of layer 1; allowed: 0 to 0": {"num_hidden_layers": 1},
    "tensors model.layers.2.input_layernorm.weight, model.layers.2.self_attn.q_proj.weight, "
    "model.layers.2.self_attn.k_proj.weight, model.layers.2.self_attn.v_proj.weight, "
    "model.layers.2.self_attn.o_proj.weight and 4 more are missing": {"num_hidden_layers": 3},
    "4 query heads cannot share 3 key heads evenly": {"num_key_value_heads": 3},
    "100000 layers; needed: 1 to 4096": {"num_hidden_layers": 100000},
    "num_attention_heads is 5; allowed: a divisor of hidden_size 32": {"num_attention_heads": 5},
    "rms_norm_eps is 0; allowed: a number above 0": {"rms_norm_eps": 0},
    "rope_scaling is 4; allowed: an object": {"rope_scaling": 4},
    "rope_scaling.factor is missing": {"rope_scaling": {"type": "linear"}},
    "rope_scaling.factor is 0.5; allowed: a number from 1": {
        "rope_scaling": {"type": "dynamic", "factor": 0.5}
    },
    "rope_scaling.factor is 1e-29; allowed: a number from 1": {
        "rope_scaling": {"type": "linear", "factor": 1e-29}
    },
    "4096 positions scaled by the factor 1e+29 are a context of 4.096e+32 tokens; allowed: 1 to": {
        "rope_scaling": {"type": "linear", "factor": 1e29}
    },
    "4096 positions scaled by the factor 1e-29 are": {
        "rope_scaling": {"type": "yarn", "factor": 1e-29}
    },
    "rope_scaling.extrapolation_factor is 2; allowed: a number above 0, up to 1": {
        "rope_scaling": {"type": "yarn", "extrapolation_factor": 2}
    },
}


@pytest.mark.parametrize(("message", "changes"), SIZES.items(), ids=SIZES)
def test_sizes(message: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """A size that is none, or that tensors do not have, is named with what is needed."""
    with pytest.raises(ModelFileError) as caught:
        described(with_config(tmp_path / "model", changes))
    assert message in str(caught.value)


Change = Callable[[dict[str, Any]], object]
TENSORS: dict[str, Change] = {
    'lm_head.weight is missing; needed: the output, or "tie_word_embeddings": true in': lambda t: (
        t.pop("lm_head.weight")
    ),
    "tensor model.layers.1.mlp.up_proj.weight is missing": lambda t: t.pop(
        "model.layers.1.mlp.up_proj.weight"
    ),
    "tensor model.layers.0.self_attn.q_norm.weight is of no Llama": lambda t: t.update(
        {"model.layers.0.self_attn.q_norm.weight": np.zeros(8, np.float16)}
    ),
    "tensor vision_tower.patch.weight is of no Llama": lambda t: t.update(
        {"vision_tower.patch.weight": np.zeros(8, np.float16)}
    ),
    "tensors model.norm.weight and norm.weight are both output_norm.weight": lambda t: t.update(
        {"norm.weight": np.zeros(32, np.float16)}
    ),
    "tensor model.norm.bias is of no Llama": lambda t: t.update(
        {"model.norm.bias": np.zeros(32, np.float16)}
    ),
    "tensor model.norm.weight has shape 16; needed: 32": lambda t: t.update(
        {"model.norm.weight": np.zeros(16, np.float16)}
    ),
    "q_proj.lora_A.default.weight is of LoRA adapters that are not merged": lambda t: t.update(
        {"model.layers.0.self_attn.q_proj.lora_A.default.weight": np.zeros((2, 32), np.float16)}
    ),
    "tensor model.norm.weight has shape 1 x 32; needed: 32": lambda t: t.update(
        {"model.norm.weight": np.zeros((1, 32), np.float16)}
    ),
}


@pytest.mark.parametrize(("message", "change"), TENSORS.items(), ids=TENSORS)
def test_tensors(message: str, change: Change, tmp_path: Path) -> None:
    """Tensors that are missing, strange, twice there or misshapen are named."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    tensors = BY_NAME["llama-2"].weights()
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises((ModelFileError, UnsupportedModelError)) as caught:
        described(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "model.layers.1.self_attn.rotary_emb.cos_cached",
        "model.layers.1.self_attn.masked_bias",
        "rope.freqs",
    ],
)
def test_buffers(name: str, tmp_path: Path) -> None:
    """Tables and masks that older programs saved with the weights are left out."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    expected = [tensor.name for tensor in described(folder).tensors]
    tensors = BY_NAME["llama-2"].weights() | {name: np.ones(4, np.float32)}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", tensors)
    assert [tensor.name for tensor in described(folder).tensors] == expected


def test_weights_that_an_adapter_was_taken_off(tmp_path: Path) -> None:
    """PEFT's name for the matrix below an adapter says nothing."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    expected = [tensor.name for tensor in described(folder).tensors]
    tensors = BY_NAME["llama-2"].weights()
    renamed = {name.replace("_proj.", "_proj.base_layer."): a for name, a in tensors.items()}
    write_safetensors(folder / "model.safetensors", renamed)
    assert [tensor.name for tensor in described(folder).tensors] == expected


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.{}",
        "_orig_mod.{}",
        "base_model.model.{}",
        "_orig_mod.module.base_model.model.{}",
        "_fsdp_wrapped_module.{}",
    ],
)
def test_names_that_a_training_wrapped(wrapped: str, tmp_path: Path) -> None:
    """Weights that were saved with what frameworks wrapped them in are the model's all the same."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    expected = described(folder).tensors
    tensors = {
        wrapped.format(name).replace(".mlp.", "._checkpoint_wrapped_module.mlp."): values
        for name, values in BY_NAME["llama-2"].weights().items()
    }
    (folder / "model.safetensors").unlink()  # What is mapped is not written over.
    write_safetensors(folder / "model.safetensors", tensors)
    for found, plain in zip(described(folder).tensors, expected, strict=True):
        assert found.name == plain.name
        np.testing.assert_array_equal(found.rows(0, 1), plain.rows(0, 1))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to the values inside some JSON, a few of each long list or object."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in [*items][:MAX_ITEMS]:
            yield from places(item, (*path, key))


def mutated(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    """A copy of some JSON with one value replaced."""
    if not path:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = mutated(value[path[0]], path[1:], wrong)
    return copy


@pytest.mark.parametrize("name", ["alpaca", "llama-2", "llama-3.1", "yarn"])
def test_any_json_gives_one_line(name: str, tmp_path: Path) -> None:
    """Whatever value a field of any JSON file has, the outcome is a model or one line of ours."""
    rng = random.Random(name)
    folder = BY_NAME[name].write(tmp_path / "model")
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text("ascii"))
        choices = [*places(content)]
        for _ in range(NUM_MUTATIONS // 4):
            place, wrong = rng.choice(choices), rng.choice(WRONG_VALUES)
            path.write_text(json.dumps(mutated(content, place, wrong)), "ascii")
            try:
                check_loads(folder)
            except EdgellamaError as error:
                assert "\n" not in str(error), (path.name, place, wrong)
        tokenizers.write_json(path, content)
    described(folder)


def test_any_tokenizer_model_gives_one_line(tmp_path: Path) -> None:
    """Whatever bytes a tokenizer.model has, the outcome is a model or one line of ours."""
    rng = random.Random(1)
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    path = folder / "tokenizer.model"
    content = path.read_bytes()
    for index in range(NUM_MUTATIONS):
        data = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if index % 5 == 0 else data)
        try:
            check_loads(folder)
        except EdgellamaError as error:
            assert "\n" not in str(error)
