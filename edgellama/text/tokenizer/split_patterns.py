"""How a BPE tokenizer cuts text into words before it merges: one table by name.

The names are the values of ``tokenizer.ggml.pre``. Merging the words is left to byte_pair_merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import MappingProxyType
from typing import Any

from edgellama.quant.errors import UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import GPT2, LLAMA3, TEKKEN


@dataclass(frozen=True)
class Splitter:
    """Patterns applied one after the other, each to the pieces of the one before.

    What a pattern does not match stays as pieces of its own. ``takes_whole_words``: a word
    that is a token is taken as it is, without merging (Hugging Face's ``ignore_merges``).
    """

    patterns: tuple[str, ...]
    takes_whole_words: bool = False
    adds_bos: bool = False

    @cached_property
    def _compiled(self) -> list[Any]:
        regex: Any = import_module("regex")  # late: 20 ms; it has no type stubs
        return [regex.compile(f"({pattern})") for pattern in self.patterns]

    def split(self, text: str) -> list[str]:
        """The words of a text; joined, they are the text."""
        words = [text]
        for pattern in self._compiled:
            words = [part for word in words for part in pattern.split(word) if part]
        return words


SPLITTERS: Mapping[str, Splitter] = MappingProxyType(
    {
        "default": Splitter((r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
        "dbrx": Splitter((LLAMA3,)),
        "gpt-2": Splitter((GPT2,)),
        "llama-bpe": Splitter((LLAMA3,), takes_whole_words=True, adds_bos=True),
        # As for dbrx, llama.cpp has Llama 3's pattern, but takes no whole words and adds no BOS.
        "smaug-bpe": Splitter((LLAMA3,)),
        "smollm": Splitter((r"\p{N}", GPT2)),
        "tekken": Splitter((TEKKEN,), takes_whole_words=True, adds_bos=True),
    }
)


def splitter_for(name: str) -> Splitter:
    """The splitter of a ``tokenizer.ggml.pre``; UnsupportedModelError lists the known names."""
    splitter = SPLITTERS.get(name)
    if splitter is None:
        known = ", ".join(sorted(SPLITTERS))
        raise UnsupportedModelError(f"tokenizer.ggml.pre is {name!a}; known: {known}")
    return splitter
