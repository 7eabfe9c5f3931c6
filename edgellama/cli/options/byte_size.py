"""Amounts of memory on the command line: 2GB, 500MiB, 0.

``measure.footprint_fit`` reads them.
"""

from __future__ import annotations

from typing import Any

import click


class ByteSize(click.ParamType[Any]):
    """``2GB`` (10^9 bytes each), ``500MiB`` (2^20 each) or ``0``; a bare number is GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; a usage error for anything else."""
        from edgellama.measure.footprint_fit import parse_size
        from edgellama.quant.errors import InvalidOptionError

        if not isinstance(value, str):
            return int(value)
        if value.strip() == "0":
            return 0
        try:
            return parse_size(value)
        except InvalidOptionError as error:
            self.fail(f"{error}; 0 for none", param, ctx)
