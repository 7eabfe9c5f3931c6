"""The interface of all sources: parameters, and tensors by their own names.

``opening`` finds out what a path is. ``hugging_face_checkpoint``, ``meta_checkpoint`` and
``gguf_checkpoint`` each read one kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import ModelFileError

CheckpointKind = Literal["hugging_face", "meta", "gguf"]


class Checkpoint:
    """An open source; use it as a context manager, or call close().

    ``path``: what was opened. ``folder``: where tokenizer files lie. ``files``: the weights.
    ``parameters``: config.json, params.json or GGUF metadata. ``absent``: tensors that an index
    promises and no file holds, with the file that should; whether they are needed is not known
    here. ``notes``: what its user should hear.
    """

    def __init__(
        self,
        *,
        path: Path,
        kind: CheckpointKind,
        folder: Path,
        files: tuple[Path, ...],
        parameters: Mapping[str, object],
        tensors: Mapping[str, SourceTensor],
        absent: Mapping[str, Path] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.kind: CheckpointKind = kind
        self.folder = folder
        self.files = files
        self.parameters: Mapping[str, object] = MappingProxyType(dict(parameters))
        self.absent: Mapping[str, Path] = MappingProxyType(dict(absent or {}))
        self.notes = tuple(notes)
        self._tensors: Mapping[str, SourceTensor] | None = MappingProxyType(dict(tensors))

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Every tensor by the source's own name; ModelFileError after close()."""
        if self._tensors is None:
            raise ModelFileError(f"{self.path}: the checkpoint is closed")
        return self._tensors

    def close(self) -> None:
        """Let go of the files; a mapping ends with the last array or tensor that views it."""
        self._tensors = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
