"""SentencePiece from GGUF metadata (``tokenizer.ggml.model`` = ``llama``, or ``t5`` for unigram).

The model is rebuilt from the file and handed to the sentencepiece library, which cuts the
text. Tokens go back to bytes here, one by one, as streaming needs it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgellama.quant.errors import TokenizerError
from edgellama.tokenizer.base import Tokenizer
from edgellama.tokenizer.sentencepiece_model import SPACE_SYMBOL, model_proto
from edgellama.tokenizer.special_tokens import read_special_tokens
from edgellama.tokenizer.vocabulary import TokenType, Vocabulary, flag

UNKNOWN_SURFACE = " \N{DOUBLE QUESTION MARK} ".encode()  # what the library writes
_CONTROL_NAMES = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"}


class SentencePieceTokenizer(Tokenizer):
    """The sentencepiece library over the model's own vocabulary."""

    decode_errors = "surrogateescape"
    controls_end_characters = True

    def __init__(self, metadata: Mapping[str, object]) -> None:
        vocabulary = Vocabulary.from_metadata(metadata)
        special = read_special_tokens(
            metadata, vocabulary, add_bos_default=True, names=_CONTROL_NAMES
        )
        super().__init__(vocabulary, special)
        self._adds_space = flag(metadata, "tokenizer.ggml.add_space_prefix", True)
        self._removes_spaces = flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", False)
        proto = model_proto(
            vocabulary,
            add_space_prefix=self._adds_space,
            remove_extra_whitespaces=self._removes_spaces,
            unigram=metadata.get("tokenizer.ggml.model") == "t5",
            charsmap=_charsmap(metadata),
            unknown_id=special.unknown_id,
        )
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor = SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise TokenizerError(f"sentencepiece refuses the vocabulary: {error}") from error

    def opening_bytes(self, token: int, *, skip_special: bool = True) -> tuple[bytes, bool]:
        """As sentencepiece decodes: a first token loses the space that encoding adds."""
        data = self.token_bytes(token, skip_special=skip_special)
        strips = self._adds_space or self._removes_spaces
        if strips and self._vocabulary.tokens[token].startswith(SPACE_SYMBOL):
            return data[1:], self._removes_spaces and len(data) == 1
        return data, not data

    def _encode_text(self, text: str) -> list[int]:
        tokens: list[int] = self._processor.encode(text)
        return tokens

    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        raw = self._vocabulary.tokens[token]
        if token_type == TokenType.BYTE:
            return bytes((int(raw[3:5], 16),))
        if token_type == TokenType.UNKNOWN:
            return UNKNOWN_SURFACE
        return raw.replace(SPACE_SYMBOL, b" ")


def _charsmap(metadata: Mapping[str, object]) -> bytes:
    """How characters are normalized; empty where the file does not say."""
    values = metadata.get("tokenizer.ggml.precompiled_charsmap")
    if values is None:
        return b""
    if not isinstance(values, np.ndarray) or values.dtype not in (np.uint8, np.int8):
        raise TokenizerError("tokenizer.ggml.precompiled_charsmap is no array of bytes")
    return values.tobytes()
