"""Places sequences on a card without importing anything of it until a text is long enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellama.engine.card.choice import SHORTEST_AUTO
from edgellama.engine.kv_cache import KVCache
from edgellama.quant.errors import CudaMemoryError

if TYPE_CHECKING:
    from edgellama.engine.card.placement import CardPlacement


class LatePlacement:
    """Stands for a ``CardPlacement``, which ``make`` makes for the first text that may need it."""

    def __init__(self, make: Callable[[], CardPlacement], shortest: int = SHORTEST_AUTO) -> None:
        """``shortest``: tokens up to which a text surely stays on the CPU."""
        self._make, self._shortest = make, shortest
        self.made: CardPlacement | None = None

    def settle(self, cache: KVCache, num_tokens: int, *, may_forget: bool) -> None:
        """See ``kv_cache.Placement``."""
        if self.made is None:
            if num_tokens <= self._shortest:
                return
            self.made = self._make()
        self.made.settle(cache, num_tokens, may_forget=may_forget)

    def retreat(self, cache: KVCache, error: CudaMemoryError) -> None:
        """See ``kv_cache.Placement``."""
        if self.made is None:
            raise error
        self.made.retreat(cache, error)

    def clear(self) -> None:
        """Give back pages that no sequence holds."""
        if self.made is not None:
            self.made.clear()

    def close(self) -> None:
        """Give the card back."""
        if self.made is not None:
            self.made.close()
