"""Text to tokens and back, from what a GGUF file says about its vocabulary.

Two kinds: SentencePiece and byte-level BPE. This package knows no model and no template.
"""

from edgellama.quant.special_tokens import SpecialTokens
from edgellama.tokenizer.base import Tokenizer
from edgellama.tokenizer.detokenizer import StreamingDetokenizer
from edgellama.tokenizer.load import load_tokenizer
from edgellama.tokenizer.stop_strings import StopStrings

__all__ = [
    "SpecialTokens",
    "StopStrings",
    "StreamingDetokenizer",
    "Tokenizer",
    "load_tokenizer",
]
