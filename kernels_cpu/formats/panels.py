"""The table of block formats that ``gemm`` and ``skinny`` read, several rows side by side.

How the rows of a format are read is known to the family's module, ``panels_*``. Reading single rows
is left to ``blocks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.kernels_cpu.formats.panel_code import PanelCode
from edgellama.kernels_cpu.formats.panels_codebooks import CODEBOOK_PANELS
from edgellama.kernels_cpu.formats.panels_iquants import I_QUANT_PANELS
from edgellama.kernels_cpu.formats.panels_kquants import K_QUANT_PANELS
from edgellama.kernels_cpu.formats.panels_legacy import LEGACY_PANELS
from edgellama.kernels_cpu.formats.panels_ternary import TERNARY_PANELS

PANEL_CODES: Mapping[str, PanelCode] = MappingProxyType(
    {**LEGACY_PANELS, **K_QUANT_PANELS, **I_QUANT_PANELS, **CODEBOOK_PANELS, **TERNARY_PANELS}
)
"""Per format name of ``signatures.QUANTIZED_FORMATS``."""
