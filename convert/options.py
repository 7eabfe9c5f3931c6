"""The options of a conversion, read from what a user writes, checked before anything is opened."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict, Union

from edgellama.convert.planning.split import parse_split_size
from edgellama.kernels_cpu.machine.cpu import default_num_threads
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import Format
from edgellama.quant.recipes import COPY, FormatOptions, find_recipe, find_tensor_format

DEFAULT_TYPE = "q4_k_m"
AnyPath: TypeAlias = Union[str, "os.PathLike[str]"]


class ConversionArguments(TypedDict, total=False):
    """ConversionOptions as keyword arguments.

    ``type``: of the whole file, such as ``q4_k_m``, or ``copy`` for a GGUF file whose tensors stay
    as they are, to change ``metadata``, ``name`` or ``pre``. ``tensor_types``: (pattern, type)
    pairs, of which the first whose pattern is found in a matrix's name goes before ``type``;
    ``output_tensor_type``, ``token_embedding_type``: the same for those two. ``pure``: one format
    for all matrices. ``imatrix``: file with the importance of columns. ``num_threads``: default
    is one a physical core. ``resume``: go on with what was stopped. ``verify``: read the file
    back and compare. ``report``: JSON file for the report. ``split_max_size``: bytes of a part,
    or a text such as ``2G``. ``metadata``: keys and values to set. ``name``: the model's name.
    ``pre``: the tokenizer's split pattern, where it is not recognised. ``adapters``: (path, scale)
    of LoRA adapters in GGUF files, which are added to the weights. ``overwrite``: replace an older
    file.
    """

    type: str
    tensor_types: Iterable[tuple[str, str]]
    output_tensor_type: str | None
    token_embedding_type: str | None
    pure: bool
    imatrix: AnyPath | None
    num_threads: int | None
    resume: bool
    verify: bool
    report: AnyPath | None
    split_max_size: str | int | None
    metadata: Mapping[str, object]
    name: str | None
    pre: str | None
    adapters: Iterable[tuple[AnyPath, float]]
    overwrite: bool


@dataclass(frozen=True)
class ConversionOptions:
    """All that a conversion is told besides its source; ConversionArguments explains each."""

    formats: FormatOptions
    output: Path | None
    imatrix: Path | None
    num_threads: int
    resume: bool
    verify: bool
    report: Path | None
    split_max_bytes: int | None
    metadata: Mapping[str, object]
    name: str | None
    pre: str | None
    adapters: tuple[tuple[Path, float], ...]
    overwrite: bool

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise InvalidOptionError(f"threads: {self.num_threads}; allowed: 1 and more")
        if self.split_max_bytes is not None and self.split_max_bytes < 1:
            raise InvalidOptionError(
                f"the size of a part is {self.split_max_bytes} bytes; allowed: 1 and more"
            )


def read_options(output: AnyPath | None, arguments: ConversionArguments) -> ConversionOptions:
    """Checked options; InvalidOptionError for the first that is wrong."""
    num_threads = arguments.get("num_threads")
    size = arguments.get("split_max_size")
    return ConversionOptions(
        formats=_formats(arguments),
        output=_path(output),
        imatrix=_path(arguments.get("imatrix")),
        num_threads=default_num_threads() if num_threads is None else num_threads,
        resume=arguments.get("resume", False),
        verify=arguments.get("verify", False),
        report=_path(arguments.get("report")),
        split_max_bytes=parse_split_size(size) if isinstance(size, str) else size,
        metadata=dict(arguments.get("metadata", {})),
        name=arguments.get("name"),
        pre=arguments.get("pre"),
        adapters=tuple(
            (Path(path).expanduser(), _scale(path, scale))
            for path, scale in arguments.get("adapters", ())
        ),
        overwrite=arguments.get("overwrite", False),
    )


def parse_tensor_type(text: str) -> tuple[str, str]:
    """The pattern and the type of ``REGEX=TYPE``; InvalidOptionError for anything else."""
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise InvalidOptionError(
            f"tensor type {text!r}; allowed: REGEX=TYPE, such as ffn_down=q6_k"
        )
    return pattern, name


_NOT_WITH_COPY = (
    *("tensor_types", "output_tensor_type", "token_embedding_type", "pure", "imatrix", "adapters"),
)


def _formats(arguments: ConversionArguments) -> FormatOptions:
    if arguments.get("type", "").lower() == COPY.name:
        given = [name for name in _NOT_WITH_COPY if arguments.get(name)]
        if given:
            raise InvalidOptionError(f"type copy with {given[0]}; allowed: one of the two")
        return FormatOptions(COPY)
    return FormatOptions(
        recipe=find_recipe(arguments.get("type", DEFAULT_TYPE)),
        tensor_formats=tuple(
            _pattern(pattern, name) for pattern, name in arguments.get("tensor_types", ())
        ),
        output_format=_format(arguments.get("output_tensor_type")),
        embedding_format=_format(arguments.get("token_embedding_type")),
        is_pure=arguments.get("pure", False),
    )


def _scale(path: AnyPath, scale: object) -> float:
    is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if is_number and math.isfinite(scale):  # type: ignore[arg-type]
        return float(scale)  # type: ignore[arg-type]
    raise InvalidOptionError(f"the scale of {path} is {scale!r:.40}; allowed: finite numbers")


def _format(name: str | None) -> Format | None:
    return None if name is None else find_tensor_format(name)


def _pattern(pattern: str, tensor_type: str) -> tuple[re.Pattern[str], Format]:
    try:
        return re.compile(pattern), find_tensor_format(tensor_type)
    except re.error as error:
        raise InvalidOptionError(
            f"tensor type {pattern!r} is no regular expression, {error}"
        ) from None


def _path(value: AnyPath | None) -> Path | None:
    return None if value is None else Path(value).expanduser()
