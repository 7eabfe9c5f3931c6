"""The pages of an engine: a pool for each choice of types, all with the same origin.

The origin stands for everything besides tokens and adapters that decides keys and values. So texts
are found again only where they would be computed in the same way.
"""

from __future__ import annotations

from edgellama.engine.pages.kv_types import KVTypeChoice, KVTypes
from edgellama.engine.pages.page_keys import hook_origin
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import PagePool
from edgellama.quant.model_config import ModelConfig


class PagePools:
    """Pools that are made when they are first asked for."""

    def __init__(
        self,
        config: ModelConfig,
        usual: KVTypeChoice,
        *,
        lanes: int,
        num_layers: int,
        limit_bytes: int,
        rope_scaling: str | None,
    ) -> None:
        """``usual``: types of caches that do not ask for others; ``limit_bytes``: of each pool.

        ``rope_scaling``: what was asked for instead of the file's.
        """
        self.usual = KVTypes.of(usual)
        self._config, self._lanes, self._num_layers = config, lanes, num_layers
        self._limit_bytes, self._rope_scaling = limit_bytes, rope_scaling or ""
        self._num_changes, self._hook_origin = 0, b""
        self._pools: dict[KVTypes, PagePool] = {}

    def of(self, kv_type: KVTypeChoice | None = None) -> PagePool:
        """The pages of all sequences whose keys and values are of these types."""
        types = self.usual if kv_type is None else KVTypes.of(kv_type)
        pool = self._pools.get(types)
        if pool is None:
            layout = PageLayout.of(self._config, types, self._lanes, self._num_layers)
            new = PagePool(layout, self._limit_bytes, origin=self._origin())
            pool = self._pools.setdefault(types, new)
        return pool

    def clear(self) -> None:
        """Give back pages that no sequence holds."""
        for pool in self._pools.values():
            pool.clear()

    def close(self) -> None:
        """Give back the same, and later each page whose last sequence goes."""
        for pool in self._pools.values():
            pool.limit_bytes = 0

    def change_origin(self, has_hooks: bool) -> None:
        """Find nothing any more of what other hooks, or none, have changed until now."""
        self._num_changes += 1
        self._hook_origin = hook_origin(self._num_changes, has_hooks)
        for pool in self._pools.values():
            pool.change_origin(self._origin())

    def _origin(self) -> bytes:
        return self._hook_origin + self._rope_scaling.encode()
