"""A sequence as its driver knows it: the tokens. Keys and values are the stages' alone.

It stands where a text's code expects a ``KVCache``, and so it says how much may be reused, how far
a text may go, and what is forgotten. Stages find out by the position of the next call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NoReturn

from edgellama.engine.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.engine.kv_cache import shared_length
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.quant.errors import CudaMemoryError, EdgellamaError, InvalidOptionError
from edgellama.sampling.choice_order import ChoiceOrder

_NUMBERS = itertools.count(1)


class SpreadSequence:
    """Tokens of one text on its stages; ``retire`` hears of numbers that are used no more.

    ``number``: what stages call it. ``dynamic_from``: as for ``KVCache``. ``order``: how the
    tokens that its work ends with are chosen by the last stage; None: it gives logits.
    """

    def __init__(
        self,
        context_length: int,
        retire: Callable[[int], None],
        bytes_of: Callable[[int], int],
        *,
        window: int | None = None,
        dynamic_from: int | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
    ) -> None:
        if context_length < 1:
            raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
        self.context_length = context_length
        self.window = ALL_KEYS if window is None else window
        self.number = next(_NUMBERS)
        self.prompt_length = 0
        self.failure: EdgellamaError | None = None
        self.order: ChoiceOrder | None = None
        self.next_order: ChoiceOrder | None = None
        self._retire = retire
        self._bytes_of = bytes_of
        self._dynamic_from = dynamic_from
        self._adapters = adapters
        self._tokens: list[int] = []

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens that count as computed; not to be changed."""
        return self._tokens

    @property
    def length(self) -> int:
        """How many they are."""
        return len(self._tokens)

    @property
    def adapters(self) -> AdapterSet:
        """What its tokens are computed with; others forget all tokens."""
        return self._adapters

    @adapters.setter
    def adapters(self, adapters: AdapterSet) -> None:
        if adapters is not self._adapters:
            self._tokens.clear()
            self._adapters = adapters

    @property
    def num_bytes(self) -> int:
        """What the stages hold for it, all together."""
        return self._bytes_of(self.length)

    def begin(self, prompt_length: int) -> None:
        """See ``KVCache.begin``."""
        if self._turned_for(prompt_length) != self._turned_for(self.prompt_length):
            self._tokens.clear()
        self.prompt_length = prompt_length

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what is there of ``prompt``, all but its last token at most; its length."""
        self.begin(len(prompt))
        self.truncate(min(shared_length(self._tokens, prompt), len(prompt) - 1))
        return self.length

    @property
    def pool(self) -> None:
        """None: all sequences of a model over stages share steps."""

    def settle(self, num_tokens: int, *, may_forget: bool = False) -> None:
        """Nothing: where keys and values lie is the stages' business."""

    def retreat(self, error: CudaMemoryError) -> NoReturn:
        """Never asked for; the error."""
        raise error

    def prepare(self, num_tokens: int) -> None:
        """What went wrong with its last step is raised before the next."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def take_order(self) -> None:
        """What was ordered holds for the work that begins, and for no other."""
        self.order, self.next_order = self.next_order, None

    def append(self, tokens: Sequence[int]) -> None:
        """Count tokens as computed."""
        self._tokens.extend(tokens)

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        if not 0 <= length <= self.length:
            raise InvalidOptionError(
                f"cannot truncate to {length} tokens; the sequence holds {self.length}"
            )
        del self._tokens[length:]

    def passing_room(self, length: int) -> int:
        """How many tokens behind ``length`` may come and be forgotten again.

        None behind a sliding window, since the stages would have to compute all of it again.
        """
        return self.context_length - length if length <= self.window else 0

    def fork(self) -> SpreadSequence:
        """Another sequence of the same tokens, which stages compute when it goes on."""
        other = SpreadSequence(
            self.context_length, self._retire, self._bytes_of,
            window=self.window, dynamic_from=self._dynamic_from, adapters=self._adapters,
        )  # fmt: skip
        other.prompt_length = self.prompt_length
        other._tokens = self._tokens.copy()
        return other

    def renew(self) -> None:
        """Another number: what still runs under the old one cannot disturb it."""
        self._retire(self.number)
        self.number = next(_NUMBERS)

    def close(self) -> None:
        """Give everything back; the sequence is unusable afterwards."""
        self._tokens.clear()
        self.context_length = 0
        self._retire(self.number)

    def __del__(self) -> None:
        # An __init__ that failed has no tokens.
        if hasattr(self, "_tokens"):
            self.close()

    def _turned_for(self, prompt_length: int) -> int:
        is_beyond = self._dynamic_from is not None and prompt_length > self._dynamic_from
        return prompt_length if is_beyond else 0
