"""How fast one token's kernels read each format, as a share of a plain read of the same memory.

Every format's matrix is larger than the caches and of random bytes; both reads take turns, and the
medians count. A matrix of one megabyte shows what the cores can do at most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellama.engine.program.program import Op, Program
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.layouts import records_bytes
from edgellama.kernels_cpu.machine.cpu import default_num_threads, select_tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, ThreadTeam
from edgellama.quant.formats import FORMATS_BY_NAME, QUANTIZED_FORMATS

Bytes = npt.NDArray[np.uint8]
COLUMNS = 2048
CHUNKS_A_THREAD = 8


@dataclass(frozen=True)
class Bench:
    """Kernels of a tier and the threads that run them."""

    kernels: CompiledKernels
    team: ThreadTeam
    num_threads: int

    def seconds(self, program: Program) -> float:
        """One run."""
        program.prepare(self.team.next_job)
        started = time.perf_counter()
        self.team.run(program.memory, owner=program)
        return time.perf_counter() - started

    def rates(self, name: str, num_bytes: int, rounds: int) -> tuple[float, float]:
        """GB/s of a plain read and of the products of a matrix of about ``num_bytes``."""
        row_bytes = FORMATS_BY_NAME[name].row_bytes(COLUMNS)
        num_rows = max(num_bytes // row_bytes // 16 * 16, 16)
        unit = np.random.default_rng(0).integers(0, 60, (16, row_bytes), dtype=np.uint8)
        weights: Bytes = np.tile(unit, (num_rows // 16, 1))
        x, y = np.zeros(records_bytes(COLUMNS), np.uint8), np.zeros(num_rows, np.float32)
        sink = np.zeros(4096, np.uint8)
        product = Op(
            Kernel("gemv", (name,)),
            {
                "weights": weights.ctypes.data,
                "row_bytes": row_bytes,
                "num_rows": num_rows,
                "num_columns": COLUMNS,
                "y": y.ctypes.data,
                "y_stride": y.nbytes,
                "accumulate": 0,
                "num_tokens": 1,
                "x": x.ctypes.data,
                "x_stride": x.nbytes,
                "chunk_rows": max(num_rows // (CHUNKS_A_THREAD * self.num_threads) // 2 * 2, 2),
            },
        )
        read = Op(
            Kernel("read_bytes"),
            {"address": weights.ctypes.data, "num_bytes": weights.nbytes, "sink": sink.ctypes.data},
        )
        programs = [Program([op], self.kernels) for op in (read, product)]
        times: list[list[float]] = [[], []]
        for _ in range(rounds + 1):
            for program, found in zip(programs, times, strict=True):
                found.append(self.seconds(program))
        plain, products = (weights.nbytes / statistics.median(t[1:]) / 1e9 for t in times)
        return plain, products


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier")
    parser.add_argument("--formats", nargs="+", default=list(QUANTIZED_FORMATS))
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    tier = select_tier(options.tier)
    kernels = CompiledKernels(tier)
    names = [Kernel("gemv", (name,)).name for name in options.formats]
    kernels.ensure([*ENTRY_KERNELS, "read_bytes", *names])
    team = ThreadTeam(kernels, options.threads).start()
    bench = Bench(kernels, team, options.threads)
    print(f"| {tier.name}, {options.threads} threads | plain read GB/s | from memory | share |")
    print("|---|---|---|---|")
    for name in options.formats:
        plain, products = bench.rates(name, options.megabytes << 20, options.rounds)
        print(f"| {name} | {plain:.1f} | {products:.1f} | {products / plain:.2f} |", flush=True)
    team.close()


if __name__ == "__main__":
    main()
