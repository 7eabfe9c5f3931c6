"""The adapters that are loaded for one model, by name, and the sets of them that texts use.

``adapter_factors`` reads one. Whoever makes a shelf compiles the kernels that adapters need.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgellama.engine.weights.adapter import Adapter
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet, checked_scale
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import QUANTIZED_FORMATS
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.given_values import check_function, given_path
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.process_bound import call_after_fork

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.compile_pool import Progress

AdapterScales: TypeAlias = (
    Mapping[Adapter, float] | Mapping[str, float] | Mapping[Adapter | str, float]
)
"""Adapters, or their names, with the scale of each."""


class AdapterShelf:
    """Loads adapters for a model, and gives the same object for equal sets. Thread-safe."""

    def __init__(
        self,
        file: GGUFFile,
        config: ModelConfig,
        num_rows: int,
        panel_rows: int,
        ensure: Callable[[Adapter, Progress | None], None],
    ) -> None:
        """``num_rows`` and ``panel_rows``: of the buffers that steps work in.

        ``ensure`` compiles what an adapter needs, and tells how far it has come.
        """
        self._ensure = ensure
        self._base = file.path
        self._shapes = {
            tensor.name: tensor.shape for tensor in file.tensors.values() if len(tensor.shape) == 2
        }
        self._quantized = {
            tensor.name
            for tensor in file.tensors.values()
            if tensor.format.name in QUANTIZED_FORMATS
        }
        widths = config.embedding_length, config.feed_forward_length, config.query_length
        self._max_rank = max(widths)
        self._is_half_split = config.is_half_split
        self._num_rows = num_rows
        self._panel_rows = panel_rows
        self._adapters: dict[str, Adapter] = {}
        # The keys are adapters themselves: two of one file are equal but for their names.
        self._sets: weakref.WeakValueDictionary[tuple[object, ...], AdapterSet]
        self._sets = weakref.WeakValueDictionary()
        self._renew_lock()
        call_after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        # Reentrant: a signal's handler may ask for a set within another one's making.
        self._lock = threading.RLock()

    @property
    def loaded(self) -> Mapping[str, Adapter]:
        """Adapters by name."""
        return dict(self._adapters)

    def load(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        progress: Progress | None = None,
    ) -> Adapter:
        """Map the adapter in a GGUF file; ``name`` None is the file's without its ending.

        ``progress`` hears of (compiled, total) kernels, if any must be compiled. Raises
        ModelNotFoundError, ModelFileError, UnsupportedModelError, and InvalidOptionError for a
        name that another adapter has.
        """
        path = Path(os.path.expanduser(given_path("path", path)))
        name = path.stem if name is None else name
        if not isinstance(name, str) or not name:
            raise InvalidOptionError(f"name is {shown(name)}; allowed: any text but an empty one")
        check_function("progress", progress, "two numbers")
        # Few models have adapters, and every start would wait for these imports.
        from edgellama.engine.weights.adapter_factors import make_adapter
        from edgellama.quant.gguf.adapter_file import read_adapter

        self._check_new(name)
        file = read_adapter(
            path, self._shapes, self._base, self._max_rank, is_half_split=self._is_half_split
        )
        adapter = make_adapter(name, file, self._quantized)
        self._ensure(adapter, progress)
        with self._lock:
            self._check_new(name)
            self._adapters[name] = adapter
        return adapter

    def unload(self, adapter: Adapter | str) -> None:
        """Forget an adapter; texts that use it go on, and its memory goes with the last of them."""
        found = self._find(adapter)
        with self._lock:
            self._adapters.pop(found.name, None)

    def adapter_set(self, scales: AdapterScales | AdapterSet | None) -> AdapterSet:
        """The adapters with their scales, those with 0 left out; a set is there already.

        InvalidOptionError for an adapter that is not loaded here, and for scales that are no
        numbers.
        """
        if scales is None:
            return NO_ADAPTERS
        if isinstance(scales, AdapterSet):
            return scales
        if not isinstance(scales, Mapping):
            raise InvalidOptionError(
                f"adapters is {scales!r:.80}; allowed: a dictionary of adapters, or their names, "
                "with the scale of each, such as {'french': 1.0}"
            )
        found: dict[Adapter, float] = {}
        for key, scale in scales.items():
            adapter = self._find(key)
            if adapter in found:
                raise InvalidOptionError(f"adapter {adapter.name!r} is given twice; allowed: once")
            found[adapter] = checked_scale(adapter.name, scale)
        wanted = AdapterSet(found, self._num_rows, self._panel_rows)
        if not wanted:
            return NO_ADAPTERS
        with self._lock:
            return self._sets.setdefault(tuple(wanted.scales.items()), wanted)

    def _find(self, key: Adapter | str) -> Adapter:
        name = key.name if isinstance(key, Adapter) else key
        found = self._adapters.get(name) if isinstance(name, str) else None
        if found is None or (isinstance(key, Adapter) and key is not found):
            names = ", ".join(map(repr, self._adapters)) or "none; load_adapter loads one"
            raise InvalidOptionError(
                f"adapter {name!r:.80} is not loaded for this model; loaded: {names}"
            )
        return found

    def _check_new(self, name: str) -> None:
        if name in self._adapters:
            raise InvalidOptionError(
                f"an adapter {name!r} is loaded already, {self._adapters[name].path}; give "
                "another name, or unload that one"
            )
