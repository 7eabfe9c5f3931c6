"""How each block format is read: the one table, by families that know the layouts."""

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
