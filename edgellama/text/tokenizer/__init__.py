"""Text to tokens and back, by what a GGUF file says about its vocabulary.

There are two kinds: SentencePiece and byte-level BPE. This package knows no model and no template.
"""

from edgellama.quant.vocabulary.special_tokens import SpecialTokens
from edgellama.text.stop_strings import StopStrings
from edgellama.text.tokenizer.base import Tokenizer
from edgellama.text.tokenizer.detokenizer import StreamingDetokenizer
from edgellama.text.tokenizer.load import load_tokenizer

__all__ = [
    "SpecialTokens",
    "StopStrings",
    "StreamingDetokenizer",
    "Tokenizer",
    "load_tokenizer",
]
