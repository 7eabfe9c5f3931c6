"""Models with vision or hearing: the file of their text model, and what contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference.family import MEMBERS
from reference.family_member import Array, write_safetensors
from reference.relatives import WITH_VISION, drawn, write_relative

from edgellama.convert import convert
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.engine.engine import Engine
from edgellama.quant.errors import EdgellamaError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile

MEMBER = next(member for member in MEMBERS if member.name == "llama-2")
MISTRAL = next(member for member in MEMBERS if member.name == "mistral")
HALF = np.ones(4, np.float16)
Names = Callable[[str], str]


def described(folder: Path) -> ModelDescription:
    """The description of a folder."""
    with open_checkpoint(folder) as checkpoint:
        return describe(checkpoint)


def old_names(name: str) -> str:
    """As transformers 4 stores them."""
    return f"language_model.{name}"


def new_names(name: str) -> str:
    """As newer ones do."""
    return name.replace("model.", "model.language_model.", 1) if "model." in name else name


def idefics_names(name: str) -> str:
    """As SmolVLM and Idefics do."""
    return name.replace("model.", "model.text_model.", 1) if "model." in name else name


VISION: Mapping[str, Array] = {
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": HALF,
    "model.vision_tower.patch_embedding.weight": HALF,
    "multi_modal_projector.linear_1.bias": HALF,
    "model.connector.modality_projection.proj.weight": HALF,
    "image_newline": HALF,
}


def write_vision(
    folder: Path,
    architecture: str,
    names: Names,
    *,
    text: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array] | None = None,
    member: Any = MEMBER,
) -> Path:
    """A member's folder as that of a model with vision, with a text_config."""
    member.write(folder)
    config = json.loads((folder / "config.json").read_text("ascii"))
    whole = {"architectures": [architecture], "text_config": config | dict(text or {})}
    (folder / "config.json").write_text(json.dumps(whole), "ascii")
    weights = member.weights() if tensors is None else tensors
    (folder / "model.safetensors").unlink()
    stored = {names(name): values for name, values in weights.items()}
    write_safetensors(folder / "model.safetensors", {**stored, **VISION})
    return folder


def check_same(found: ModelDescription, expected: ModelDescription) -> None:
    """The same tensors, and the same sizes under ``llama.``."""
    assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
    for ours, theirs in zip(found.tensors, expected.tensors, strict=True):
        np.testing.assert_array_equal(
            ours.rows(0, ours.num_rows), theirs.rows(0, theirs.num_rows), err_msg=ours.name
        )
    for key in (*found.metadata, *expected.metadata):
        if key.startswith(("llama.", "tokenizer.")):
            assert found.metadata[key] == expected.metadata[key], key


@pytest.mark.parametrize(
    ("architecture", "names", "member"),
    [
        ("LlavaForConditionalGeneration", old_names, MEMBER),
        ("LlavaNextForConditionalGeneration", new_names, MISTRAL),
        ("Mistral3ForConditionalGeneration", old_names, MISTRAL),
        ("SmolVLMForConditionalGeneration", idefics_names, MEMBER),
        ("InternVLForConditionalGeneration", old_names, MISTRAL),
        ("LlavaOnevisionForConditionalGeneration", new_names, MEMBER),
        ("Idefics2ForConditionalGeneration", idefics_names, MISTRAL),
        ("VoxtralForConditionalGeneration", old_names, MEMBER),
        ("JanusForConditionalGeneration", new_names, MEMBER),
        ("PerceptionLMForConditionalGeneration", new_names, MEMBER),
    ],
)
def test_the_text_model_is_converted(
    architecture: str, names: Names, member: Any, tmp_path: Path
) -> None:
    """The file is that of the same model without vision, and a note says what is left out."""
    found = described(write_vision(tmp_path / "vision", architecture, names, member=member))
    check_same(found, described(member.write(tmp_path / "text")))
    (note,) = found.notes
    assert note.startswith("the model takes images or sounds: its 5 tensors for that are left out")


OTHER_PARTS = (
    *("audio_tower.layers.0.fc1.weight", "model.audio_tower.conv1.bias", "encoder.out.weight"),
    *("model.video_tower.post_layernorm.bias", "model.image_tower.post_layernorm.bias"),
    *("model.aligner.fc1.weight", "model.vqmodel.quantize.weight", "generation_head.proj_out.bias"),
    *("model.high_res_vision_neck.conv1.weight", "model.visual_embeddings_table.weight"),
    *("model.projector.qformer.weight", "mlp1.0.weight", "gen_vision_model.decoder.conv.bias"),
)


