"""Ways to quantize a checkpoint that are told apart but not converted: by the tensors they leave.

Each has a name, and what its user can do instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ORIGINAL = "convert the model that it was made from"
WITH_TRANSFORMERS = (
    "load it with transformers, model.dequantize(), model.save_pretrained(FOLDER) and convert "
    f"that, or {ORIGINAL}"
)
WITH_MLX = (
    "python -m mlx_lm convert --hf-path FOLDER --mlx-path OTHER --dequantize and convert that, "
    f"or {ORIGINAL}"
)


@dataclass(frozen=True)
class ForeignMethod:
    """``suffix``: of names of tensors that no other method has."""

    title: str
    suffix: re.Pattern[str]
    way_out: str = ORIGINAL


FOREIGN_METHODS = tuple(
    ForeignMethod(title, re.compile(rf".*\.({suffix})"), *way_out)
    for title, suffix, *way_out in (
        (
            "bitsandbytes in 4 bits",
            r"quant_state\.bitsandbytes__\w+|weight\.(nested_)?(absmax|quant_map)",
            WITH_TRANSFORMERS,
        ),
        ("bitsandbytes in int8", "SCB|weight_format", WITH_TRANSFORMERS),
        ("MLX", "biases", WITH_MLX),
        ("HQQ", "W_q"),
        ("AQLM", "codebooks|codes"),
        ("EXL2", "q_weight|q_invperm|q_group_map|q_scale_max"),
        ("EXL3", "trellis|suh|svh"),
        ("QuIP#", "Qidxs|Qidxs_list"),
        ("VPTQ", "centroids|res_centroids"),
        ("SpQR", "dense_weights|row_offsets"),
        ("HIGGS", "tables2"),
        ("NVFP4", "weight_scale_2|weight_global_scale"),
        ("MXFP4", "weight_blocks|weight_scales"),
        ("Quanto or torchao", r"weight\._\w+|weight:_\w+"),
        ("Marlin's layout of GPTQ", "B|workspace"),
        ("FP-Quant", "forward_hadamard_matrix"),
    )
)


def find_foreign(names: Iterable[str]) -> tuple[ForeignMethod, str] | None:
    """The method that left one of the tensors, with its name; None if none is known."""
    for name in names:
        for method in FOREIGN_METHODS:
            if method.suffix.fullmatch(name):
                return method, name
    return None
