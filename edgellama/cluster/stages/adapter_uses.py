"""Adapters in calls of stages: each machine reads its own copy, which is checked by its digest.

The engine knows what adapters do to a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellama.quant.errors import EdgellamaError, ModelFileError

if TYPE_CHECKING:
    from edgellama.engine.weights.adapter_set import AdapterSet
    from edgellama.engine.weights.adapter_shelf import AdapterShelf


@dataclass(frozen=True)
class AdapterUse:
    """The adapter in a file, by what stands for its content, and how strongly it is used."""

    path: str
    digest: bytes
    scale: float


def uses_of(adapters: AdapterSet) -> tuple[AdapterUse, ...]:
    """A text's adapters as calls of stages name them."""
    return tuple(
        AdapterUse(str(adapter.path.resolve()), adapter.digest, scale)
        for adapter, scale in adapters.scales.items()
    )


def adapters_of(shelf: AdapterShelf, uses: tuple[AdapterUse, ...]) -> AdapterSet:
    """A stage's own adapters, loaded where one is used for the first time.

    ModelFileError for another file than the driver's, EdgellamaError for one that is not here.
    """
    return shelf.adapter_set({_loaded(shelf, use): use.scale for use in uses})


def _loaded(shelf: AdapterShelf, use: AdapterUse) -> str:
    name = use.digest.hex()
    if name in shelf.loaded:
        return name
    try:
        adapter = shelf.load(use.path, name)
    except EdgellamaError:
        raise
    except OSError as error:
        raise EdgellamaError(f"adapter {use.path}: {error.strerror or error}") from None
    if adapter.digest != use.digest:
        shelf.unload(adapter)
        raise ModelFileError(
            f"{use.path}: another adapter than the driver's; every machine needs the same file"
        )
    return name
