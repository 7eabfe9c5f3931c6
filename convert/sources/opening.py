"""Finds out whether a path is a model of Hugging Face, of Meta or a GGUF file, and opens it.

``hugging_face_checkpoint``, ``meta_checkpoint`` and ``gguf_checkpoint`` each read one kind.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgellama.convert.sources import hugging_face_checkpoint as hugging_face
from edgellama.convert.sources import meta_checkpoint as meta
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.gguf_checkpoint import open_gguf
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import EdgellamaError, ModelNotFoundError, UnsupportedModelError
from edgellama.quant.mapped_file import map_file
from edgellama.quant.ways import Way, command_line

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_OF_TRAINING = re.compile(
    "training_args|optimizer|scheduler|rng_state|random_states|zero_pp_rank|bf16_zero"
)
"""How the names of files begin that trainers save beside weights."""
_MODEL_FILES = ("config.json", "params.json", "*.safetensors", "*.bin", "*.pth")


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The model at ``path``: a folder of Hugging Face or Meta, one of its files, or GGUF.

    Of tensors only names, shapes and places are read. Raises ModelNotFoundError if there is no
    model, ModelFileError for a malformed one, UnsupportedModelError for an adapter.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _open_folder(path, path, None)
        if path.suffix == ".json" and path.is_file():
            return _open_folder(path, path.parent, None)
        if path.suffix in WEIGHT_SUFFIXES and path.is_file() and not _is_gguf(path):
            return _open_folder(path, path.parent, path)
        return open_gguf(path)
    except EdgellamaError:
        raise
    except OSError as error:  # a folder that may not be entered, a name that is too long
        reason = f"cannot be read, {error.strerror or error}"
        raise file_error(path, reason, "a readable model") from error


def _is_gguf(path: Path) -> bool:
    """Whether a file is GGUF whatever its name, as early ones were called ``.bin``."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _open_folder(path: Path, folder: Path, file: Path | None) -> Checkpoint:
    """The model in ``folder``, or what ``file`` is a part of; Hugging Face's before Meta's."""
    if (folder / hugging_face.CONFIG_FILE).is_file():
        weights = hugging_face.find_weights(folder)
        if weights and (file is None or weights.holds(file)):
            return hugging_face.open_hugging_face(path, folder, weights)
    if (folder / meta.PARAMETERS_FILE).is_file():
        shards = meta.find_shards(folder)
        if shards and (file is None or file in shards):
            return meta.open_meta(path, folder, shards)
    if file is not None and (folder / hugging_face.CONFIG_FILE).is_file():
        return hugging_face.open_hugging_face(path, folder, hugging_face.single_file(file))
    if file is not None and (folder / meta.PARAMETERS_FILE).is_file():
        return meta.open_meta(path, folder, (file,))
    if file is not None:
        raise ModelNotFoundError(
            f"{file}: neither {hugging_face.CONFIG_FILE} nor {meta.PARAMETERS_FILE} lies beside "
            "it, one of which says what the weights are"
        )
    raise _no_model(folder)


def _may_be_weights(path: Path) -> bool:
    return path.suffix in WEIGHT_SUFFIXES and not _OF_TRAINING.match(path.name)


def _inner_folders(folder: Path) -> list[Path]:
    """Folders in ``folder`` with a model each: Meta's downloads and Hugging Face's cache."""
    names = (hugging_face.CONFIG_FILE, meta.PARAMETERS_FILE)
    patterns = [f"{place}/{name}" for place in ("*", "snapshots/*") for name in names]
    found = {path.parent for pattern in patterns for path in folder.glob(pattern)}
    return sorted(inner for inner in found if any(map(_may_be_weights, inner.iterdir())))


def _no_model(folder: Path) -> EdgellamaError:
    """What is wrong with ``folder``, as far as its file names tell.

    ModelFileError or ModelNotFoundError for weights or parameters that are no file, such as a link
    to nothing.
    """
    if (folder / "adapter_config.json").is_file():
        return UnsupportedModelError(
            f"{folder}: holds a LoRA adapter, adapter_config.json, not a model",
            way=Way(
                f"convert it with edgellama.convert.adapter.lora.convert_lora({str(folder)!r})",
                f"convert it with: {command_line('convert-lora', folder)}",
            ),
        )
    gguf_files = sorted(path.name for path in folder.glob("*.gguf"))
    has_config = (folder / hugging_face.CONFIG_FILE).is_file()
    for name in (hugging_face.CONFIG_FILE, meta.PARAMETERS_FILE):
        if os.path.lexists(folder / name) and not (folder / name).is_file():
            map_file(folder / name, "a JSON file")
    weights = sorted(path for path in folder.iterdir() if _may_be_weights(path))
    for path in weights:
        if not path.is_file():
            map_file(path, "a file of weights")
    files = [path.name for path in weights]
    if gguf_files or (has_config and files):
        file = [*gguf_files, *files][0]
        return ModelNotFoundError(f"{folder}: is a folder; name the file in it: {shown(file)}")
    if inner := _inner_folders(folder):
        return ModelNotFoundError(f"{folder}: holds a model in a folder of its own: {inner[0]}")
    there = [name for name in _MODEL_FILES if any(folder.glob(name))]
    found = f"only {' and '.join(there)}" if there else "none of its files"
    return ModelNotFoundError(
        f"{folder}: holds no whole model, {found}; looked for config.json with "
        "model*.safetensors or pytorch_model*.bin, and for params.json with consolidated.*.pth "
        "or consolidated.safetensors"
    )
