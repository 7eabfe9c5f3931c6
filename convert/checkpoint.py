"""A source as the converter sees it, whatever its kind: parameters, and tensors by their own names.

It finds out what a path is; reading each kind is left to hugging_face_checkpoint,
meta_checkpoint and gguf_checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from edgellama.convert.source_tensor import SourceTensor
from edgellama.quant.errors import ModelFileError, ModelNotFoundError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
CheckpointKind = Literal["hugging_face", "meta", "gguf"]


class Checkpoint:
    """An open source; use it as a context manager, or call close().

    ``path``: what was opened. ``folder``: where tokenizer files lie. ``files``: the weights.
    ``parameters``: config.json, params.json or GGUF metadata.
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
    ) -> None:
        self.path = path
        self.kind: CheckpointKind = kind
        self.folder = folder
        self.files = files
        self.parameters: Mapping[str, object] = MappingProxyType(dict(parameters))
        self._tensors: Mapping[str, SourceTensor] | None = MappingProxyType(dict(tensors))

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """Every tensor by the source's own name; ModelFileError after close()."""
        if self._tensors is None:
            raise ModelFileError(f"{self.path}: the checkpoint is closed")
        return self._tensors

    def close(self) -> None:
        """Lets go of the files; a mapping ends with the last array or tensor that views it."""
        self._tensors = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The model at ``path``: a folder of Hugging Face or Meta, one of its weight files, or GGUF.

    Only headers are read. Raises ModelNotFoundError if there is no model, ModelFileError for a
    malformed one, UnsupportedModelError for a quantized or partial one such as an adapter.
    """
    from edgellama.convert.gguf_checkpoint import open_gguf

    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix in WEIGHT_SUFFIXES and path.is_file():
        return _open_folder(path.parent, path)
    return open_gguf(path)


def _open_folder(folder: Path, file: Path | None = None) -> Checkpoint:
    """The model in ``folder``, found through ``file`` if that was named."""
    from edgellama.convert.hugging_face_checkpoint import find_weights, open_hugging_face

    weights = find_weights(folder)
    if (folder / "config.json").is_file() and weights:
        return open_hugging_face(file or folder, folder, weights)
    raise ModelNotFoundError(f"{folder}: no model")
