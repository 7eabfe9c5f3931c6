"""What the GGUF file of a checkpoint will hold: all metadata and tensors, nothing quantized yet.

It joins everything about Llamas in a conversion: names, sizes, vocabulary, chat template.
``sources`` reads, ``output`` writes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgellama.convert import metadata
from edgellama.convert.dequantize.recognition import double_notes, float_tensors
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.family import (
    check_hugging_face,
    check_meta,
    family_notes,
    is_headless,
)
from edgellama.convert.model.general import general_items
from edgellama.convert.model.generation_config import FILE, end_token_items, sampling_items
from edgellama.convert.model.gguf_relatives import llama_of_gguf, shorter_context_notes
from edgellama.convert.model.gguf_source import gguf_items
from edgellama.convert.model.hparams import (
    HyperParameters,
    hugging_face_hparams,
    meta_hparams,
    meta_release,
)
from edgellama.convert.model.layout import SourceLayout
from edgellama.convert.model.merged_adapters import with_adapters
from edgellama.convert.model.output_tie import OutputTie, decide_tie
from edgellama.convert.model.pooling import FILE as POOLING_FILE
from edgellama.convert.model.pooling import pooling_items
from edgellama.convert.model.relatives import find_relative, renamed_keys, source_items
from edgellama.convert.model.text_part import text_part
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_fields import Fields, read_fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.convert.vocabulary.chat_template_source import chat_template_items
from edgellama.convert.vocabulary.split_pattern_names import checked_name
from edgellama.convert.vocabulary.tokenizer_settings import TokenizerSettings
from edgellama.convert.vocabulary.vocabulary_source import read_vocabulary
from edgellama.quant.config_keys import ARCHITECTURE_KEY, USUAL_ARCHITECTURE
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.llama_tensors import OUTPUT
from edgellama.quant.model_config import HALF_SPLIT
from edgellama.quant.vocabulary.file_pattern import (
    DEFAULT_PATTERN,
    PRE,
    declared_pattern,
    recognised_pattern,
)
from edgellama.quant.vocabulary.vocabulary import BYTE_PAIR_KIND, string_bytes
from edgellama.quant.ways import Way

_log = logging.getLogger(__name__)

__all__ = ["MetadataItem", "ModelDescription", "describe"]


@dataclass(frozen=True)
class ModelDescription:
    """``metadata``: GGUF keys in order of writing, without those that depend on the output's
    types and parts (``general.file_type``, ``general.quantization_version``, ``split.*``).

    ``tensors``: GGUF's names and order of rows, in order of writing. ``notes``: where the source
    says one thing and holds another, what was done.
    """

    metadata: Mapping[str, MetadataItem]
    tensors: tuple[SourceTensor, ...]
    notes: tuple[str, ...] = ()


def describe(
    checkpoint: Checkpoint,
    *,
    pre: str | None = None,
    name: str | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> ModelDescription:
    """The file that a checkpoint becomes.

    ``pre``: the name of the tokenizer's split pattern (``tokenizer.ggml.pre``), for one that is
    not recognised. ``name``: the model's; None for the source's own. ``adapters``: files with their
    scales, merged into the weights. UnsupportedModelError for what is no Llama or has an unknown
    tokenizer, ModelFileError for what is damaged or incomplete, InvalidOptionError for another
    ``pre`` or ``name`` than there can be.
    """
    if name is not None and not name.isprintable():
        raise InvalidOptionError(f"the name {shown(name)}; allowed: printable text")
    if checkpoint.kind == "gguf":
        return _describe_gguf(checkpoint, pre, name, adapters)
    checkpoint = text_part(checkpoint)
    is_meta = checkpoint.kind == "meta"
    config_file = "params.json" if is_meta else "config.json"
    config = Fields(checkpoint.parameters, str(checkpoint.folder / config_file))
    relative = None if is_meta else find_relative(config)
    own, config = config, config if relative is None else relative.llama_config(config)
    (check_meta if is_meta else check_hugging_face)(config)
    weights = float_tensors(checkpoint)
    found = weights.tensors if relative is None else relative.llama_tensors(weights.tensors, own)
    layout = SourceLayout(str(checkpoint.path), checkpoint.kind, found, checkpoint.absent)
    sizes = (meta_hparams if is_meta else hugging_face_hparams)(config, layout.rows)
    pooling = read_fields(checkpoint.folder / POOLING_FILE)
    is_for_vectors = is_headless(config) or bool(pooling)
    tie = _meta_tie(config, layout) if is_meta else _tie(config, layout, is_for_vectors)
    architecture = USUAL_ARCHITECTURE if relative is None else relative.architecture(own)
    is_interleaved = is_meta or (relative is not None and relative.is_interleaved)
    stays_half_split = architecture in HALF_SPLIT
    is_turned = not (is_interleaved or stays_half_split)
    tensors = layout.ordered(sizes, tied=tie.is_tied, half_split=is_turned)
    settings = TokenizerSettings(checkpoint.folder, config)
    vocabulary = read_vocabulary(
        settings, sizes.vocab_size, pre, scaled_positions=sizes.scaling.is_llama3
    )
    generation = read_fields(checkpoint.folder / FILE)
    items = (
        general_items(checkpoint, tensors, name)
        | ({} if relative is None else source_items(own))
        | sampling_items(generation)
        | pooling_items(pooling)
        | sizes.items()
        | vocabulary.items()
        | end_token_items([config, generation], vocabulary.special_ids, len(vocabulary.tokens))
        | chat_template_items(checkpoint.folder, settings.settings)
    )
    if relative is not None:
        items = renamed_keys(items, architecture)
    notes = (
        *(*checkpoint.notes, *weights.notes, *family_notes(config)),
        *([tie.note] if tie.note else []),
        *_context_notes(sizes),
        *(() if relative is None else relative.notes(weights.tensors)),
    )
    merged = with_adapters(tensors, adapters, checkpoint.path, is_half_split=stays_half_split)
    return ModelDescription(MappingProxyType(items), merged, notes)


def _context_notes(sizes: HyperParameters) -> tuple[str, ...]:
    """What the user should know of a context that is shorter than the model's."""
    return () if sizes.limit is None else shorter_context_notes(sizes.context_length, sizes.limit)


