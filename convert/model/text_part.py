"""The text model inside a model with vision or hearing, as a Llama of its own.

Its configuration lies inside the whole model's, and its tensors have names of their own. The parts
for images and sounds are left out; Llama 3.2 Vision's cross-attention layers do nothing in a chat
without images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from edgellama.convert.model.derived_tensors import PickedRows
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.hugging_face_checkpoint import CONFIG_FILE
from edgellama.convert.sources.json_fields import MAX_SIZE, Fields
from edgellama.quant.errors import ModelFileError

_USUAL_PLACE, _OMNI_PLACE = "text_config", "thinker_config.text_config"
COMPOSITES = (
    *("AudioFlamingo3", "DeepseekVL", "DeepseekVLHybrid", "FastVlm", "GlmAsr", "GotOcr2"),
    *("GraniteSpeech", "Idefics2", "Idefics3", "InternVL", "Janus", "Llava", "LlavaNext"),
    *("LlavaNextVideo", "LlavaOnevision", "Mistral3", "Mllama", "MusicFlamingo", "Ovis2"),
    *("PerceptionLM", "Qwen2Audio", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "SmolVLM"),
    *("VideoLlama3", "VideoLlava", "VipLlava", "Voxtral"),
)
"""With ``text_config``, without the end of their names, ``ForConditionalGeneration``."""
INNER: Mapping[str, str] = MappingProxyType(
    {f"{name}ForConditionalGeneration": _USUAL_PLACE for name in COMPOSITES}
    | {"InternVLChatModel": "llm_config", "MultiModalityCausalLM": "language_config"}
    | dict.fromkeys(("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"), _OMNI_PLACE)
)
"""Where the text model's configuration lies, by architecture."""
FLAT = MappingProxyType(
    {
        "LlavaLlamaForCausalLM": "LlamaForCausalLM",
        "LlavaMistralForCausalLM": "MistralForCausalLM",
        "LlavaQwenForCausalLM": "Qwen2ForCausalLM",
        "LlavaQwen2ForCausalLM": "Qwen2ForCausalLM",
        "Phi3VForCausalLM": "Phi3ForCausalLM",
        "Phi4MMForCausalLM": "Phi3ForCausalLM",
        "Phi4MultimodalForCausalLM": "Phi3ForCausalLM",
        "Qwen2VLForConditionalGeneration": "Qwen2ForCausalLM",
        "Qwen2_5_VLForConditionalGeneration": "Qwen2ForCausalLM",
    }
)
"""Without a configuration inside, as in LLaVA's own format: a text model's configuration and
tensors, and others beside them.
"""
CROSS_LAYERS, TIED = "cross_attention_layers", "tie_word_embeddings"
_LLAMA = MappingProxyType(
    {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048}
)
_LARGER = MappingProxyType({**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8})
_QWEN2 = MappingProxyType({**_LLAMA, "intermediate_size": 22016, "vocab_size": 151936})
_PHI3 = MappingProxyType(
    {**_LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "vocab_size": 32064}
    | {"max_position_embeddings": 4096}
)
_QWEN2_VL = MappingProxyType({"rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_key_value_heads": 8})
_QWEN3_VL = MappingProxyType({"num_key_value_heads": 32, "max_position_embeddings": 128000})
_OMNI = MappingProxyType(
    {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "rope_theta": 1e6}
    | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
)
# The kinds of text models, as whose architecture, and what transformers takes for granted where
# text_config does not say it.
_KINDS: Mapping[str | None, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "llama": ("LlamaForCausalLM", _LLAMA),
        "mistral": (
            "MistralForCausalLM",
            {**_LARGER, "max_position_embeddings": 131072, "sliding_window": 4096},
        ),
        "ministral3": ("Ministral3ForCausalLM", {}),
        "granite": ("GraniteForCausalLM", _LLAMA),
        "phi3": ("Phi3ForCausalLM", _PHI3),
        "qwen2": ("Qwen2ForCausalLM", {**_QWEN2, "max_position_embeddings": 32768}),
        "qwen2_vl_text": ("Qwen2ForCausalLM", _QWEN2_VL),
        "qwen2_5_vl_text": ("Qwen2ForCausalLM", _QWEN2_VL),
        "qwen3": ("Qwen3ForCausalLM", {}),
        "qwen3_vl_text": ("Qwen3ForCausalLM", _QWEN3_VL),
        "qwen2_5_omni_text": ("Qwen2ForCausalLM", _OMNI),
        "mllama_text_model": (
            "LlamaForCausalLM",
            {**_LARGER, "num_hidden_layers": 40, "vocab_size": 128256, "rms_norm_eps": 1e-5}
            | {"max_position_embeddings": 131072, "rope_theta": 5e5}
            | {CROSS_LAYERS: [3, 8, 13, 18, 23, 28, 33, 38]},
        ),
    }
)
_OF_THE_WHOLE = (
    *("architectures", "model_type", "vision_config", "thinker_config", *set(INNER.values())),
)
_TEXT = re.compile(r"(?:model\.)?(?:language_model|text_model)\.(?:model\.)?(.+)")
_READERS = (
    *("(?:vision|audio|image|video)_tower", "vision_(?:model|resampler|embed_tokens)"),
    *(r"high_res_vision_\w+", "visual(?:_embeddings_table)?", "vqmodel", "encoder"),
    "embed_tokens_extend",
)
"""What turns images and sounds into vectors."""
_BRIDGES = ("(?:multi_modal_|mm_)?projector", "connector", "aligner", "mlp1", "image_newline")
"""What fits those vectors to the text model."""
_WRITERS = ("talker", "token2wav", r"gen(?:eration)?_\w+")
"""What makes images and sounds."""
_PHI4_ADAPTER = r".+\.lora_[AB]\.(?:speech|vision)\.weight"
"""Phi-4's adapters apply to images and sounds alone."""
_PARTS = "|".join((*_READERS, *_BRIDGES, *_WRITERS))
_VISION = re.compile(rf"(?:model\.)?(?:{_PARTS})(?:\..+)?|{_PHI4_ADAPTER}")
"""The tensors that are no part of the text model."""
_OMNI_TEXT = "thinker."
_LAYER = re.compile(r"model\.layers\.([0-9]{1,6})\.(.+)")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Layers:
    """Which layers are a plain Llama's: their numbers among all, in order; None for all."""

    kept: tuple[int, ...] | None = None

    def renamed(self, name: str) -> str | None:
        """The name with the number that its layer has among those kept; None if it is not."""
        match = _LAYER.fullmatch(name)
        if match is None or self.kept is None or int(match[1]) > self.kept[-1]:
            return name
        number = int(match[1])
        return f"model.layers.{self.kept.index(number)}.{match[2]}" if number in self.kept else None


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of the text model alone; the checkpoint itself if it has no other part.

    ModelFileError for a configuration that contradicts itself.
    """
    config = Fields(checkpoint.parameters, str(checkpoint.folder / CONFIG_FILE))
    if checkpoint.kind != "hugging_face":
        return checkpoint
    architecture = next((a for a in config.items("architectures") if isinstance(a, str)), "")
    place = INNER.get(architecture, "")
    text = _inside(config, place)
    if not text:
        if architecture not in FLAT:
            return checkpoint
        plain = {**config.values, "architectures": [FLAT[architecture]]}
        return _without_vision(checkpoint, _with_plain_positions(plain), _Layers(), {})
    kind, defaults = _KINDS.get(text.text("model_type"), (None, {}))
    whole = {name: value for name, value in config.values.items() if name not in _OF_THE_WHOLE}
    merged = whole | dict(defaults) | dict(text.values)
    merged["architectures"] = [kind] if kind else text.values.get("architectures")
    if config.has(TIED) and not (place != _USUAL_PLACE and text.has(TIED)):
        merged[TIED] = config.values[TIED]
    layers = _own_layers(Fields(merged, config.source, f"{place}."))
    if layers.kept is not None:
        merged["num_hidden_layers"] = len(layers.kept)
    # Llama 3.2 Vision's table has rows for an image's token behind those of the output.
    rows = {"model.embed_tokens.weight": merged.get("vocab_size")} if layers.kept else {}
    return _without_vision(checkpoint, _with_plain_positions(merged), layers, rows)


def _inside(config: Fields, place: str) -> Fields:
    """The object at a path of names; without fields if it is not there."""
    for name in place.split("."):
        config = config.fields(name)
    return config


def _with_plain_positions(config: Mapping[str, object]) -> Mapping[str, object]:
    """Qwen VL's configuration with a text's positions, which are alike in time, height and width.

    So rotating each part of a head by another of these (mrope) is what a Llama does.
    """
    found = dict(config)
    for name in ("rope_scaling", "rope_parameters"):
        rope = found.get(name)
        if isinstance(rope, dict) and "mrope_section" in rope:
            plain = {key: "default" if kind == "mrope" else kind for key, kind in rope.items()}
            found[name] = {**plain, "mrope_section": None}
    return found


def _own_layers(text: Fields) -> _Layers:
    """The layers without those that attend to images."""
    cross = text.items(CROSS_LAYERS)
    if not cross:
        return _Layers()
    count = text.size("num_hidden_layers")
    numbers = [number for number in cross if isinstance(number, int) and 0 <= number < count]
    if count > MAX_SIZE // 64 or len(set(numbers)) != len(cross) or len(cross) >= count:
        raise text.error(CROSS_LAYERS, f"different numbers from 0 to {count - 1}, not all of them")
    return _Layers(tuple(number for number in range(count) if number not in numbers))


def _without_vision(
    checkpoint: Checkpoint,
    config: Mapping[str, object],
    layers: _Layers,
    rows: Mapping[str, object],
) -> Checkpoint:
    tensors = _plain_names(checkpoint.tensors, layers)
    for name, count in rows.items():
        tensor = tensors.get(name)
        if tensor is not None and isinstance(count, int) and 0 < count < tensor.num_rows:
            tensors[name] = PickedRows(tensor.name, tensor, [range(count)])
    left_out = len(checkpoint.tensors) - len(tensors)
    note = (
        f"the model takes images or sounds: its {left_out} tensors for that are left out, and the "
        "file is for texts alone"
    )
    return Checkpoint(
        path=checkpoint.path,
        kind=checkpoint.kind,
        folder=checkpoint.folder,
        files=checkpoint.files,
        parameters=config,
        tensors=tensors,
        absent=_plain_names(checkpoint.absent, layers),
        notes=(*checkpoint.notes, note),
    )


def _plain_names(values: Mapping[str, _Value], layers: _Layers) -> dict[str, _Value]:
    """What belongs to the text model, by the names of a model without vision."""
    found: dict[str, _Value] = {}
    for own, value in values.items():
        name = own.removeprefix(_OMNI_TEXT)
        if _VISION.fullmatch(name):
            continue
        match = _TEXT.fullmatch(name)
        plain: str | None = name
        if match is not None:
            plain = match[1] if match[1].startswith("lm_head.") else f"model.{match[1]}"
        plain = layers.renamed(plain or name)
        if plain is not None:
            if plain in found:
                raise ModelFileError(f"tensor {plain} is there under two names; needed: one")
            found[plain] = value
    return found
