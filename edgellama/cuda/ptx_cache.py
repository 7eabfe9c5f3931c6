"""PTX of the card's kernels: read from the user's code cache, or compiled by worker processes.

The PTX lies beside the machine code of the CPU. Each tier has a folder of its own, named by a hash
of everything that its PTX depends on. Loading the PTX on a card is left to ``modules``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.cuda import ptx_worker
from edgellama.cuda.card_tiers import tier_of_card
from edgellama.cuda.ptx_export import exported_ptx
from edgellama.cuda.ptx_text import card_source_hash, read_ptx
from edgellama.kernels_cpu.compiling.code_cache import key_of
from edgellama.kernels_cpu.compiling.code_folder import read_or_make
from edgellama.kernels_cpu.compiling.source_hash import source_hash
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import KernelError

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.compile_pool import Progress


def ptx_of(
    kernels: Iterable[Kernel], capability: tuple[int, int], progress: Progress | None = None
) -> dict[Kernel, str]:
    """PTX by kernel, for a card of this compute capability.

    What an application ships comes first. What the cache lacks is compiled, of which ``progress``
    hears the number done and the total. Raises KernelError and CacheError.
    """
    tier = tier_of_card(*capability)
    if tier is None:
        raise KernelError(f"no kernels for compute capability {'.'.join(map(str, capability))}")
    wanted = {kernel.name: kernel for kernel in kernels}

    def compile_missing(missing: Sequence[str], folder: Path, report: Progress) -> None:
        from edgellama.kernels_cpu.compiling.compile_pool import compile_kernels

        compile_kernels(missing, tier, folder, report, worker=ptx_worker.__name__)

    found = exported_ptx(tier, wanted)
    if missing := [name for name in wanted if name not in found]:
        found |= read_or_make(missing, ptx_key(tier), read_ptx, compile_missing, progress)
    return {wanted[name]: ptx for name, ptx in found.items()}


def ptx_key(tier: Tier) -> str:
    """The name of the folder with a tier's PTX for the present sources and compilers.

    Kernels are written over layouts and vectors of the CPU's kernels.
    """
    sources = source_hash(), card_source_hash()
    if None in sources:
        raise KernelError(
            "this application was frozen without the hashes of edgellama's sources; bundle "
            "edgellama/cuda/source_hash.txt (PyInstaller does it by itself)"
        )
    return key_of(tier, *map(str, sources))
