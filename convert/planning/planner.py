"""Makes a plan from an open source and options: formats, importance, metadata, files.

It also checks what must be true before a conversion begins: nothing is overwritten without leave,
and there is room for the result.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from edgellama.convert.imatrix import read_imatrix
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.model.metadata_override import override_metadata
from edgellama.convert.options import ConversionOptions
from edgellama.convert.planning.conversion_plan import ConversionPlan, PlannedTensor
from edgellama.convert.planning.file_names import journal_path, partial_path
from edgellama.convert.planning.gguf_header import ALIGNMENT
from edgellama.convert.planning.runnable import check_runnable
from edgellama.convert.planning.split import plan_files
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import ConversionError, InvalidOptionError
from edgellama.quant.llama_tensors import OUTPUT
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.recipes import (
    COPY,
    RECIPES,
    TENSOR_FORMATS,
    FormatOptions,
    choose_format,
)
from edgellama.quant.ways import Way

FILE_TYPE = "general.file_type"
QUANTIZATION_VERSION = 2
BASE_MEMORY_BYTES = 200_000_000
"""Interpreter, libraries, compiled kernels and the threads' own arrays, generously."""
REPLACE_IT = Way("overwrite=True replaces it", "--overwrite replaces it")
_log = logging.getLogger(__name__)
_OWN_TYPE = re.compile(
    rf"[-_.]({'|'.join(sorted({*RECIPES, *TENSOR_FORMATS, 'fp16', 'fp32'}, reverse=True))})$",
    re.IGNORECASE,
)
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def plan_conversion(checkpoint: Checkpoint, options: ConversionOptions) -> ConversionPlan:
    """What converting ``checkpoint`` will write.

    Raises what ``describe`` and ``read_imatrix`` raise, and InvalidOptionError for options that do
    not fit the model.
    """
    is_copy = options.formats.recipe is COPY
    if is_copy and checkpoint.kind != "gguf":
        raise InvalidOptionError(f"type copy: {checkpoint.path} is no GGUF file; allowed: those")
    model = describe(checkpoint, pre=options.pre, name=options.name, adapters=options.adapters)
    for note in model.notes:
        _log.warning("%s: %s", checkpoint.path, note)
    metadata = override_metadata(model.metadata, options.metadata)
    config = check_runnable(
        str(checkpoint.path), model.metadata, metadata, model.tensors, options.metadata.keys()
    )
    importance = _importance(model, options.imatrix)
    tensors = plan_tensors(model, config, options.formats, importance)
    output = options.output or default_output(checkpoint.path, options)
    file_type: object = options.formats.recipe.file_type
    if is_copy:
        file_type = checkpoint.parameters.get(FILE_TYPE)
    metadata = _with_own_keys(metadata, file_type)
    return ConversionPlan(
        source=checkpoint.path,
        source_files=(*checkpoint.files, *(path for path, _ in options.adapters)),
        output=output,
        recipe=options.formats.recipe,
        tensors=tensors,
        files=plan_files(output, metadata, tensors, options.split_max_bytes),
        notes=model.notes,
        adapters=options.adapters,
    )


def plan_tensors(
    model: ModelDescription,
    config: ModelConfig,
    formats: FormatOptions,
    importance: Mapping[str, NDArray[np.float32]] | None,
) -> tuple[PlannedTensor, ...]:
    """Every tensor with its format; warns of patterns that match none."""
    names = [tensor.name for tensor in model.tensors]
    for pattern, _ in formats.tensor_formats:
        if not any(pattern.search(name) for name in names):
            _log.warning("tensor type %r matches no tensor", pattern.pattern)
    if formats.recipe is COPY:
        return tuple(PlannedTensor(tensor, tensor.format) for tensor in model.tensors)
    choose = partial(
        choose_format,
        options=formats,
        model=config,
        is_tied=OUTPUT not in names,
        has_imatrix=importance is not None,
    )
    return tuple(
        PlannedTensor(
            tensor, choose(tensor.name, tensor.shape), (importance or {}).get(tensor.name)
        )
        for tensor in model.tensors
    )


