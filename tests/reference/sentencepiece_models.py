"""Small SentencePiece models, trained by the library and read by our tokenizer."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from edgellama.quant.vocabulary.vocabulary import TokenType
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from reference.tokenizer_references import hard_text
from reference.vocabularies import sentencepiece_metadata

USER_DEFINED = ["<tool>", "</tool>", "##", "\u2581\u2581\u2581\u2581"]


@dataclass(frozen=True)
class Options:
    """How a small model is trained."""

    byte_fallback: bool
    add_space_prefix: bool
    remove_extra_whitespaces: bool
    user_defined: bool


CASES = (
    Options(True, True, False, False),
    Options(True, False, False, True),
    Options(False, True, True, False),
    Options(True, True, True, True),
    Options(False, False, False, True),
)


@cache
def both_ways(options: Options) -> tuple[Tokenizer, Any]:
    """Our tokenizer, and the library's with the model as it was trained."""
    model = io.BytesIO()
    corpus = [line for text in hard_text() for line in ascii(text).split("\\n") if len(line) < 900]
    SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=options.byte_fallback,
        add_dummy_prefix=options.add_space_prefix,
        remove_extra_whitespaces=options.remove_extra_whitespaces,
        normalization_rule_name="identity",
        control_symbols=["<ctl>"],
        user_defined_symbols=USER_DEFINED if options.user_defined else [],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    metadata = sentencepiece_metadata(
        processor,
        add_space_prefix=options.add_space_prefix,
        remove_extra_whitespaces=options.remove_extra_whitespaces,
    )
    types = metadata["tokenizer.ggml.token_type"]
    assert isinstance(types, list)
    for symbol in USER_DEFINED if options.user_defined else []:
        types[processor.piece_to_id(symbol)] = int(TokenType.USER_DEFINED)
    return load_tokenizer(metadata), processor
