"""A worker process that compiles kernels of the card and writes their PTX to a folder.

It is started like ``kernels_cpu.compiling.compile_worker`` and speaks the same protocol: it reads
names of kernels from standard input and reports each one that is done. ``ptx_target`` does the
compiling.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgellama.cuda.card_tiers import CARD_TIERS
from edgellama.cuda.ptx_text import write_ptx
from edgellama.cuda.signatures import CARD_KERNELS
from edgellama.kernels_cpu.compiling import compile_worker


def compile_into(
    folder: Path, tier_name: str, names: Iterable[str], done: Callable[[str], None]
) -> None:
    """Compile ``names`` for a tier of cards into ``folder/NAME.ptx``; ``done`` hears of each."""
    from edgellama.cuda import ptx_target

    ptx_target.use_card({tier.name: tier for tier in CARD_TIERS}[tier_name])
    for name in names:
        ptx = ptx_target.compile_ptx(CARD_KERNELS[name])
        write_ptx(folder, name, ptx)
        done(name)


def main(arguments: Sequence[str]) -> None:
    """Entry of the worker process."""
    compile_worker.main(arguments, compile_into)


if __name__ == "__main__":
    main(sys.argv[1:])
