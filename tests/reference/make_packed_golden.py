"""Writes tests/data/packed_golden.npz: integers as compressed-tensors 0.15 packed them.

Run in ``tests`` with torch: ``python -m reference.make_packed_golden FOLDER``, where the wheel of
compressed-tensors 0.15.0 was unpacked. The tests read only the output.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUTPUT = Path(__file__).parent.parent / "data" / "packed_golden.npz"
HELPERS = "compressed_tensors/compressors/pack_quantized/helpers.py"
ROWS, GROUP = 24, 16


def packed(
    pack: Any, rng: np.random.Generator, bits: int, zeros: str, columns: int = 160
) -> dict[str, Any]:
    """One matrix, whose shape fits few numbers of bits.

    ``zeros``: "none", "packed", or "signed" as in the very first versions.
    """
    middle = 1 << (bits - 1)
    integers = rng.integers(0, 1 << bits, (ROWS, columns))
    points = rng.integers(0, 1 << bits, (ROWS, columns // GROUP))
    points = np.full_like(points, middle) if zeros == "none" else points
    scales = rng.choice([0.013, 0.07], points.shape).astype(np.float16)
    group = np.arange(columns) // GROUP
    differences = (integers - points[:, group]).astype(np.float32)
    signed = (points - middle).astype(np.int8)
    arrays = {
        "weight_packed": pack(torch.from_numpy((integers - middle).astype(np.int8)), bits).numpy(),
        "weight_scale": scales,
        "weight_shape": np.array([ROWS, columns], np.int64),
        "expected": differences * scales.astype(np.float32)[:, group],
    }
    if zeros == "packed":
        arrays["weight_zero_point"] = pack(torch.from_numpy(signed), bits, packed_dim=0).numpy()
    elif zeros == "signed":
        arrays["weight_zero_point"] = signed
    return arrays


def main() -> None:
    """Every case with its parts, named CASE/PART."""
    pack = runpy.run_path(str(Path(sys.argv[1]) / HELPERS))["pack_to_int32"]
    rng = np.random.default_rng(16)
    cases = {f"packed-{bits}-gaps": packed(pack, rng, bits, "none") for bits in (5, 7)}
    cases |= {f"packed-{bits}-gaps-zeros": packed(pack, rng, bits, "packed") for bits in (3, 7)}
    cases["packed-4-signed-zeros"] = packed(pack, rng, 4, "signed", 32)
    cases["packed-1"] = packed(pack, rng, 1, "none", 32)
    arrays = {f"{name}/{part}": a for name, parts in cases.items() for part, a in parts.items()}
    np.savez_compressed(OUTPUT, **arrays)


if __name__ == "__main__":
    main()
