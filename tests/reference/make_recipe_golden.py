"""Writes tests/data/recipe_golden.json: the format llama.cpp gives each tensor, type by type.

Run in ``tests`` with llama-cpp-python and gguf installed: ``python -m
reference.make_recipe_golden``. Models have random weights, since only their shapes decide.
"""

import ctypes
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGUFReader

from reference.tiny_models import TinyLlama, write_tiny_llama

OUTPUT = Path(__file__).parent.parent / "data" / "recipe_golden.json"
FILE_TYPES = {
    "f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9,
    "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15,
    "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
}  # fmt: skip
SMALL = {"width": 256, "feed_forward": 256, "vocab_size": 288}
MODELS: dict[str, dict[str, Any]] = {
    "grouped_4": {**SMALL, "heads": 8, "kv_heads": 2, "layers": 4},
    "grouped_32": {**SMALL, "heads": 8, "kv_heads": 2, "layers": 32},
    "pairs_30_tied": {**SMALL, "heads": 8, "kv_heads": 4, "layers": 30, "tied": True},
    "grouped_80": {**SMALL, "heads": 8, "kv_heads": 1, "layers": 80},
    "ungrouped_80": {**SMALL, "heads": 4, "kv_heads": 4, "layers": 80},
    "ragged_32": {**SMALL, "width": 192, "heads": 6, "kv_heads": 2, "layers": 32},
    "ragged_down_16_tied": {
        **SMALL, "feed_forward": 288, "heads": 8, "kv_heads": 2, "layers": 16, "tied": True,
    },
}  # fmt: skip


def main() -> None:
    """Every model with every type, with and without an importance matrix."""
    golden: dict[str, Any] = {"models": MODELS, "formats": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            source = write_tiny_llama(Path(folder) / f"{name}.gguf", TinyLlama(**model))
            for has_imatrix in (False, True):
                case = name + ("+imatrix" if has_imatrix else "")
                golden["formats"][case] = {
                    type_name: formats_of(source, file_type, has_imatrix)
                    for type_name, file_type in FILE_TYPES.items()
                }
    OUTPUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n", "utf-8")


def formats_of(source: Path, file_type: int, has_imatrix: bool) -> dict[str, str]:
    """Formats by the matrix's short name, in the order of layers: ``Q6_K*2 Q4_K*3 ...``."""
    target = source.with_suffix(".out")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type, 2, True
    if has_imatrix:
        entries = imatrix(source)
        parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), parameters):
        raise RuntimeError(f"llama.cpp refused file type {file_type} for {source.name}")
    roles: dict[str, list[tuple[int, str]]] = {}
    for tensor in GGUFReader(target).tensors:
        *layer, role, _ = tensor.name.removeprefix("blk.").split(".")
        if len(tensor.shape) == 2:
            number = int(layer[0]) if layer else 0
            roles.setdefault(role, []).append((number, tensor.tensor_type.name))
    return {role: run_lengths([f for _, f in sorted(found)]) for role, found in roles.items()}


def imatrix(source: Path) -> Any:
    """Importance one for every column of every matrix of a layer, as the C function takes it."""
    matrices = [t for t in GGUFReader(source).tensors if t.name.startswith("blk.")]
    entries = (llama_cpp.llama_model_imatrix_data * (len(matrices) + 1))()
    for entry, tensor in zip(entries, matrices, strict=False):
        num_columns = int(tensor.shape[0])
        entry.name = tensor.name.encode()
        entry.data = (ctypes.c_float * num_columns)(*np.ones(num_columns))
        entry.size = num_columns
    return entries


def run_lengths(formats: list[str]) -> str:
    """``[A, A, B]`` as ``A*2 B*1``."""
    return " ".join(f"{name}*{len(list(run))}" for name, run in itertools.groupby(formats))


if __name__ == "__main__":
    main()
