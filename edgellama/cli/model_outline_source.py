"""From what a user wrote for a model to its outline: a file, a preset, or a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.quant.errors import ModelFileError, ModelNotFoundError

if TYPE_CHECKING:
    from edgellama.measure.model_outline import ModelOutline

CONFIGURATION = "config.json"
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
_FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class OutlineSource:
    """An outline, and the GGUF file that it was read from, if any."""

    outline: ModelOutline
    path: Path | None


def find_outline(name: str) -> OutlineSource:
    """The outline of a GGUF file, a pulled model, a preset, a config.json or its folder.

    Raises ModelNotFoundError with what can be given, ModelFileError, UnsupportedModelError.
    """
    from edgellama.measure.model_outline import ModelOutline
    from edgellama.measure.model_presets import MODEL_PRESETS, find_preset
    from edgellama.models import resolve
    from edgellama.quant.gguf_file import GGUFFile

    path = Path(name)
    if path.is_dir() and (path / CONFIGURATION).is_file():
        return OutlineSource(_configured(path / CONFIGURATION), None)
    if path.is_file() and path.suffix == ".json":
        return OutlineSource(_configured(path), None)
    preset = None if path.exists() else find_preset(name)
    if preset is not None:
        return OutlineSource(ModelOutline.from_preset(preset), None)
    try:
        path = resolve(name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error}; known sizes: {', '.join(MODEL_PRESETS)}") from None
    with GGUFFile(path) as file:
        return OutlineSource(ModelOutline.from_gguf(file), path)


def _configured(path: Path) -> ModelOutline:
    """The outline of a Hugging Face configuration."""
    from edgellama.config import ModelConfig, RopeConfig
    from edgellama.convert.model.family import check_hugging_face
    from edgellama.convert.model.hparams import hugging_face_hparams
    from edgellama.convert.model.json_fields import read_fields
    from edgellama.measure.model_outline import ModelOutline

    fields = read_fields(path)
    if not fields:
        raise ModelFileError(f"{path}: an empty configuration, {{}}; needed: that of a Llama")
    check_hugging_face(fields)
    sizes = hugging_face_hparams(fields, lambda name: None)
    config = ModelConfig(
        vocab_size=sizes.vocab_size,
        context_length=sizes.context_length,
        embedding_length=sizes.embedding_length,
        block_count=sizes.block_count,
        feed_forward_length=sizes.feed_forward_length,
        head_count=sizes.head_count,
        head_count_kv=sizes.head_count_kv,
        head_size=sizes.head_size,
        rms_epsilon=sizes.rms_epsilon,
        rope=RopeConfig(sizes.head_size, sizes.rope_base),
    )
    biased = [
        *(_ATTENTION if fields.flag("attention_bias", False) else ()),
        *(_FEED_FORWARD if fields.flag("mlp_bias", False) else ()),
    ]
    return ModelOutline.from_sizes(
        str(path),
        config,
        is_tied=fields.flag("tie_word_embeddings", False),
        has_rope_freqs=sizes.scaling.llama3 is not None,
        biased=biased,
    )
