"""The table of block formats that ``gemv`` and ``embed`` read, block by block.

The layout of each format is known to the family's module, ``blocks_*``. Reading several rows side
by side is left to ``panels``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.block_code import BlockCode
from edgellama.kernels_cpu.formats.blocks_codebooks import CODEBOOK_CODES
from edgellama.kernels_cpu.formats.blocks_iquants import I_QUANT_CODES
from edgellama.kernels_cpu.formats.blocks_kquants import K_QUANT_CODES
from edgellama.kernels_cpu.formats.blocks_legacy import LEGACY_CODES
from edgellama.kernels_cpu.formats.blocks_ternary import TERNARY_CODES

BLOCK_CODES: Mapping[str, BlockCode] = MappingProxyType(
    {**LEGACY_CODES, **K_QUANT_CODES, **I_QUANT_CODES, **CODEBOOK_CODES, **TERNARY_CODES}
)
"""Per format name of ``signatures.QUANTIZED_FORMATS``."""
