"""A tokenizer as llguidance sees it: the bytes of each token, the end tokens, and an encoder.

It is made once for a model. The tokenizer knows how texts are cut into tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.constraints.guidance import llguidance
from edgellama.sampling.filters import Mask
from edgellama.text.tokenizer import Tokenizer
from edgellama.text.tokenizer.added_tokens import Stretch


class GuidanceVocabulary:
    """What llguidance needs of one tokenizer, as ``tokenizer``, and what it does not know of it."""

    def __init__(self, own: Tokenizer) -> None:
        module = llguidance()
        self._own = own
        self.size = own.vocab_size
        self.ends = own.special.end_of_generation
        ends = sorted(self.ends)
        control = {token for token in range(self.size) if own.is_control(token)}
        tokens = [own.token_bytes(token, skip_special=False) for token in range(self.size)]
        if not ends:
            # llguidance needs an end token: this one lies behind those that a model can choose.
            ends = [self.size]
            tokens.append(b"<end>")
        described = _Described(tokens, sorted(control.union(ends)), ends[0], own)
        self.tokenizer: Any = module.LLTokenizer(described, n_vocab=len(tokens), eos_token=ends)
        # llguidance has put the bytes of all tokens into a trie of its own.
        tokens.clear()

    def bytes_of(self, tokens: list[int]) -> bytes:
        """The bytes of tokens inside a text."""
        return b"".join(self._own.token_bytes(token) for token in tokens)

    @cached_property
    def openings(self) -> Openings:
        """Tokens that give other bytes where a text begins than inside it."""
        return Openings(self._own, lambda data: list(self.tokenizer.tokenize_bytes(data)))


class Openings:
    """The first token of a text may lose a space, as SentencePiece decodes.

    ``inside`` says for each such token which tokens give the same bytes inside a text, none for
    no bytes. ``by_bytes`` has the token that gives some bytes here.
    """

    def __init__(self, own: Tokenizer, spell: Callable[[bytes], list[int]]) -> None:
        """``spell`` gives tokens for bytes inside a text."""
        inner = {own.token_bytes(token): token for token in range(own.vocab_size)}
        self.inside: dict[int, list[int]] = {}
        self.by_bytes: dict[bytes, int] = {}
        for token in range(own.vocab_size):
            data = own.opening_bytes(token)[0]
            if data != own.token_bytes(token):
                twin = inner.get(data) if data else None
                self.inside[token] = [twin] if twin is not None else spell(data) if data else []
                self.by_bytes[data] = token
        some = {token: tokens for token, tokens in self.inside.items() if tokens}
        self.tokens: npt.NDArray[np.intp] = np.array(list(some), dtype=np.intp)
        firsts = [tokens[0] for tokens in some.values()]
        self.firsts: npt.NDArray[np.intp] = np.array(firsts, dtype=np.intp)
        self.are_single: npt.NDArray[np.bool_] = np.array(
            [len(x) == 1 for x in some.values()], bool
        )

    def mask(self, inside: Mask, allows: Callable[[list[int]], bool]) -> Mask:
        """What may begin a text, by what may stand there inside one."""
        mask = inside.copy()
        mask[list(self.inside)] = False
        may_begin = inside[self.firsts]
        mask[self.tokens[may_begin & self.are_single]] = True
        for token in self.tokens[may_begin & ~self.are_single].tolist():
            mask[token] = allows(self.inside[token])
        return mask


class _Described:
    """The attributes that llguidance asks a tokenizer for."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int, own: Tokenizer) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        # Through llguidance's objects Python would not see the circle back to the tokenizer.
        self._own = weakref.ref(own)
        self._by_bytes: dict[bytes, int] | None = None

    def __call__(self, text: str) -> list[int]:
        own = self._own()
        if own is None:
            return []
        # Inside a text the tokenizer must put no space before the piece.
        tokens = own.encode_stretch(Stretch(text, is_first=False, has_prefix=True))
        data = text.encode()
        if b"".join(map(own.token_bytes, tokens)) == data:
            return tokens
        # The tokenizer normalizes text, such as runs of spaces: the longest tokens spell it.
        if self._by_bytes is None:
            ids = range(own.vocab_size)
            self._by_bytes = {data: token for token in ids if (data := own.token_bytes(token))}
        return list(_longest(data, self._by_bytes))


def _longest(data: bytes, by_bytes: Mapping[bytes, int]) -> Iterator[int]:
    """The tokens that spell some bytes, each the longest that fits; bytes without one are left."""
    longest = max(map(len, by_bytes), default=0)
    start = 0
    while start < len(data):
        ends = range(min(start + longest, len(data)), start, -1)
        end = next((end for end in ends if data[start:end] in by_bytes), None)
        if end is not None:
            yield by_bytes[data[start:end]]
        start = start + 1 if end is None else end
