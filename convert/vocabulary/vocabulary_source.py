"""Which of the files beside a checkpoint is its tokenizer, and what GGUF holds of it.

The ``*_vocabulary`` modules each read one kind of file.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgellama.convert.sources.json_fields import Fields, read_fields
from edgellama.convert.vocabulary.bpe_vocabulary import bpe_vocabulary
from edgellama.convert.vocabulary.fast_sentencepiece_vocabulary import (
    fast_sentencepiece_vocabulary,
    is_fast_sentencepiece,
)
from edgellama.convert.vocabulary.sentencepiece_file import read_sentencepiece
from edgellama.convert.vocabulary.sentencepiece_vocabulary import sentencepiece_vocabulary
from edgellama.convert.vocabulary.split_pattern_names import is_byte_level
from edgellama.convert.vocabulary.tekken_vocabulary import tekken_vocabulary
from edgellama.convert.vocabulary.tiktoken_vocabulary import (
    declared_vocabulary,
    is_tiktoken,
    qwen_vocabulary,
    tiktoken_vocabulary,
)
from edgellama.convert.vocabulary.tokenizer_settings import (
    GENERIC_CLASSES,
    LLAMA_CLASSES,
    TokenizerSettings,
)
from edgellama.convert.vocabulary.vocabulary import ConvertedVocabulary
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError, UnsupportedModelError

_log = logging.getLogger(__name__)
MODEL_FILE, FAST_FILE, TEKKEN_FILE = "tokenizer.model", "tokenizer.json", "tekken.json"
QWEN_FILE = "qwen.tiktoken"
# Mistral's own folders name the file with its version; the newest comes first.
MODEL_FILES = (MODEL_FILE, "tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1")


def read_vocabulary(
    settings: TokenizerSettings, num_rows: int, pre: str | None, *, scaled_positions: bool
) -> ConvertedVocabulary:
    """The vocabulary of the checkpoint in a folder, one token for each row of the embedding.

    A SentencePiece model goes before ``tokenizer.json``, as it is what the model was trained with,
    unless that is byte-level BPE: then the other is left from another model. ``pre``: the split
    pattern's name, for byte-level BPE alone. ``scaled_positions``: as in tiktoken_vocabulary.
    ModelNotFoundError if there is no tokenizer, UnsupportedModelError for one of another kind.
    """
    path = _model_file(settings.folder)
    if path is not None and not is_tiktoken(path) and not _is_left_over(path, settings.tokenizer):
        _refuse_pre(path, pre)
        return sentencepiece_vocabulary(read_sentencepiece(path), settings, num_rows)
    if settings.tokenizer:
        return _from_tokenizer_json(settings, num_rows, pre)
    if path is None:
        if tekken := read_fields(settings.folder / TEKKEN_FILE):
            return tekken_vocabulary(tekken, num_rows, pre)
        if (settings.folder / QWEN_FILE).is_file():
            return qwen_vocabulary(settings.folder / QWEN_FILE, num_rows, pre)
        raise ModelNotFoundError(
            f"{settings.folder}: no tokenizer; needed: {MODEL_FILE}, {FAST_FILE} or {TEKKEN_FILE}"
        )
    if settings.tokenizer_class not in (*GENERIC_CLASSES, *LLAMA_CLASSES, ""):
        return declared_vocabulary(path, settings, num_rows, pre)
    return tiktoken_vocabulary(path, num_rows, pre, scaled_positions=scaled_positions)


def _model_file(folder: Path) -> Path | None:
    """The tokenizer's own file; Llama 1 keeps one for all sizes beside their folders."""
    has_parameters = (folder / "params.json").is_file()
    folders = (folder, folder.resolve().parent) if has_parameters else (folder,)
    places = (place / name for place in folders for name in MODEL_FILES)
    return next((path for path in places if path.is_file()), None)


def _is_left_over(path: Path, tokenizer: Fields) -> bool:
    """Whether a SentencePiece model lies beside a byte-level BPE, which counts then."""
    is_bpe = tokenizer.fields("model").text("type") in ("BPE", None)
    is_other = is_bpe and is_byte_level(tokenizer) and not is_fast_sentencepiece(tokenizer)
    if is_other:
        _log.warning(
            "%s is left out: %s, of another kind, is the tokenizer, as in transformers",
            *(path, FAST_FILE),
        )
    return is_other


def _from_tokenizer_json(
    settings: TokenizerSettings, num_rows: int, pre: str | None
) -> ConvertedVocabulary:
    tokenizer = settings.tokenizer
    if is_fast_sentencepiece(tokenizer):
        _refuse_pre(Path(tokenizer.source), pre)
        return fast_sentencepiece_vocabulary(settings, num_rows)
    kind = tokenizer.fields("model").text("type")
    if kind not in ("BPE", None) or not is_byte_level(tokenizer):
        raise UnsupportedModelError(
            f"{tokenizer.source}: a tokenizer of type {shown(kind)}; supported: byte-level BPE, "
            f"and SentencePiece as {MODEL_FILE}"
        )
    return bpe_vocabulary(settings, num_rows, pre)


def _refuse_pre(path: Path, pre: str | None) -> None:
    if pre is not None:
        raise InvalidOptionError(
            f"the split pattern {shown(pre)}: {path} is SentencePiece, which has none; "
            "allowed: with byte-level BPE"
        )
