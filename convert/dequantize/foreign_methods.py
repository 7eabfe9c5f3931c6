"""Methods of quantization that are recognised by their tensors, but not converted.

Each has a name, and advice for its user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.convert.dequantize.elements import PLAIN, element_type
from edgellama.convert.sources.source_tensor import SourceTensor

ORIGINAL = "convert the model that it was made from"
WITH_TRANSFORMERS = (
    "load it with transformers, model.dequantize(), model.save_pretrained(FOLDER) and convert "
    f"that, or {ORIGINAL}"
)
WITH_MLX = (
    "run python -m mlx_lm convert --hf-path FOLDER --mlx-path OTHER --dequantize and convert that, "
    f"or {ORIGINAL}"
)


@dataclass(frozen=True)
class ForeignMethod:
    """``name``: of tensors that no other method has; its first group is the module."""

    title: str
    name: re.Pattern[str]
    way_out: str = ORIGINAL


FOREIGN_METHODS = tuple(
    ForeignMethod(title, re.compile(rf"(.*)\.(?:{suffix})"), *way_out)
    for title, suffix, *way_out in (
        ("AWQ for its fast GEMV kernels", "scaled_zeros", WITH_TRANSFORMERS),
        ("MLX", "biases", WITH_MLX),
        ("HQQ", "W_q"),
        ("AQLM", "codebooks|codes"),
        ("EXL2", "q_weight|q_invperm|q_group_map|q_scale_max"),
        ("EXL3", "trellis|suh|svh"),
        ("QuIP#", "Qidxs|Qidxs_list"),
        ("VPTQ", "centroids|res_centroids"),
        ("a sparse format of compressed-tensors", "bitmask|compressed"),
        ("Marlin's sparse format", "scale_packed"),
        ("SpQR", "dense_weights|row_offsets"),
        ("HIGGS", "tables2"),
        ("MXFP4 of experts", "weight_blocks|weight_scales"),
        ("int4 of ModelOpt", "pre_quant_scale"),
        ("Quanto or torchao", r"weight\._\w+|weight:_\w+"),
        ("Marlin's layout of GPTQ", "B|workspace"),
        ("FP-Quant", "forward_hadamard_matrix"),
    )
)


def foreign_method(name: str) -> tuple[ForeignMethod, str] | None:
    """The method that leaves a tensor of this name, with the module that it is of."""
    for method in FOREIGN_METHODS:
        match = method.name.fullmatch(name)
        if match is not None:
            return method, match[1]
    return None


def find_foreign(tensors: Mapping[str, SourceTensor]) -> tuple[ForeignMethod, str] | None:
    """The method that a model is quantized by, with a tensor that tells it.

    None if no method is known, or what tells it lies beside plain weights, of an earlier state.
    """
    for name in tensors:
        found = foreign_method(name)
        if found is not None and not has_plain_weight(tensors, found[1]):
            return found[0], name
    return None


def has_plain_weight(tensors: Mapping[str, SourceTensor], module: str) -> bool:
    """Whether a module's weights are floats as they are."""
    weight = tensors.get(f"{module}.weight")
    return weight is not None and element_type(weight) in PLAIN
