"""The sequences that a stage holds, by number: which ones are dropped for others, what they share.

``KVCache`` has their pages, ``stage`` takes the calls.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from edgellama.cluster.stages.stage_task import Fork
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import EdgellamaError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgellama.engine.pages.kv_cache import KVCache


class HeldSequences:
    """Keys and values of sequences, under a limit of bytes."""

    def __init__(self, memory_limit: int | None = None) -> None:
        """``memory_limit`` None: there is none. InvalidOptionError for less than a byte."""
        if memory_limit is not None and memory_limit < 1:
            raise InvalidOptionError(f"memory_limit is {memory_limit}; allowed: None or from 1")
        self._memory_limit = memory_limit
        # The least recently used first.
        self._caches: OrderedDict[int, KVCache] = OrderedDict()

    def find(self, sequence: int) -> KVCache | None:
        """What is held of a sequence, which counts as used now."""
        cache = self._caches.get(sequence)
        if cache is not None:
            self._caches.move_to_end(sequence)
        return cache

    def hold(self, sequence: int, cache: KVCache) -> KVCache:
        """Take a sequence, in place of what was held under its number."""
        self.drop(sequence)
        self._caches[sequence] = cache
        return cache

    def drop(self, sequence: int) -> None:
        """Give the memory of a sequence back; nothing happens for unknown ones."""
        cache = self._caches.pop(sequence, None)
        if cache is not None:
            cache.close()

    def close(self) -> None:
        """Give all memory back."""
        for sequence in list(self._caches):
            self.drop(sequence)

    def fork(self, task: Fork) -> int:
        """See ``Fork``; how many tokens the target holds then, all or none."""
        source, tokens = self.find(task.source), task.tokens.tolist()
        if source is None or list(source.tokens[: len(tokens)]) != tokens:
            return 0
        cache = self.hold(task.target, source.fork())
        cache.truncate(len(tokens))
        return cache.length

    def make_room(
        self, cache: KVCache, num_tokens: int, in_use: Collection[int], layers: range
    ) -> None:
        """Forget idle sequences until there is memory for more tokens of one.

        EdgellamaError, which names the ``layers``, where those ``in_use`` take too much.
        """
        if self._memory_limit is None:
            return
        num_pages = -(-(cache.length + num_tokens) // PAGE_POSITIONS)
        needed = max(cache.num_bytes, num_pages * cache.layout.page_bytes)
        for other in [number for number in self._caches if number not in in_use]:
            if needed + self._bytes_besides(cache) <= self._memory_limit:
                return
            self.drop(other)
        if (total := needed + self._bytes_besides(cache)) > self._memory_limit:
            raise EdgellamaError(
                f"layers {layers.start} to {layers.stop - 1}: keys and values would take "
                f"{total / 1e6:.1f} MB; allowed here are {self._memory_limit / 1e6:.1f} MB"
            )

    def _bytes_besides(self, cache: KVCache) -> int:
        return sum(other.num_bytes for other in self._caches.values() if other is not cache)