def _meta_tie(config: Fields, layout: SourceLayout) -> OutputTie:
    """Whether the embedding is the output; Meta saves the output of a tied model all the same."""
    release = meta_release(config)
    return decide_tie(layout.tensors, release.tied, f"{release.name} of this size is tied")


def _tie(config: Fields, layout: SourceLayout, is_for_vectors: bool) -> OutputTie:
    """Whether the embedding is the output; readers take it for one that is not there.

    Models for vectors need none, whatever Qwen3-Embedding 8B is called.
    """
    is_tied = config.flag("tie_word_embeddings", False) or (
        is_for_vectors and OUTPUT not in layout.tensors
    )
    return decide_tie(layout.tensors, is_tied, "tie_word_embeddings is true")


def _describe_gguf(
    checkpoint: Checkpoint,
    pre: str | None,
    name: str | None,
    adapters: Sequence[tuple[Path, float]],
) -> ModelDescription:
    items = gguf_items(checkpoint.path)
    if name is not None:
        items["general.name"] = metadata.text(name)
    kind = items.get("tokenizer.ggml.model")
    if kind is not None and kind.value == BYTE_PAIR_KIND:
        found = checked_name(pre) if pre is not None else _missing_pattern(checkpoint.path, items)
        if found is not None:
            items[PRE] = metadata.text(found)
    elif pre is not None:
        raise InvalidOptionError(
            f"the split pattern {shown(pre)}: {checkpoint.path} has none; "
            "allowed: with byte-level BPE"
        )
    own, path = checkpoint.tensors, checkpoint.path
    # An adapter fits the file's order of rows, if the engine has one for it.
    is_half_split = items[ARCHITECTURE_KEY].value in HALF_SPLIT
    if is_half_split:
        merged = with_adapters(tuple(own.values()), adapters, path, is_half_split=True)
        own = {tensor.name: tensor for tensor in merged}
    keys, tensors, notes = llama_of_gguf(str(path), items, own)
    notes = (*double_notes(checkpoint.tensors), *notes)
    later = () if is_half_split else adapters
    all_tensors = with_adapters(tuple(tensors.values()), later, path, is_half_split=False)
    return ModelDescription(MappingProxyType(dict(keys)), all_tensors, notes)


def _missing_pattern(path: Path, items: Mapping[str, MetadataItem]) -> str | None:
    """The split pattern that an old file's vocabulary tells; None if the file says it."""
    values = {key: item.value for key, item in items.items()}
    name = declared_pattern(values)
    if name not in (None, DEFAULT_PATTERN):
        return None
    found = recognised_pattern(values, list(string_bytes(values, "tokenizer.ggml.tokens")))
    if found is None and name is None:
        way = Way("say which it is, pass pre=NAME", "say which it is with --pre NAME")
        _log.warning(
            "%s: tokenizer.ggml.pre is missing, the pattern by which text is cut into words, and "
            "the vocabulary does not tell it; %s",
            *(path, way),
        )
    elif found is not None:
        state = "missing" if name is None else repr(name)
        _log.warning("%s: tokenizer.ggml.pre is %s; it becomes %s", path, state, found)
    return found
