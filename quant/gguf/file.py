"""A GGUF model file as the engine sees it: one set of metadata and tensors, split or not.

It joins the parts of a split model, and checks that they belong together. ``part`` parses one file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError
from edgellama.quant.gguf.kinds import check_model_kind
from edgellama.quant.gguf.metadata import MetadataValue
from edgellama.quant.gguf.part import Part, read_part
from edgellama.quant.gguf.strings import StringArray
from edgellama.quant.gguf.tensors import Tensor
from edgellama.quant.given_values import given_path
from edgellama.quant.mapped_file import FileMapping
from edgellama.quant.watched_files import WatchedFiles

__all__ = ["GGUFFile", "MetadataValue", "StringArray", "Tensor", "require_model"]

_PART_NAME = r"(?s)(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf"


class GGUFFile:
    """A model file, mapped read-only. The path of any part of a split model opens all parts.

    Use it as a context manager, or call close(). Arrays taken from it stay valid as long as they
    are referenced and nobody cuts the file; reading a part that is gone ends the process. The
    metadata of a split model is that of its first part.

    ``path`` is the path of the first part, ``files`` are the paths of all parts, and ``file_bytes``
    is their size together. ``metadata`` holds values by GGUF key, ``metadata_types`` GGUF's numbers
    of their types.

    Raises:
        ModelNotFoundError: An absent file or part.
        ModelFileError: A malformed one.

    Example:
        >>> from edgellama import GGUFFile, pull
        >>> with GGUFFile(pull("smollm2")) as file:
        ...     file.metadata["general.architecture"], file.tensors["token_embd.weight"].shape
        ('llama', (49152, 576))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The absolute path is for ``reopen``: the working folder may change meanwhile.
        self._opened = given_path("path", path).absolute()
        parts = _read_parts(Path(path))
        first = parts[0]
        self.path = first.path
        self.version = first.version
        self.alignment = first.alignment
        self.files = tuple(part.path for part in parts)
        self.file_bytes = sum(part.file_bytes for part in parts)
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(first.metadata)
        self.metadata_types: Mapping[str, int] = MappingProxyType(first.metadata_types)
        self._tensors: Mapping[str, Tensor] | None = None
        self._mappings: tuple[FileMapping, ...] = ()
        self._open(parts)
        # Samples are taken when the file is first watched, and compared by ``reopen``.
        self._samples: list[list[bytes]] | None = None

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name, in the order of the files; ModelFileError after close()."""
        if self._tensors is None:
            raise ModelFileError(f"{self.path}: the file is closed")
        return self._tensors

    def reopen(self) -> None:
        """Map the same files again after close(); nothing happens before it.

        ModelNotFoundError or ModelFileError if they are not there, or are others now.
        """
        if self._tensors is None:
            parts = _read_parts(self._opened)
            mappings = tuple(part.mapping for part in parts)
            if not self._are_same(mappings):
                raise ModelFileError(
                    f"{self.path}: the file is another than the one that was loaded; load it anew"
                )
            self._open(parts)

    def watch(self) -> WatchedFiles:
        """Tells for as long as it lives whether the files are as they were when they were mapped.

        ModelFileError if they are closed, or cannot be read any more.
        """
        if self._tensors is None:
            raise ModelFileError(f"{self.path}: the file is closed")
        if self._samples is None:
            try:
                self._samples = [mapping.samples() for mapping in self._mappings]
            except OSError as error:
                raise file_error(self.path, f"cannot be read, {error}", "a readable file") from None
        return WatchedFiles(self.files, self._mappings, self._samples)

    def close(self) -> None:
        """Release the mapping, which ends with the last array that still uses it."""
        self._tensors = None
        self._mappings = ()

    def _open(self, parts: list[Part]) -> None:
        self._tensors = MappingProxyType(_join_tensors(parts))
        self._mappings = tuple(part.mapping for part in parts)
        self._stamps = [mapping.stamp for mapping in self._mappings]

    def _are_same(self, mappings: Sequence[FileMapping]) -> bool:
        """Whether files are those that were open, perhaps with other times."""
        if [mapping.stamp for mapping in mappings] == self._stamps:
            return True
        sizes = [size for size, _ in self._stamps]
        if self._samples is None or [len(mapping) for mapping in mappings] != sizes:
            return False
        return [mapping.samples() for mapping in mappings] == self._samples

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def require_model(file: GGUFFile) -> None:
    """UnsupportedModelError for an adapter, an importance matrix, or what else GGUF can hold."""
    try:
        check_model_kind(file.metadata)
    except UnsupportedModelError as error:
        raise error.within(file.path) from None


def _read_parts(path: Path) -> list[Part]:
    """The parts that ``path`` belongs to, in order; one for a model that is not split."""
    opened = read_part(path)
    count = _split_number(opened, "split.count", default=1)
    if count <= 1:
        return [opened]
    name = re.fullmatch(_PART_NAME, path.name)
    if name is None or int(name["count"]) != count or not 1 <= int(name["number"]) <= count:
        raise file_error(
            path,
            f"the file is one of split.count {count} parts, which its name does not say",
            f"names that end in -00001-of-{count:05d}.gguf and so on",
        )
    names = [f"{name['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    parts = [opened if n == path.name else _read_sibling(path, n) for n in names]
    _check_parts(parts)
    return parts


def _read_sibling(path: Path, name: str) -> Part:
    try:
        return read_part(path.with_name(name))
    except ModelNotFoundError:
        raise ModelNotFoundError(
            f"{path}: its part {path.with_name(name)} is missing; a split model needs all parts"
        ) from None


def _check_parts(parts: list[Part]) -> None:
    """ModelFileError unless each part says which one it is, and all their tensors are there."""
    count = len(parts)
    num_tensors = sum(len(part.tensors) for part in parts)
    allowed: dict[str, Sequence[int]] = {
        "split.no": range(count),
        "split.count": [count] * count,
        "split.tensors.count": [num_tensors] * count,
    }
    for key, numbers in allowed.items():
        for part, number in zip(parts, numbers, strict=True):
            found = _split_number(part, key, default=None)
            if found != number:
                raise file_error(part.path, f"{key} is {found}", str(number))


def _split_number(part: Part, key: str, default: int | None) -> int:
    value = part.metadata.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise file_error(part.path, f"{key} is {shown(value)}", "a number from 0")


def _join_tensors(parts: list[Part]) -> dict[str, Tensor]:
    """The tensors of all parts by name; ModelFileError if two parts hold the same."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise file_error(
                    part.path,
                    f"tensor {shown(tensor.name)} is in an earlier part too",
                    "each name once in a split model",
                )
            tensors[tensor.name] = tensor
    return tensors
