"""The values that quants stand for, in units of the scale: whole numbers, or ggml's codebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellama.kernels_cpu import simd_operators  # noqa: F401
from edgellama.kernels_cpu.device import exact_device
from edgellama.kernels_cpu.scale_search import rounder
from edgellama.kernels_cpu.simd_exact import define_codebook, truncate

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""ggml's ``kvalues_iq4nl``: closer together around zero."""


@dataclass(frozen=True)
class Grid:
    """``nearest`` gives the value that numbers become, ``number`` the i32 that stands for it."""

    nearest: Callable[..., Any]
    number: Callable[..., Any]


def offset_grid(half):
    """Whole numbers from ``-half`` to ``half - 1``, stored from 0 on."""
    nearest, offset = rounder(-half, half - 1), np.float32(half)

    @exact_device
    def number(t):
        return truncate(nearest(t) + offset)

    return Grid(nearest, number)


def codebook_grid():
    """The values of IQ4_NL and IQ4_XS."""
    return Grid(*define_codebook(IQ4_VALUES))


def places(first, step, count):
    """Starts of a search: ``count`` numbers, ``step`` apart."""
    return tuple(first + step * i for i in range(count))
