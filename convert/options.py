"""The options of a conversion: read from what a user writes, and checked before a file is opened.

``quant.recipes`` knows the formats, and ``pipeline`` uses the options.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Union

from edgellama.convert.planning.split import parse_split_size
from edgellama.kernels_cpu.machine.cpu import default_num_threads
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import Format
from edgellama.quant.given_values import check_names, given_path, is_number, is_true, is_whole
from edgellama.quant.recipes import COPY, FormatOptions, find_recipe_or_copy, find_tensor_format

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
        if self.split_max_bytes is not None and not is_whole(self.split_max_bytes, 1):
            raise InvalidOptionError(
                f"the size of a part is {shown(self.split_max_bytes)}; allowed: 1 byte and more"
            )


def read_options(output: AnyPath | None, arguments: ConversionArguments) -> ConversionOptions:
    """Checked options; InvalidOptionError for the first that is wrong."""
    check_names(arguments, tuple(ConversionArguments.__annotations__))
    size = arguments.get("split_max_size")
    return ConversionOptions(
        formats=_formats(arguments),
        output=_path("output", output),
        imatrix=_path("imatrix", arguments.get("imatrix")),
        num_threads=_num_threads(arguments.get("num_threads")),
        resume=is_true("resume", arguments.get("resume", False)),
        verify=is_true("verify", arguments.get("verify", False)),
        report=_path("report", arguments.get("report")),
        split_max_bytes=parse_split_size(size) if isinstance(size, str) else size,
        metadata=_metadata(arguments.get("metadata", {})),
        name=_text("name", arguments.get("name")),
        pre=_text("pre", arguments.get("pre")),
        adapters=tuple(
            (given_path("adapters", path).expanduser(), _scale(path, scale))
            for path, scale in _pairs("adapters", arguments.get("adapters", ()))
        ),
        overwrite=is_true("overwrite", arguments.get("overwrite", False)),
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
    recipe = find_recipe_or_copy(arguments.get("type", DEFAULT_TYPE))
    if recipe is COPY:
        given = [name for name in _NOT_WITH_COPY if arguments.get(name)]
        if given:
            raise InvalidOptionError(f"type copy with {given[0]}; allowed: one of the two")
        return FormatOptions(COPY)
    return FormatOptions(
        recipe=recipe,
        tensor_formats=tuple(
            _pattern(pattern, name)
            for pattern, name in _pairs("tensor_types", arguments.get("tensor_types", ()))
        ),
        output_format=_format(arguments.get("output_tensor_type")),
        embedding_format=_format(arguments.get("token_embedding_type")),
        is_pure=is_true("pure", arguments.get("pure", False)),
    )


def _scale(path: AnyPath, scale: Any) -> float:
    if is_number(scale) and math.isfinite(scale):
        return float(scale)
    raise InvalidOptionError(f"the scale of {path} is {shown(scale)}; allowed: finite numbers")


def _format(name: str | None) -> Format | None:
    return None if name is None else find_tensor_format(name)


def _pattern(pattern: str, tensor_type: str) -> tuple[re.Pattern[str], Format]:
    if not isinstance(pattern, str):
        raise InvalidOptionError(f"tensor type {shown(pattern)}; allowed: a regular expression")
    try:
        return re.compile(pattern), find_tensor_format(tensor_type)
    except re.error as error:
        raise InvalidOptionError(
            f"tensor type {pattern!r} is no regular expression, {error}"
        ) from None


def _path(name: str, value: AnyPath | None) -> Path | None:
    return None if value is None else given_path(name, value).expanduser()


def _num_threads(value: Any) -> int:
    if value is None:
        return default_num_threads()
    if not is_whole(value, 1):
        raise InvalidOptionError(f"num_threads is {shown(value)}; allowed: 1 and more, or None")
    return int(value)


def _text(name: str, value: str | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidOptionError(f"{name} is {shown(value)}; allowed: a text, or None")


def _metadata(value: Mapping[str, object]) -> dict[str, object]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise InvalidOptionError(f"metadata is {shown(value)}; allowed: values by key")


def _pairs(name: str, value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [None]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InvalidOptionError(f"{name} is {shown(value)}; allowed: pairs")
        yield pair[0], pair[1]
