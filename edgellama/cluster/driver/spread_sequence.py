"""A sequence as its driver knows it: only its tokens, since stages hold keys and values.

It takes the place of a ``KVCache``, so it says how much may be reused, how far a text may go, and
what is forgotten. Stages learn of it from the position of the next call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from edgellama.cluster.driver.beginnings import LEAST_SHARED, Beginnings, Held
from edgellama.cluster.stages.next_token import NextToken, are_alike
from edgellama.cluster.stages.stage_call import Order
from edgellama.cluster.stages.stage_task import Fork
from edgellama.engine.pages.page_keys import shared_length
from edgellama.engine.pages.text_origin import TextOrigin
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.quant.errors import CudaMemoryError, EdgellamaError, InvalidOptionError
from edgellama.sampling.choice_order import ChoiceOrder
from edgellama.sampling.share_order import ShareOrder

_NUMBERS = itertools.count(1)
"""For sequences of all engines of a process: stages may still know those of a closed engine."""


class SpreadSequence:
    """Tokens of one text on its stages; ``fork_order`` hears what these are to share.

    ``beginnings``: what else they hold. ``is_passing``: nothing of it is kept for later texts.
    ``number``: what stages call it. ``dynamic_from``: as for ``KVCache``. ``order``: how the
    tokens that its work ends with are chosen by the last stage; None: it gives logits.
    ``last_order``: that of the last call that said one.
    """

    def __init__(
        self,
        context_length: int,
        beginnings: Beginnings,
        fork_order: Callable[[Fork], None],
        *,
        window: int | None = None,
        dynamic_from: int | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
        is_passing: bool = False,
    ) -> None:
        if context_length < 1:
            raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
        self.context_length = context_length
        self.window = ALL_KEYS if window is None else window
        self.number = next(_NUMBERS)
        self.failure: EdgellamaError | None = None
        self.order: Order | None = None
        self.next_order: Order | None = None
        self.last_order: ChoiceOrder | None = None
        self._beginnings = beginnings
        self._origin = TextOrigin(beginnings.origin, adapters, dynamic_from)
        self._fork_order = fork_order
        self._is_passing = is_passing
        self._tokens: list[int] = []
        if not is_passing:
            beginnings.enter(self)

    @property
    def held(self) -> Held:
        """What stages hold of it."""
        return Held(self.number, self._tokens.copy(), self._origin.first_key)

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
        return self._origin.adapters

    @adapters.setter
    def adapters(self, adapters: AdapterSet) -> None:
        if adapters is not self._origin.adapters:
            self._tokens.clear()
            self._origin.adapters = adapters

    @property
    def prompt_length(self) -> int:
        """How long the prompt is that the tokens began with."""
        return self._origin.prompt_length

    @property
    def begun_with(self) -> bytes:
        """The hooks at its first token."""
        return self._origin.begun_with

    @property
    def num_bytes(self) -> int:
        """What the stages hold for it, all together."""
        return self._beginnings.bytes_of(self.length)

    def begin(self, prompt_length: int) -> None:
        """See ``KVCache.begin``."""
        if not self._origin.keeps_turn(prompt_length):
            self._tokens.clear()
        if not self._tokens:
            self._origin.begun_with = self._beginnings.origin
        self._origin.prompt_length = prompt_length

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what it holds of ``prompt``, without its last token at most; the length.

        Where another text has more of it, this one goes on from there. Nothing is kept that would
        be computed otherwise now.
        """
        if self.begun_with != self._beginnings.origin:
            self._tokens.clear()
        self.begin(len(prompt))
        most = len(prompt) - 1
        self.truncate(min(shared_length(self._tokens, prompt), most))
        found = self._beginnings.find(prompt, self._origin.first_key)
        if found is not None and min(found[1], most) >= self.length + LEAST_SHARED:
            source, length = found[0], min(found[1], most)
            self.renew()
            self._tokens = list(prompt[:length])
            self._share_from(source)
        return self.length

    @property
    def pool(self) -> None:
        """None: all sequences of a model over stages share steps."""

    def settle(self, num_tokens: int, *, may_forget: bool = False) -> None:
        """Nothing to do: the stages decide where keys and values lie."""

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

    def next_call(self, token: int) -> NextToken | None:
        """What stages need to hear of its next token; None if they need a call that says all."""
        order = self.next_order
        is_plain = not self.adapters and self.window == ALL_KEYS and self.failure is None
        if not is_plain or self.length >= self.context_length or isinstance(order, ShareOrder):
            return None
        if not are_alike(order, self.last_order):
            return None
        return NextToken.of(self.number, self.length, token, order)

    def append(self, tokens: Sequence[int]) -> None:
        """Count tokens as computed."""
        self._origin.go_on(self._beginnings.origin, has_tokens=bool(self._tokens))
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
        """Another sequence of the same tokens, which stages share from their next step on."""
        other = SpreadSequence(
            self.context_length, self._beginnings, self._fork_order,
            window=self.window, is_passing=self._is_passing,
        )  # fmt: skip
        other._origin = self._origin.copy()
        other._tokens = self._tokens.copy()
        other._share_from(self.number)
        return other

    def restore(self, tokens: Sequence[int], prompt_length: int) -> None:
        """Count these as computed, in place of what is here; ``prompt_length`` began them."""
        self._origin.begun_with = self._beginnings.origin
        self._origin.prompt_length = prompt_length
        self._tokens = list(tokens)

    def renew(self) -> None:
        """Another number: what still runs under the old one cannot disturb it."""
        self._beginnings.retire(self.number)
        self.number = next(_NUMBERS)

    def close(self) -> None:
        """Leave what it has to later texts; the sequence is unusable afterwards."""
        if not self.context_length:
            return
        if self.length and not self._is_passing:
            self._beginnings.leave(self.held)
        else:
            self._beginnings.retire(self.number)
        self._tokens.clear()
        self.context_length = 0

    def __del__(self) -> None:
        # An __init__ that failed has no tokens.
        if hasattr(self, "_tokens"):
            self.close()

    def _share_from(self, source: int) -> None:
        """Have stages take the tokens that it counts as computed from another sequence."""
        if self._tokens:
            self._fork_order(Fork(source, self.number, np.array(self._tokens, np.int32)))
