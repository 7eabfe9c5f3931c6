"""Whether the engine will load what is about to be written: metadata, shapes and vocabulary.

The rules are those that the engine reads a file by. A split pattern that it does not know is no
error: the file may be meant for another reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.config_keys import ConfigKeys
from edgellama.quant.errors import (
    EdgellamaError,
    InvalidOptionError,
    ModelFileError,
    TokenizerError,
    UnsupportedModelError,
)
from edgellama.quant.llama_tensors import check_shapes
from edgellama.quant.model_config import EMBEDDING, ModelConfig
from edgellama.quant.vocabulary import sentencepiece_model
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.space_rules import SpaceRules
from edgellama.quant.vocabulary.special_tokens import SENTENCEPIECE_NAMES, read_special_tokens
from edgellama.quant.vocabulary.vocabulary import (
    BYTE_PAIR_KIND,
    SENTENCEPIECE_KINDS,
    Vocabulary,
    check_merges,
)

Metadata = Mapping[str, MetadataItem]
_SIZES = {
    "vocab_size": "vocab_size",
    "embedding_length": "embedding_length",
    "block_count": "block_count",
    "feed_forward_length": "feed_forward_length",
    "attention.head_count": "head_count",
    "attention.head_count_kv": "head_count_kv",
    "attention.key_length": "head_size",
    "attention.value_length": "head_size",
}
"""Keys under the architecture's name that follow from the tensors, by ModelConfig's names."""


def check_runnable(
    source: str,
    original: Metadata,
    metadata: Metadata,
    tensors: Sequence[SourceTensor],
    changed: Collection[str],
) -> ModelConfig:
    """The sizes of what will be written; refuses metadata that no reader could run.

    ``original``: as the source has it; ``changed``: the keys that the user gave. Raises
    InvalidOptionError where these are to blame, else ModelFileError or UnsupportedModelError.
    """
    try:
        config = _checked(original, tensors)
    except EdgellamaError as error:
        if not changed:
            kind = ModelFileError if isinstance(error, TokenizerError) else type(error)
            raise kind(f"{source}: {error.what}", way=error.way) from None
    else:
        if not changed:
            return config
        _check_sizes(config, metadata, changed)
    try:
        return _checked(metadata, tensors)
    except EdgellamaError as error:
        given = ", ".join(f"{key}={metadata[key].value}" for key in changed)
        text = f"{source}: {error.what}, with metadata {given}"
        raise InvalidOptionError(text, way=error.way) from None


def _check_sizes(config: ModelConfig, metadata: Metadata, changed: Collection[str]) -> None:
    """InvalidOptionError for a size that is not that of the tensors."""
    values = {key: item.value for key, item in metadata.items()}
    prefix = f"{ConfigKeys(values).architecture}."
    for key in changed:
        name = _SIZES.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if name is not None and metadata[key].value != getattr(config, name):
            raise InvalidOptionError(
                f"metadata {key}={metadata[key].value}; "
                f"allowed: {getattr(config, name)}, which the tensors have"
            )


def _checked(metadata: Metadata, tensors: Sequence[SourceTensor]) -> ModelConfig:
    """The sizes of the model, everything else being checked, too."""
    values = {key: _stored(item) for key, item in metadata.items()}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    embedding = shapes.get(EMBEDDING)
    config = ModelConfig.from_metadata(values, embedding[0] if embedding else None)
    if config.head_size % 2:
        raise UnsupportedModelError(f"head size {config.head_size}; supported: even sizes")
    check_shapes(config, shapes)
    if "tokenizer.ggml.model" in values:
        _check_tokenizer(values)
    return config


def _stored(item: MetadataItem) -> object:
    """The value that a reader will find, which may be 0 or infinite where the own one is not."""
    if item.type != GGUFValueType.FLOAT32 or not isinstance(item.value, (int, float)):
        return item.value
    with np.errstate(over="ignore"):
        return float(np.float32(item.value))


def _check_tokenizer(values: Mapping[str, object]) -> None:
    """TokenizerError for a vocabulary that cannot be used, UnsupportedModelError for its kind."""
    kind = values["tokenizer.ggml.model"]
    is_sentencepiece = kind in SENTENCEPIECE_KINDS
    if not is_sentencepiece and kind != BYTE_PAIR_KIND:
        raise UnsupportedModelError(
            f"tokenizer.ggml.model is {kind!a:.80}; "
            f"known: {', '.join((BYTE_PAIR_KIND, *SENTENCEPIECE_KINDS))}"
        )
    vocabulary = Vocabulary.from_metadata(values)
    AddedTokenRules.from_metadata(values, len(vocabulary.tokens))
    names = SENTENCEPIECE_NAMES if is_sentencepiece else {}
    special = read_special_tokens(values, vocabulary, add_bos_default=is_sentencepiece, names=names)
    if is_sentencepiece:
        spaces = SpaceRules.from_metadata(values)
        make_model = sentencepiece_model.model_maker(values, vocabulary, special.unknown_id)
        sentencepiece_model.processor(make_model(spaces.adds_space))
    else:
        check_merges(values)
