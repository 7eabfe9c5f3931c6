"""The values that quants can stand for, in units of the scale: whole numbers, or ggml's codebook.

The searches of ``scale_search`` and ``super_blocks`` choose among these values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellama.kernels_cpu.quantizers.scale_search import nearest_whole
from edgellama.kernels_cpu.simd import operators  # noqa: F401
from edgellama.kernels_cpu.simd.device import exact_device
from edgellama.kernels_cpu.simd.rounding import define_codebook, truncate
from edgellama.quant.formats import IQ4_CODEBOOK


@dataclass(frozen=True)
class Grid:
    """``nearest`` gives the value that numbers become, ``number`` the i32 that stands for it.

    Both are told how many values lie below zero, since that differs between formats.
    """

    nearest: Callable[..., Any]
    number: Callable[..., Any]


@exact_device
def nearest_symmetric(t, half):
    """The nearest whole number from ``-half`` to ``half - 1``."""
    return nearest_whole(t, -half, half - np.float32(1.0))


@exact_device
def symmetric_number(t, half):
    """Its i32 from 0 on."""
    return truncate(nearest_symmetric(t, half) + half)


nearest_value, value_number = define_codebook(IQ4_CODEBOOK)


@exact_device
def nearest_in_codebook(t, half):
    """The nearest of IQ4's values; ``half`` has no meaning there."""
    return nearest_value(t)


@exact_device
def number_in_codebook(t, half):
    """Its place among them."""
    return value_number(t)


WHOLE = Grid(nearest_symmetric, symmetric_number)
CODEBOOK = Grid(nearest_in_codebook, number_in_codebook)
