"""The split pattern of a file's byte-level BPE, also of a file from before it was written.

``tokenizer.ggml.pre`` may be missing, or only say that its converter did not know. Then a
vocabulary that is recognised decides, or else llama.cpp's default pattern, which is seldom the
model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellama.quant.digests import blake2b
from edgellama.quant.errors import TokenizerError
from edgellama.quant.vocabulary.vocabulary import MERGES

PRE = "tokenizer.ggml.pre"
DEFAULT_PATTERN = "default"
# Llama 3's, 3.1's, 3.2's and 3.3's, whatever special tokens come after it.
_LLAMA3_WORDS, _LLAMA3_MERGES = 128_000, 280_147
_LLAMA3_DIGEST = "3185929cd59eac2ed2a01fdca81b68e5"


def declared_pattern(metadata: Mapping[str, object]) -> str | None:
    """The pattern's name in the file; None if it is missing."""
    name = metadata.get(PRE)
    if name is not None and not isinstance(name, str):
        raise TokenizerError(f"{PRE} is {name!r:.80}; a string")
    return name


def recognised_pattern(metadata: Mapping[str, object], tokens: Sequence[bytes]) -> str | None:
    """The pattern that the vocabulary belongs to for certain; None for one that is not known."""
    merges = metadata.get(MERGES)
    if not isinstance(merges, Sequence) or len(merges) != _LLAMA3_MERGES:
        return None
    words = b"\n".join(tokens[:_LLAMA3_WORDS])
    found = blake2b(words, digest_size=16).hexdigest()
    return "llama-bpe" if found == _LLAMA3_DIGEST else None