def default_output(source: Path, options: ConversionOptions) -> Path:
    """``NAME-TYPE.gguf`` in the current folder, after the model's name or the source's."""
    stem = source.resolve().name.removesuffix(".gguf") if source.suffix == ".gguf" else ""
    stem = _PART.sub("", stem) or (source if source.is_dir() else source.parent).resolve().name
    name = options.name or _OWN_TYPE.sub("", stem) or "model"
    safe = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"
    return Path(f"{safe}-{options.formats.recipe.name.upper()}.gguf")


def check_output(plan: ConversionPlan) -> None:
    """ConversionError unless the files have a folder to be in and are not the source's own."""
    folder = plan.output.parent
    if not folder.is_dir():
        raise ConversionError(f"{plan.output}: there is no folder {folder}")
    for file in plan.files:
        for source in plan.source_files:
            if file.path.exists() and os.path.samefile(file.path, source):
                raise ConversionError(f"{file.path} is the source itself; give another output")
        if file.path.is_dir():
            raise ConversionError(f"{file.path} is a folder; allowed: the name of a file")
        if file.path.exists() and not file.path.is_file():
            raise ConversionError(f"{file.path} is a device or a pipe; allowed: a file")


def check_report(plan: ConversionPlan, path: Path | None, *, overwrite: bool) -> None:
    """Refuses, before the work, a report that has no place or would replace something else."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InvalidOptionError(f"report {path}: there is no folder {path.parent}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise ConversionError(f"report {path}: the folder {path.parent} cannot be written to")
    outputs = [file.path for file in plan.files]
    own = {*outputs, *map(partial_path, outputs), journal_path(plan.output)}
    if path.absolute() in {own_path.absolute() for own_path in own}:
        raise InvalidOptionError(f"report {path} is the output itself; give it another name")
    if not path.exists():
        return
    if path.is_dir() or any(os.path.samefile(path, source) for source in plan.source_files):
        raise InvalidOptionError(f"report {path} is a part of the source, or a folder")
    if not overwrite:
        raise ConversionError(f"{path} is there already", way=REPLACE_IT)


def check_absent(plan: ConversionPlan, overwrite: bool) -> None:
    """ConversionError if a file is there already and may not be replaced."""
    for file in plan.files:
        if file.path.exists() and not overwrite:
            raise ConversionError(f"{file.path} is there already", way=REPLACE_IT)


def check_room(plan: ConversionPlan) -> None:
    """ConversionError if the disk has no room for the files."""
    free = free_disk_bytes(plan)
    if free < plan.num_bytes:
        raise ConversionError(
            f"{plan.output}: {plan.num_bytes / 1e6:,.0f} MB are needed; the disk has "
            f"{free / 1e6:,.0f} MB free"
        )


def free_disk_bytes(plan: ConversionPlan) -> int:
    """Bytes that the files may take; those of unfinished files, to be replaced, count as free."""
    partial = [partial_path(file.path) for file in plan.files]
    used = sum(path.stat().st_blocks * 512 for path in partial if path.exists())
    return shutil.disk_usage(plan.output.parent).free + used


def memory_estimate_bytes(plan: ConversionPlan) -> int:
    """About what a conversion holds at its peak; only vocabularies make it vary."""
    return BASE_MEMORY_BYTES + 3 * sum(len(file.header) for file in plan.files)


def _importance(
    model: ModelDescription, path: Path | None
) -> Mapping[str, NDArray[np.float32]] | None:
    if path is None:
        return None
    importance = read_imatrix(path)
    found: list[SourceTensor] = [t for t in model.tensors if t.name in importance]
    if not found:
        raise InvalidOptionError(f"{path}: importance of another model: it names no tensor of this")
    for tensor in found:
        num_columns = importance[tensor.name].size
        if num_columns != tensor.num_columns:
            raise InvalidOptionError(
                f"{path}: importance of another model: {tensor.name} has {num_columns} columns "
                f"there; needed: {tensor.num_columns}"
            )
    return importance


def _with_own_keys(
    metadata: Mapping[str, MetadataItem], file_type: object
) -> dict[str, MetadataItem]:
    """The keys that follow from the conversion, after the others of ``general.``."""
    own = {
        **({FILE_TYPE: file_type} if isinstance(file_type, int) else {}),
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.alignment": ALIGNMENT,
    }
    general = {key: item for key, item in metadata.items() if key.startswith("general.")}
    items = {key: MetadataItem(value, GGUFValueType.UINT32) for key, value in own.items()}
    return general | items | {key: i for key, i in metadata.items() if key not in general}
