"""The part of ``edgellama warmup`` for graphics cards: the kernels of a model's attention.

``engine.card.attention`` knows which kernels a model needs, ``cuda.ptx_cache`` compiles them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.engine.engine import Engine
    from edgellama.kernels_cpu.machine.cpu import Tier

Capability = tuple[int, int]


class CardWarmup:
    """PTX of models, compiled for this machine's card, or for all cards where it is shipped."""

    def __init__(self, *, is_shipped: bool) -> None:
        self._capabilities = _all_capabilities() if is_shipped else _own_capability()
        self._texts: defaultdict[Tier, dict[str, str]] = defaultdict(dict)

    def compile(self, engine: Engine, report: Callable[[int, int], None]) -> None:
        """What an engine would launch for its own type of keys and values."""
        from edgellama.cuda.card_tiers import tier_of_card
        from edgellama.cuda.ptx_cache import ptx_of
        from edgellama.engine.card.attention import CardKernels
        from edgellama.engine.pages.card_layout import CardLayout
        from edgellama.engine.pages.page_layout import PageLayout

        pages = engine.pool().layout
        assert isinstance(pages, PageLayout)
        layout = CardLayout(pages, pages.num_layers)
        for capability in self._capabilities:
            tier = tier_of_card(*capability)
            assert tier is not None
            kernels = CardKernels.of(engine.config, layout, capability).all
            found = ptx_of(kernels, capability, report)
            self._texts[tier] |= {kernel.name: text for kernel, text in found.items()}

    def export(self, folder: Path) -> str:
        """Put all into an exported folder; what was put there, in words."""
        from edgellama.cuda.ptx_export import export_ptx

        for tier, texts in self._texts.items():
            export_ptx(folder, tier, texts)
        return ", ".join(f"{len(texts)} for {tier.name}" for tier, texts in self._texts.items())


def _all_capabilities() -> Sequence[Capability]:
    """The least of each tier."""
    return ((8, 0), (7, 5))


def _own_capability() -> Sequence[Capability]:
    """That of the card which would be used; nothing without one."""
    from edgellama.cuda.cards import choose_card
    from edgellama.cuda.driver import Driver
    from edgellama.quant.errors import CudaError

    try:
        return (choose_card(Driver.load()).capability,)
    except CudaError:
        return ()
