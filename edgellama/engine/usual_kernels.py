"""The kernels that common models need, beyond the model that is loaded now.

They are compiled together, the first time that anything is compiled, so that later models need not
wait. ``signatures`` knows the names and arguments of kernels.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgellama.engine.pages.kv_types import KVTypeChoice, KVTypes
from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
from edgellama.kernels_cpu.signatures import SIGNATURES, Kernel
from edgellama.quant.formats import FLOAT_FORMATS, QUANTIZED_FORMATS

WEIGHT_FORMATS = frozenset((*QUANTIZED_FORMATS, *FLOAT_FORMATS))
USUAL_FORMATS = ("F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""Of weights: those of the starter model and of the files that are downloaded most."""
USUAL_CACHE_TYPES = ("f16", "q8_0")
"""Of the KV cache, the same for keys and for values."""
CACHE_FAMILIES = ("rope_store", "attention_direct", "attention_packed")
"""Kernels whose options begin with the types of keys and of values."""
CARD_FAMILIES = ("rope", "attend_on_card")
"""Kernels of steps whose keys and values lie on a graphics card, compiled where one is used."""
USUAL_GROUPS = (1, 3, 4, 8)
"""Query heads that share a key head: Llama 2, SmolLM, Llama 3 and Mistral, TinyLlama."""


def usual_kernels() -> list[str]:
    """The kernels of a chat, a generation and a benchmark with any of the usual types."""
    names = {kernel.name for kernel in SIGNATURES if _has_unusual_rows(kernel)}
    return [n for n in kernels_for(USUAL_FORMATS, USUAL_CACHE_TYPES) if n not in names]


def kernels_for(
    formats: Iterable[str] = WEIGHT_FORMATS,
    cache_types: Iterable[KVTypeChoice] = USUAL_CACHE_TYPES,
) -> list[str]:
    """What models of these formats need, whatever their shape, with a cache of these types."""
    allowed = set(formats)
    pairs = {types.pair for types in map(KVTypes.of, cache_types)}
    names = []
    for kernel in SIGNATURES:
        if kernel.family in CARD_FAMILIES:
            is_wanted = False
        elif kernel.family in CACHE_FAMILIES:
            is_wanted = kernel.options[:2] in pairs
        else:
            is_wanted = allowed.issuperset(WEIGHT_FORMATS.intersection(kernel.options))
        if is_wanted:
            names.append(kernel.name)
    return [*names, CHOICE_KERNEL]


def _has_unusual_rows(kernel: Kernel) -> bool:
    return kernel.family == "attention_direct" and kernel.options[-1] not in USUAL_GROUPS
