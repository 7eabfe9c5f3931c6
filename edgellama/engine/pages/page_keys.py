"""Keys of pages: a hash of the tokens of a page and of all tokens before it.

They find a text's pages again. Everything else that decides keys and values is hashed before the
first page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.digests import blake2b

KEY_BYTES = 16
"""Of a page's key: two different texts share one with a probability of 2**-64 at most."""
PageKey: TypeAlias = bytes
"""Stands for the tokens of a page and of all before it, and for what they were computed with."""


def hook_origin(num_changes: int, has_hooks: bool) -> bytes:
    """What stands for hooks in an origin: which change gave them, or nothing for none."""
    return num_changes.to_bytes(8, "little") if has_hooks else b""


def page_key(before: bytes, number: int, tokens: Sequence[int]) -> PageKey:
    """The key of page ``number`` of ``tokens``; ``before``: of the page before, or the origin."""
    own = np.array(tokens[number * PAGE_POSITIONS : (number + 1) * PAGE_POSITIONS], "<i4")
    return blake2b(before + own.tobytes(), digest_size=KEY_BYTES).digest()


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    most = min(len(first), len(second))
    if list(first[:most]) == list(second[:most]):
        return most
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return most
