"""Writes tests/data/llama_cpp_quantization.json: the errors of llama.cpp's own quantizers.

Run in ``tests``: ``python -m reference.make_quantization_golden LIBRARY MODEL``, with the path of
llama.cpp's ``libggml-base`` (llama-cpp-python has it) and of the starter model.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from edgellama.quant.formats import FORMATS_BY_NAME
from reference.quantization_errors import LEGACY, Array, column_importance, errors_of, row_sets

GOLDEN = Path(__file__).parent.parent / "data" / "llama_cpp_quantization.json"
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def load(library: Path) -> ctypes.CDLL:
    """llama.cpp's quantizers."""
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    ]
    return ggml


def quantized(ggml: ctypes.CDLL, name: str, rows: Array, importance: Array | None) -> Array:
    """Rows as llama.cpp quantizes them."""
    out = np.zeros((len(rows), FORMATS_BY_NAME[name].row_bytes(rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    ggml.ggml_quantize_chunk(
        int(GGMLQuantizationType[name]), rows.ctypes.data, out.ctypes.data, 0, *rows.shape, weights
    )
    return out


def main(library: Path, model: Path) -> None:
    """All formats, rows, with and without importance."""
    ggml, importance = load(library), column_importance()
    golden: dict[str, dict[str, dict[str, float]]] = {}
    for set_name, rows in row_sets(model).items():
        for name in (*SEARCHED, *LEGACY):
            weights = (importance,) if name in LEGACY else (None, importance)
            for weight in weights:
                key = f"{name}{'' if weight is None else ' by importance'}"
                data = quantized(ggml, name, rows, weight)
                errors = errors_of(name, rows, data, weight)
                golden.setdefault(key, {})[set_name] = {
                    k: float(f"{v:.6g}") for k, v in errors.items()
                }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
