"""Models in several files: how tensors are divided among them, and the name of each file.

Names and keys are those of llama.cpp, which finds the parts by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.planning.conversion_plan import PlannedFile, PlannedTensor, lay_out
from edgellama.convert.planning.gguf_header import aligned
from edgellama.quant.errors import InvalidOptionError

MAX_PARTS = 65535  # split.no is a uint16
_SIZE = re.compile(r"(\d+)([MG])", re.IGNORECASE)
_UNITS = {"M": 1_000_000, "G": 1_000_000_000}


def parse_split_size(text: str) -> int:
    """Bytes of a size such as ``500M`` or ``2G``, in powers of 1000 as llama.cpp counts them."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise InvalidOptionError(
            f"the size of a part is {text!r}; allowed: a number and M or G, such as 500M or 2G"
        )
    return int(found[1]) * _UNITS[found[2].upper()]


def plan_files(
    output: Path,
    metadata: Mapping[str, MetadataItem],
    tensors: Sequence[PlannedTensor],
    max_bytes: int | None,
) -> tuple[PlannedFile, ...]:
    """The files that hold ``tensors``: ``output`` itself, or parts named after it.

    The first part has the metadata. A part holds at most ``max_bytes`` of tensors, or one that
    is larger. InvalidOptionError for more parts than can be numbered.
    """
    groups = _groups(tensors, max_bytes)
    if len(groups) == 1:
        return (lay_out(output, metadata, tensors),)
    if len(groups) > MAX_PARTS:
        raise InvalidOptionError(
            f"parts of {max_bytes} bytes would be {len(groups)} files; allowed: {MAX_PARTS}"
        )
    return tuple(
        lay_out(
            part_path(output, number, len(groups)),
            {
                **(metadata if number == 0 else {}),
                **_split_items(number, len(groups), len(tensors)),
            },
            group,
        )
        for number, group in enumerate(groups)
    )


def part_path(output: Path, number: int, count: int) -> Path:
    """The name of part ``number``, from 0."""
    stem = output.name.removesuffix(".gguf")
    return output.with_name(f"{stem}-{number + 1:05d}-of-{count:05d}.gguf")


def _groups(tensors: Sequence[PlannedTensor], max_bytes: int | None) -> list[list[PlannedTensor]]:
    groups: list[list[PlannedTensor]] = [[]]
    group_bytes = 0
    for tensor in tensors:
        num_bytes = aligned(tensor.num_bytes)
        if max_bytes is not None and groups[-1] and group_bytes + num_bytes > max_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(tensor)
        group_bytes += num_bytes
    return groups


def _split_items(number: int, count: int, num_tensors: int) -> dict[str, MetadataItem]:
    return {
        "split.no": MetadataItem(number, GGUFValueType.UINT16),
        "split.count": MetadataItem(count, GGUFValueType.UINT16),
        "split.tensors.count": MetadataItem(num_tensors, GGUFValueType.INT32),
    }
