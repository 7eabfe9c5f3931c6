"""SentencePiece from GGUF metadata (``tokenizer.ggml.model`` = ``llama``, or ``t5`` for unigram).

The model is rebuilt from the file and handed to the sentencepiece library, which cuts the
text. Tokens go back to bytes here, one by one, as streaming needs it.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgellama.quant.vocabulary.sentencepiece_model import SPACE_SYMBOL, processor, read_model
from edgellama.quant.vocabulary.special_tokens import SENTENCEPIECE_NAMES, read_special_tokens
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary, flag
from edgellama.text.tokenizer.base import Tokenizer

UNKNOWN_SURFACE = " \N{DOUBLE QUESTION MARK} ".encode()  # what the library writes


class SentencePieceTokenizer(Tokenizer):
    """The sentencepiece library over the model's own vocabulary."""

    decode_errors = "surrogateescape"
    controls_end_characters = True

    def __init__(self, metadata: Mapping[str, object]) -> None:
        vocabulary = Vocabulary.from_metadata(metadata)
        special = read_special_tokens(
            metadata, vocabulary, add_bos_default=True, names=SENTENCEPIECE_NAMES
        )
        super().__init__(vocabulary, special)
        self._adds_space = flag(metadata, "tokenizer.ggml.add_space_prefix", True)
        self._removes_spaces = flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", False)
        proto = read_model(metadata, vocabulary, special.unknown_id)
        self._processor = processor(proto)

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
