"""The Python that calls the kernel which chooses a token.

It checks the logits, packs the options, and calls the kernel on the caller's own thread with the
GIL released. What filters mean, and what happens if the kernel does not decide, is left to
``edgellama.sampling``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.sampling.layout import (
    FRACTION,
    MIN_P_DISTANCE,
    NUM_SETTINGS,
    TEMPERATURE,
    TOP_P,
    scratch_bytes,
)
from edgellama.kernels_cpu.threads.thread_team import ENTRY

CHOICE_KERNEL = "choose_token"
"""Name of the kernel that a chooser needs to be compiled."""


class TokenChooser:
    """One set of filters and the memory to apply them; for one thread at a time.

    ``top_k`` 0, ``top_p`` 1 and ``min_p_distance`` minus infinity filter nothing;
    ``min_p_distance`` is how far (not above 0) from the largest logit a kept one may be.
    """

    def __init__(
        self,
        kernels: CompiledKernels,
        *,
        top_k: int,
        top_p: float,
        min_p_distance: float,
        temperature: float,
    ) -> None:
        kernels.ensure([CHOICE_KERNEL])
        # The machine code lives as long as this object.
        self._kernels = kernels
        self._entry = ENTRY(kernels.address(CHOICE_KERNEL))
        self._settings = np.zeros(NUM_SETTINGS, np.float64)
        self._settings[TOP_P] = top_p
        self._settings[MIN_P_DISTANCE] = min_p_distance
        self._settings[TEMPERATURE] = temperature
        self._token = np.zeros(1, np.int64)
        self._scratch: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        # Slots as in the kernel's signature; those of the logits are filled before a call.
        self._record = np.array(
            [0, 0, top_k, self._settings.ctypes.data, 0, self._token.ctypes.data], np.int64
        )
        self._record_address = int(self._record.ctypes.data)

    def choose(self, logits: npt.NDArray[Any], fraction: float) -> int | None:
        """The token that a random ``fraction`` in [0, 1) falls on among ``logits`` (n,).

        None where rounding could decide between two, or where the largest logit is not finite.
        """
        row: npt.NDArray[np.float32] = np.ascontiguousarray(logits, np.float32)
        if self._record[1] != len(row):
            self._scratch = np.empty(scratch_bytes(len(row)), np.uint8)
            self._record[1], self._record[4] = len(row), self._scratch.ctypes.data
        self._record[0] = row.ctypes.data
        self._settings[FRACTION] = fraction
        self._entry(self._record_address, 0, 0)
        token = int(self._token[0])
        return None if token < 0 else token
