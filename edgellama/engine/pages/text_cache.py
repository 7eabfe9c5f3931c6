"""The interface of a sequence for texts and the scheduler, wherever its keys and values lie.

``KVCache`` and the cluster's sequences implement it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgellama.quant.errors import ContextLengthError, CudaMemoryError, EdgellamaError
from edgellama.quant.typing_backports import Self

if TYPE_CHECKING:
    from edgellama.engine.weights.adapter_set import AdapterSet


class TextCache(Protocol):
    """The tokens of a text that count as computed, and room for ``context_length`` of them.

    ``KVCache`` is one with its own pages; one over stages on other machines has only tokens.
    """

    context_length: int

    @property
    def pool(self) -> object:
        """What sequences have in common that may share a step."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens that are computed; not to be changed."""
        ...

    @property
    def length(self) -> int:
        """How many they are."""
        ...

    @property
    def adapters(self) -> AdapterSet:
        """What they are computed with; other adapters forget all tokens."""
        ...

    @adapters.setter
    def adapters(self, adapters: AdapterSet) -> None: ...

    @property
    def num_bytes(self) -> int:
        """What keys and values take."""
        ...

    def begin(self, prompt_length: int) -> None:
        """Say how long the prompt is, before its first token is computed."""
        ...

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what it holds of ``prompt``, without its last token at most; the length."""
        ...

    def settle(self, num_tokens: int, *, may_forget: bool = False) -> None:
        """Lie where a sequence of ``num_tokens`` tokens should."""
        ...

    def prepare(self, num_tokens: int) -> object:
        """Have room for so many more, which a step is to hold; raises why there is none."""
        ...

    def retreat(self, error: CudaMemoryError) -> None:
        """Leave a card that has no room for what comes; raises where that cannot be."""
        ...

    def append(self, tokens: Sequence[int]) -> None:
        """Count tokens as computed."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        ...

    def passing_room(self, length: int) -> int:
        """How many tokens behind ``length`` may come and be forgotten again."""
        ...

    def fork(self) -> Self:
        """Another sequence of the same tokens."""
        ...

    def close(self) -> None:
        """Give everything back; the sequence is unusable afterwards."""
        ...


def no_room(cache: TextCache, num_tokens: int) -> EdgellamaError:
    """Why a sequence takes no ``num_tokens`` more: it is full, or it was closed."""
    length, context_length = cache.length, cache.context_length
    if not context_length:
        return EdgellamaError("this session is closed")
    return ContextLengthError(
        f"{length} tokens and {num_tokens} more do not fit a context of {context_length} tokens",
        length + num_tokens,
        context_length,
    )
