"""Converts a PEFT adapter to a GGUF file, as llama.cpp's convert_lora_to_gguf writes it.

All steps are on this page: settings, base model, pairs of factors, file. Adapters are small, so
tensors are written one after another without threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants
from numpy.typing import NDArray

from edgellama.convert.adapter.lora_base import find_base
from edgellama.convert.adapter.lora_config import LoraConfig, read_lora_config
from edgellama.convert.adapter.lora_tensors import (
    EMBEDDING,
    LoraPair,
    pair_factors,
    read_lora_tensors,
)
from edgellama.convert.output.whole_file import whole_file
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import ConversionError, InvalidOptionError, ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME

FILE_TYPES = MappingProxyType(
    {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "bf16": LlamaFileType.MOSTLY_BF16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
)
"""What the factors can be written as."""
HUB = "https://huggingface.co/"
_LARGEST_HALF = float(np.finfo(np.float16).max)
_LARGEST = MappingProxyType({"F16": _LARGEST_HALF, "Q8_0": 127 * _LARGEST_HALF})
"""The largest number of formats whose range ends before f32's."""


@dataclass(frozen=True)
class LoraReport:
    """What was written: ``path``, and the adapter's matrices, ranks and bytes."""

    path: Path
    num_matrices: int
    ranks: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class _Factor:
    """A tensor of the file: GGUF name, source, how it is scaled and whether it is turned."""

    name: str
    source: SourceTensor
    scale: float
    transposed: bool
    format_name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape[::-1] if self.transposed else self.source.shape

    @property
    def num_bytes(self) -> int:
        return self.shape[0] * FORMATS_BY_NAME[self.format_name].row_bytes(self.shape[1])


def convert_lora(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    type: str = "f32",
    base: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> LoraReport:
    """Write the adapter in ``folder`` as a GGUF file.

    ``output`` None is FOLDER-lora-TYPE.gguf beside the folder. ``type``: f32, f16, bf16 or
    q8_0; rows that are not whole blocks of q8_0 are f16. ``base``: the base model's folder
    (config.json is enough) or a GGUF file of it; None is what the adapter names, if that is a
    path. Raises ModelNotFoundError, ModelFileError, UnsupportedModelError, InvalidOptionError
    and ConversionError.
    """
    folder, type_name = Path(folder), type.lower()
    if type_name not in FILE_TYPES:
        raise InvalidOptionError(f"type is {type!r}; allowed: {', '.join(FILE_TYPES)}")
    config = read_lora_config(folder)
    weights_path, tensors = read_lora_tensors(folder)
    model = find_base(None if base is None else Path(base), config.base_name, folder)
    pairs = pair_factors(weights_path, tensors, model)
    # GGUF has one alpha, to be divided by each pair's rank; what differs from that is moved
    # into the second factor.
    alpha = config.scale(pairs[0].module, pairs[0].rank) * pairs[0].rank
    factors = [factor for pair in pairs for factor in _factors(pair, config, alpha, type_name)]
    name = folder.resolve().name
    path = folder.resolve().parent / f"{name}-lora-{type_name}.gguf" if output is None else output
    with (
        whole_file(Path(path), overwrite=overwrite) as partial,
        closing(GGUFWriter(partial, model.architecture)) as writer,
    ):
        _write_metadata(writer, name, config, alpha, FILE_TYPES[type_name])
        _write_factors(writer, weights_path, factors)
    ranks = tuple(sorted({pair.rank for pair in pairs}))
    return LoraReport(Path(path), len(pairs), ranks, sum(factor.num_bytes for factor in factors))


def _factors(pair: LoraPair, config: LoraConfig, alpha: float, type_name: str) -> Iterator[_Factor]:
    """``lora_a`` and ``lora_b`` of a matrix; an embedding's ``lora_a`` has a row a token."""
    scale = config.scale(pair.module, pair.rank) * pair.rank / alpha
    for letter, source in (("a", pair.a), ("b", pair.b)):
        transposed = pair.name == EMBEDDING and letter == "a"
        num_columns = source.shape[0] if transposed else source.shape[1]
        format_name = type_name.upper()
        if num_columns % FORMATS_BY_NAME[format_name].block_size:
            format_name = "F16"
        yield _Factor(
            f"{pair.name}.lora_{letter}",
            source,
            scale if letter == "b" else 1.0,
            transposed,
            format_name,
        )


def _write_metadata(
    writer: GGUFWriter, name: str, config: LoraConfig, alpha: float, file_type: LlamaFileType
) -> None:
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_name(name)
    if config.base_name:
        owner, _, base = config.base_name.rstrip("/").rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
        if owner and "/" not in owner and not Path(config.base_name).exists():
            writer.add_base_model_organization(0, owner)
            writer.add_base_model_repo_url(0, HUB + config.base_name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _write_factors(writer: GGUFWriter, source: Path, factors: Sequence[_Factor]) -> None:
    for factor in factors:
        ggml_type = GGMLQuantizationType[factor.format_name]
        writer.add_tensor_info(
            factor.name, factor.shape, np.dtype(np.float32), factor.num_bytes, ggml_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for factor in factors:
        writer.write_tensor_data(_encoded(source, factor))


def _encoded(source: Path, factor: _Factor) -> NDArray[np.generic]:
    """The factor's bytes, scaled and turned."""
    tensor = factor.source
    raw = tensor.rows(0, tensor.num_rows)
    values = quants.dequantize(raw, GGMLQuantizationType[tensor.format.name])
    if not np.isfinite(values).all():
        raise ModelFileError(f"{source}: tensor {tensor.name} holds NaN or Inf; needed: numbers")
    if factor.scale != 1.0:
        values = values * np.float32(factor.scale)
    if factor.transposed:
        values = np.ascontiguousarray(values.T)
    largest = float(np.abs(values).max())
    if largest > _LARGEST.get(factor.format_name, largest):
        raise ConversionError(
            f"{source}: tensor {tensor.name} holds {largest:g}, too large for "
            f"{factor.format_name.lower()}; choose the type f32 or bf16"
        )
    encoded: NDArray[np.generic] = quants.quantize(values, GGMLQuantizationType[factor.format_name])
    return encoded
