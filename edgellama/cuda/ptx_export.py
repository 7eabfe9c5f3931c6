"""PTX that an application ships beside the kernels of the CPU, so that its users compile nothing.

The PTX lies in the folder that ``exported_kernels`` finds and checks, under the hash of the sources
that it was compiled from. A program with other sources does not find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from edgellama.cuda.ptx_text import card_source_hash, read_ptx, write_ptx
from edgellama.kernels_cpu.compiling.exported_kernels import ExportedKernels
from edgellama.kernels_cpu.compiling.source_hash import source_hash
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.digests import blake2b

FOLDER_NAME = "ptx"
KEY_BYTES = 16
READABLE = 0o644


def export_ptx(folder: Path, tier: Tier, texts: Mapping[str, str]) -> None:
    """Add PTX by the kernels' names to an exported folder; OSError, CacheError."""
    place = _place(folder, tier)
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        # Whoever uses the application may be another user.
        write_ptx(place, name, text).chmod(READABLE)


def exported_ptx(tier: Tier, names: Iterable[str]) -> dict[str, str]:
    """Those that the application ships; KernelError for a folder that must be refused."""
    exported = ExportedKernels.find()
    if exported is None:
        return {}
    place = _place(exported.folder, tier)
    found = {name: read_ptx(place, name) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def _place(folder: Path, tier: Tier) -> Path:
    sources = chr(0).join(map(str, (source_hash(), card_source_hash())))
    key = blake2b(sources.encode(), digest_size=KEY_BYTES).hexdigest()
    return folder / FOLDER_NAME / f"{tier.name}-{key}"
