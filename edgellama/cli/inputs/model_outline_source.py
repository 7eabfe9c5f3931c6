"""Finds the outline of the model that a user named: from a file, a preset, or a configuration.

Of a checkpoint, only the configuration is read, so the weights need not be there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.quant.errors import ModelFileError, ModelNotFoundError
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgellama.convert.model.hparams import HyperParameters
    from edgellama.convert.sources.json_fields import Fields
    from edgellama.measure.model_outline import ModelOutline

CONFIGURATIONS = ("config.json", "params.json")
"""Of Hugging Face and of Meta, the first of them where there are both."""
ALWAYS_BIASED = frozenset({"Qwen2ForCausalLM", "Qwen2Model", "MiMoForCausalLM"})
"""What computes queries, keys and values has biases, and no field says so."""
LLAMA_2_VOCABULARY = 32000
"""Tokens, where params.json says -1, as those of Llama 1 and 2 alone do."""


@dataclass(frozen=True)
class OutlineSource:
    """An outline, and the GGUF file that it was read from, if any."""

    outline: ModelOutline
    path: Path | None


def find_outline(name: str) -> OutlineSource:
    """The outline of a GGUF file, a pulled model, a preset, a configuration or its folder.

    Raises ModelNotFoundError with what can be given, ModelFileError, UnsupportedModelError.
    """

    from edgellama.measure.model_outline import ModelOutline
    from edgellama.measure.model_presets import MODEL_PRESETS, find_preset
    from edgellama.models.names import is_plainly_a_path, resolve
    from edgellama.quant.error_text import NEARLY_THE_SAME, nearest
    from edgellama.quant.gguf.file import GGUFFile

    path = Path(name)
    files = [path, *(path / name for name in CONFIGURATIONS)]
    configuration = next((f for f in files if f.is_file() and f.suffix == ".json"), None)
    if configuration is not None:
        return OutlineSource(_configured(configuration), None)
    preset = None if path.exists() else find_preset(name)
    if preset is not None:
        return OutlineSource(ModelOutline.from_preset(preset), None)
    try:
        path = resolve(name)
    except ModelNotFoundError as error:
        if is_plainly_a_path(name):
            raise
        if (meant := nearest(name.lower(), MODEL_PRESETS, NEARLY_THE_SAME)) is not None:
            raise ModelNotFoundError(
                f"no file, no model and no published size called {name!r}; did you mean {meant}?"
            ) from None
        # An error that guesses a name needs no list of sizes.
        sizes = "" if "did you mean" in str(error) else f"; sizes: {', '.join(MODEL_PRESETS)}"
        raise ModelNotFoundError(f"{error.in_terminal}{sizes}") from None
    with GGUFFile(path) as file:
        return OutlineSource(ModelOutline.from_gguf(file, name), path)


def _configured(path: Path) -> ModelOutline:
    """The outline of a Hugging Face configuration or of Meta's parameters."""
    from edgellama.convert.sources.json_fields import read_fields

    fields = read_fields(path)
    if not fields:
        raise ModelFileError(f"{path}: an empty configuration, {{}}; needed: that of a Llama")
    if path.name == CONFIGURATIONS[1]:
        return _outline_of_meta(path, fields.fields("model") if fields.has("model") else fields)
    return _outline_of_hugging_face(path, fields)


def _outline_of_hugging_face(path: Path, fields: Fields) -> ModelOutline:
    from edgellama.convert.model.family import check_hugging_face
    from edgellama.convert.model.hparams import hugging_face_hparams
    from edgellama.convert.model.relatives import plain_config
    from edgellama.measure.footprint import ATTENTION_INPUTS
    from edgellama.quant.llama_tensors import ATTENTION_MATRICES, FEED_FORWARD_MATRICES

    fields = _text_fields(path, fields)
    is_biased = ALWAYS_BIASED & {*map(str, fields.items("architectures"))}
    fields = plain_config(fields)
    check_hugging_face(fields)
    sizes = hugging_face_hparams(fields, lambda name: None)
    biased = [
        *(ATTENTION_MATRICES if fields.flag("attention_bias", False) else ()),
        *(ATTENTION_INPUTS if is_biased else ()),
        *(FEED_FORWARD_MATRICES if fields.flag("mlp_bias", False) else ()),
    ]
    return _outline(path, sizes, fields.flag("tie_word_embeddings", False), biased)


def _text_fields(path: Path, fields: Fields) -> Fields:
    """The configuration of the text model in a model with vision; else the whole of it."""
    from edgellama.convert.model.text_part import text_part
    from edgellama.convert.sources.checkpoint import Checkpoint
    from edgellama.convert.sources.json_fields import Fields

    whole = Checkpoint(
        path=path,
        kind="hugging_face",
        folder=path.parent,
        files=(),
        parameters=fields.values,
        tensors={},
    )
    return Fields(text_part(whole).parameters, str(path))


def _outline_of_meta(path: Path, fields: Fields) -> ModelOutline:
    """The outline of Meta's checkpoint, by its parameters alone: weights need not be there."""
    from edgellama.convert.model.family import check_meta
    from edgellama.convert.model.hparams import (
        meta_feed_forward_length,
        meta_hparams,
        meta_release,
    )

    check_meta(fields)
    rows = {
        "token_embd.weight": LLAMA_2_VOCABULARY,
        "blk.0.ffn_gate.weight": meta_feed_forward_length(fields),
    }
    return _outline(path, meta_hparams(fields, rows.get), meta_release(fields).tied, ())


def _outline(
    path: Path, sizes: HyperParameters, is_tied: bool, biased: Collection[str]
) -> ModelOutline:
    from edgellama.measure.model_outline import ModelOutline
    from edgellama.quant.model_config import ModelConfig
    from edgellama.quant.rope_config import RopeConfig

    scaling = sizes.scaling
    is_longrope = scaling.kind == "longrope"
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
        rope=RopeConfig(
            sizes.rotated or sizes.head_size,
            sizes.rope_base,
            "longrope" if is_longrope else "none",
            original_context_length=scaling.original_context_length or 0,
        ),
        sliding_window=sizes.sliding_window,
        has_head_norms=sizes.has_head_norms,
    )
    return ModelOutline.from_sizes(
        str(path),
        config,
        is_tied=is_tied,
        has_rope_freqs=scaling.stretch is not None and not is_longrope,
        biased=biased,
    )
