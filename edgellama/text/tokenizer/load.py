"""From GGUF metadata to its tokenizer: one table by ``tokenizer.ggml.model``.

Each kind is imported when a file asks for it, because their libraries take time to import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgellama.quant.error_text import shown
from edgellama.quant.errors import TokenizerError, UnsupportedModelError
from edgellama.quant.vocabulary.vocabulary import BYTE_PAIR_KIND, SENTENCEPIECE_KINDS
from edgellama.text.tokenizer.base import Tokenizer

_Loader = Callable[[Mapping[str, object], object], Tokenizer]


def _byte_pair(metadata: Mapping[str, object], source: object) -> Tokenizer:
    from edgellama.text.tokenizer.bpe_tokenizer import BPETokenizer

    return BPETokenizer(metadata, source)


def _sentencepiece(metadata: Mapping[str, object], source: object) -> Tokenizer:
    from edgellama.text.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

    return SentencePieceTokenizer(metadata)


_LOADERS: Mapping[str, _Loader] = MappingProxyType(
    {BYTE_PAIR_KIND: _byte_pair, **dict.fromkeys(SENTENCEPIECE_KINDS, _sentencepiece)}
)


def load_tokenizer(
    metadata: Mapping[str, object], source: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """The tokenizer of a model file.

    Arguments:
        metadata: The ``tokenizer.ggml.*`` keys of a GGUF file.
        source: The file's path, for warnings. None (the default) leaves it out of them.

    Returns:
        The tokenizer, which may be used by several threads.

    Raises:
        UnsupportedModelError: A kind or split pattern that does not run.
        TokenizerError: A vocabulary that is broken.

    Example:
        >>> from edgellama import GGUFFile, load_tokenizer, pull
        >>> with GGUFFile(pull("smollm2")) as file:
        ...     load_tokenizer(file.metadata).vocab_size
        49152
    """
    try:
        return _loaded(metadata, source)
    except (TokenizerError, UnsupportedModelError) as error:
        if source is None:
            raise
        raise type(error)(f"{os.fspath(source)}: {error.what}", way=error.way) from None


def _loaded(metadata: Mapping[str, object], source: object) -> Tokenizer:
    if not isinstance(metadata, Mapping):
        raise TokenizerError(f"metadata is {shown(metadata)}; allowed: a file's, by GGUF key")
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise TokenizerError("tokenizer.ggml.model is missing; the file has no tokenizer")
    loader = _LOADERS.get(model) if isinstance(model, str) else None
    if loader is None:
        known = ", ".join(sorted(_LOADERS))
        raise UnsupportedModelError(f"tokenizer.ggml.model is {model!r}; known: {known}")
    return loader(metadata, source)