def test_parts_for_images_and_sounds(tmp_path: Path) -> None:
    """Whatever such a part is called, it is left out."""
    tensors = {**MEMBER.weights(), **dict.fromkeys(OTHER_PARTS, HALF)}
    folder = write_vision(tmp_path / "whole", "JanusForConditionalGeneration", str, tensors=tensors)
    found = described(folder)
    check_same(found, described(MEMBER.write(tmp_path / "text")))
    assert f"its {len(OTHER_PARTS) + 5} tensors" in found.notes[0]


@pytest.mark.parametrize(
    ("architecture", "place"),
    [("InternVLChatModel", "llm_config"), ("MultiModalityCausalLM", "language_config")],
)
def test_configurations_of_other_names(architecture: str, place: str, tmp_path: Path) -> None:
    """The text model's own architecture and tie count, which the whole model's do not know."""
    folder = write_vision(tmp_path / "whole", architecture, old_names)
    config = json.loads((folder / "config.json").read_text("ascii"))
    text = config.pop("text_config") | {"model_type": "elsewhere"}
    config |= {place: text, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config), "ascii")
    found = described(folder)
    check_same(found, described(MEMBER.write(tmp_path / "text")))
    assert len(found.notes) == 1


def test_adapters_for_images_and_sounds(tmp_path: Path) -> None:
    """Phi-4 Multimodal has some inside; without images and sounds it runs without them."""
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    named = {"architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm"}
    folder = write_relative(tmp_path / "phi3", "phi3", golden, **named)
    weights = {}
    for name, values in drawn("phi3", json.loads(str(golden["phi3/shapes"]))).items():
        module, _, kind = name.rpartition(".")
        is_adapted = module.endswith("_proj")
        weights[f"{module}.base_layer.{kind}" if is_adapted else name] = values
        if is_adapted:
            weights[f"{module}.lora_A.speech.weight"] = HALF
            weights[f"{module}.lora_B.vision.weight"] = HALF
    weights["model.embed_tokens_extend.image_embed.glb_GN"] = HALF
    write_safetensors(folder / "model.safetensors", weights)
    convert(folder, tmp_path / "model.gguf", type="f32")
    tokens = golden["phi3/tokens"].tolist()
    with GGUFFile(tmp_path / "model.gguf") as file, Engine(file) as engine:
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"))
    np.testing.assert_allclose(logits, golden["phi3/logits"], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("name", "is_flat"), [*((name, False) for name in WITH_VISION), ("qwen2-vl", True)]
)
def test_qwen_with_vision(name: str, is_flat: bool, tmp_path: Path) -> None:
    """For a text, positions in three directions are a Llama's; the first releases are flat."""
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    folder = write_relative(tmp_path / name, name, golden)
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    if is_flat:
        config = json.loads((folder / "config.json").read_text("ascii"))
        text = config.pop("text_config") | {"model_type": "qwen2_vl"}
        text["rope_scaling"] = {"type": "mrope", "mrope_section": [1, 1, 2]}
        text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
        (folder / "config.json").write_text(json.dumps(text | config), "ascii")
        weights = {k.replace("model.language_model.", "model."): v for k, v in weights.items()}
    seeing = "visual.blocks.0.attn.proj.bias"
    write_safetensors(folder / "model.safetensors", {**weights, seeing: HALF})
    report = convert(folder, tmp_path / "model.gguf", type="f32")
    assert report.notes[0].startswith(
        "the model takes images or sounds: its 1 tensors for that are left out"
    )
    tokens = golden[f"{name}/tokens"].tolist()
    with GGUFFile(tmp_path / "model.gguf") as file, Engine(file) as engine:
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"))
    np.testing.assert_allclose(logits, golden[f"{name}/logits"], rtol=0, atol=5e-5)


def test_the_thinker_of_an_omni_model(tmp_path: Path) -> None:
    """Qwen 2.5 Omni's text model lies two configurations deep, beside what speaks."""
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    name = "qwen2.5-vl"
    folder = write_relative(tmp_path / "omni", name, golden)
    config = json.loads((folder / "config.json").read_text("ascii"))
    inner = config["text_config"] | {"model_type": "qwen2_5_omni_text"}
    whole = {"architectures": ["Qwen2_5OmniModel"], "thinker_config": {"text_config": inner}}
    (folder / "config.json").write_text(json.dumps(whole), "ascii")
    weights = drawn(name, json.loads(str(golden[f"{name}/shapes"])))
    named = {f"thinker.{k.replace('language_model.', '')}": v for k, v in weights.items()}
    others = dict.fromkeys(("talker.model.norm.weight", "thinker.audio_tower.proj.bias"), HALF)
    write_safetensors(folder / "model.safetensors", named | others)
    report = convert(folder, tmp_path / "model.gguf", type="f32")
    assert "its 2 tensors for that are left out" in report.notes[0]
    tokens = golden[f"{name}/tokens"].tolist()
    with GGUFFile(tmp_path / "model.gguf") as file, Engine(file) as engine:
        logits = engine.forward(tokens, engine.new_cache(len(tokens), kv_type="f32"))
    np.testing.assert_allclose(logits, golden[f"{name}/logits"], rtol=0, atol=5e-5)


