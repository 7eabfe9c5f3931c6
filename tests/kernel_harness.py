"""Calls single compiled kernels on NumPy arrays, for the tests of ``edgellama.kernels_cpu``."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edgellama.kernels_cpu import team_layout as layout
from edgellama.kernels_cpu.code_cache import CompiledKernels
from edgellama.kernels_cpu.cpu import Tier, available_tiers
from edgellama.kernels_cpu.signatures import GEMM_TOKENS, PANEL_VECTORS, SIGNATURES
from edgellama.kernels_cpu.thread_team import ENTRY

TIERS = available_tiers()


def aligned_rows(num_rows: int, num_columns: int) -> np.ndarray:
    """An f32 array with guard values, to be filled by a kernel."""
    return np.full((num_rows, num_columns), 7e7, np.float32)


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


class KernelRunner:
    """All kernels of one tier, loaded as they are first called."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._kernels = CompiledKernels(tier)
        self._loaded: dict[str, Any] = {}

    def preload(self, names: list[str]) -> None:
        """Compile and load several kernels at once."""
        self._kernels.ensure(names)
        for name in names:
            self._loaded[name] = ENTRY(self._kernels.address(name))

    def __call__(self, name: str, num_threads: int = 1, **arguments: Any) -> None:
        """Run a kernel as ``num_threads`` threads would, one after the other."""
        if name not in self._loaded:
            self.preload([name])
        signature = SIGNATURES[name]
        counter = np.zeros(layout.COUNTER_BYTES // 8, np.int64)
        arguments = {**arguments, "counter": counter}
        assert set(arguments) == set(signature.parameters), name
        record = b""
        for parameter in signature.parameters:
            value = arguments[parameter]
            if isinstance(value, np.ndarray):
                value = value.ctypes.data
            if parameter in signature.float_parameters:
                record += struct.pack("<f4x", value)
            else:
                record += struct.pack("<q", value)
        slots = np.frombuffer(record, np.int64)
        for thread in range(num_threads):
            self._loaded[name](slots.ctypes.data, thread, 0)
        assert counter[layout.NUM_DONE // 8] == counter[layout.NUM_TASKS // 8] > 0

    @property
    def panel_rows(self) -> int:
        """Rows of one panel of the matrix kernels."""
        return PANEL_VECTORS * self.tier.lanes

    def decode_records(self, x: np.ndarray) -> np.ndarray:
        """Tokens (n, width) as the records that ``gemv`` reads."""
        num_tokens, width = x.shape
        records = np.zeros((num_tokens, width * 2), np.uint8)
        self("quantize_decode", 2, x=x, x_stride=4 * width, width=width, num_tokens=num_tokens,
             q=records, q_scale=0, q_sum=0, q_half_sum=0)  # fmt: skip
        return records

    def gemv(
        self,
        name: str,
        weights: np.ndarray,
        x: np.ndarray,
        num_threads: int = 1,
        accumulate: bool = False,
    ) -> np.ndarray:
        """y = weights x through ``gemv_NAME``; weights (rows, row_bytes) u8, x (n, width) f32."""
        quantized = SIGNATURES[f"gemv_{name}"].factory == "quantized_gemv"
        activations = self.decode_records(x) if quantized else x
        num_rows = len(weights)
        y = aligned_rows(len(x), num_rows)
        if accumulate:
            y[:] = 1.0
        self(f"gemv_{name}", num_threads, weights=weights, row_bytes=weights.shape[1], num_rows=num_rows,
             num_columns=x.shape[1], y=y, y_stride=4 * num_rows, accumulate=int(accumulate),
             num_tokens=len(x), x=activations, x_stride=activations.strides[0], chunk_rows=3)  # fmt: skip
        return y

    def gemm(
        self,
        name: str,
        weights: np.ndarray,
        x: np.ndarray,
        num_threads: int = 1,
        accumulate: bool = False,
    ) -> np.ndarray:
        """y = weights x through ``gemm_NAME``, with the padding that it needs."""
        num_tokens, width = x.shape
        padded_tokens, padded_rows = (
            round_up(num_tokens, GEMM_TOKENS),
            round_up(len(weights), self.panel_rows),
        )
        padded = np.zeros((padded_tokens, width), np.float32)
        padded[:num_tokens] = x
        y = aligned_rows(padded_tokens, padded_rows)
        if accumulate:
            y[:] = 1.0
        scratch_bytes = self.panel_rows * (width * 5 + 4096)
        arguments = dict(weights=weights, row_bytes=weights.shape[1], num_rows=len(weights), num_columns=width,
                         y=y, y_stride=4 * padded_rows, accumulate=int(accumulate), num_tokens=num_tokens,
                         scratch=np.zeros(num_threads * scratch_bytes, np.uint8), scratch_stride=scratch_bytes)  # fmt: skip
        if SIGNATURES[f"gemm_{name}"].factory == "float_gemm":
            self(f"gemm_{name}", num_threads, **arguments, x=padded, x_stride=4 * width)
        else:
            quants = np.zeros((padded_tokens, width), np.int8)
            scale, total = (np.zeros((padded_tokens, width // 32), np.float32) for _ in range(2))
            half = np.zeros((padded_tokens, width // 16), np.float32)
            self("quantize_prefill", 2, x=padded, x_stride=4 * width, width=width, num_tokens=num_tokens,
                 q=quants, q_scale=scale, q_sum=total, q_half_sum=half)  # fmt: skip
            self(
                f"gemm_{name}",
                num_threads,
                **arguments,
                x=quants,
                x_scale=scale,
                x_sum=total,
                x_half_sum=half,
            )
        return y[:num_tokens, : len(weights)]