def test_llava_in_its_own_format(tmp_path: Path) -> None:
    """A flat configuration needs no text_config."""
    folder = MEMBER.write(tmp_path / "llava")
    config = json.loads((folder / "config.json").read_text("ascii"))
    config |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}
    (folder / "config.json").write_text(json.dumps(config), "ascii")
    (folder / "model.safetensors").unlink()
    others = {"model.mm_projector.0.weight": HALF, "model.image_newline": HALF}
    write_safetensors(folder / "model.safetensors", MEMBER.weights() | others)
    check_same(described(folder), described(MEMBER.write(tmp_path / "text")))


def mllama_tensors() -> dict[str, Array]:
    """The member's tensors as layers 0 and 2 of three, and a longer table of tokens."""
    tensors: dict[str, Array] = {}
    for name, values in MEMBER.weights().items():
        tensors[name.replace("layers.1.", "layers.2.")] = values
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.concatenate([table, table[:8]])
    tensors["model.layers.1.cross_attn.q_proj.weight"] = HALF
    tensors["model.layers.1.cross_attn_attn_gate"] = HALF
    tensors["model.layers.1.mlp.up_proj.weight"] = HALF
    return tensors


def test_layers_that_attend_to_images(tmp_path: Path) -> None:
    """Llama 3.2 Vision loses its cross-attention layers, and the rows of the image's token."""
    text = {"model_type": "mllama_text_model", "cross_attention_layers": [1]}
    folder = write_vision(
        tmp_path / "vision",
        "MllamaForConditionalGeneration",
        old_names,
        text={**text, "num_hidden_layers": 3},
        tensors=mllama_tensors(),
    )
    check_same(described(folder), described(MEMBER.write(tmp_path / "text")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"model_type": "olmo2", "architectures": None}, "model type 'olmo2' cannot be converted"),
        ({"cross_attention_layers": [0, 9]}, "text_config.cross_attention_layers is of type list"),
        ({"cross_attention_layers": [0, 1]}, "different numbers from 0 to 1, not all of them"),
        ({"cross_attention_layers": 3}, "cross_attention_layers is 3; allowed: an array"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
    ],
)
def test_configurations_that_contradict_themselves(
    text: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """What is wrong in a text_config is one line that names the field."""
    folder = write_vision(
        tmp_path / "vision", "LlavaForConditionalGeneration", old_names, text=text
    )
    with pytest.raises(EdgellamaError) as caught:
        described(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, True, -1, 10**30, "", "\ud800", [], [None], {}, {"a": 1}])
def test_any_text_config_gives_one_line(wrong: object, tmp_path: Path) -> None:
    """Whatever stands in a field of a model with vision, it converts or says why not."""
    text = {"cross_attention_layers": [1], "num_hidden_layers": 3}
    folder = write_vision(
        tmp_path / "vision",
        "MllamaForConditionalGeneration",
        old_names,
        text=text,
        tensors=mllama_tensors(),
    )
    path = folder / "config.json"
    right = json.loads(path.read_text("ascii"))
    inner = [("text_config", name) for name in right["text_config"]]
    for place in (("architectures",), ("text_config",), ("tie_word_embeddings",), *inner):
        changed = json.loads(json.dumps(right))
        (changed if len(place) == 1 else changed["text_config"])[place[-1]] = wrong
        path.write_text(json.dumps(changed), "ascii")
        try:
            described(folder)
        except EdgellamaError as error:
            assert "\n" not in str(error)


def test_a_composite_without_a_text_model(tmp_path: Path) -> None:
    """A model with vision whose text_config is missing is refused by its architecture."""
    folder = write_vision(tmp_path / "vision", "LlavaForConditionalGeneration", old_names)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlavaForConditionalGeneration"]}), "ascii"
    )
    with pytest.raises(UnsupportedModelError, match="'LlavaForConditionalGeneration' cannot be"):
        described(folder)
