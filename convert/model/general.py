"""The keys under ``general.``: a model's name, size and licence.

``hparams`` has the keys of the architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_fields import read_text
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.errors import ModelFileError

MAX_CARD_LINES = 2000
# Keys of the model card. Each has one line there, so that no parser of YAML is needed.
_CARD_KEYS = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
_CACHE_FOLDER = re.compile(r"models--(?:.+--)?(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def general_items(
    checkpoint: Checkpoint, tensors: Iterable[SourceTensor], name: str | None
) -> dict[str, MetadataItem]:
    """The keys, with ``name`` in place of the folder's if it is given."""
    items = {
        "general.architecture": metadata.text("llama"),
        "general.type": metadata.text("model"),
        "general.name": metadata.text(name or folder_name(checkpoint.folder)),
        "general.size_label": metadata.text(size_label(tensors)),
    }
    return items | {key: metadata.text(value) for key, value in _card(checkpoint.folder).items()}


def folder_name(folder: Path) -> str:
    """The model's name by its folder; in the hub's cache that is two folders up."""
    folder = folder.resolve()
    if _COMMIT.fullmatch(folder.name) and folder.parent.name == "snapshots":
        match = _CACHE_FOLDER.fullmatch(folder.parent.parent.name)
        return match[1] if match else folder.name
    return folder.name.encode("utf-8", "replace").decode() or "model"


def size_label(tensors: Iterable[SourceTensor]) -> str:
    """The number of weights with two digits, as in ``6.7B``."""
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    scale, unit = next(((s, u) for s, u in _UNITS if count > s), _UNITS[-1])
    digits = max(0, 2 - len(str(round(count / scale)).lstrip("0")))
    return f"{count / scale:.{digits}f}{unit}"


def _card(folder: Path) -> dict[str, str]:
    """What the model card's front matter says in plain lines; nothing if there is none."""
    path = folder / "README.md"
    try:
        lines = read_text(path, "a model card").splitlines()[:MAX_CARD_LINES]
    except (ModelFileError, FileNotFoundError):
        return {}
    if not lines or lines[0].strip() != "---":
        return {}
    found = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        field, colon, value = line.partition(":")
        text = value.strip().strip("'\"")
        if colon and field in _CARD_KEYS and text and text[0] not in "[{|>&*!":
            found[_CARD_KEYS[field]] = text
    return found
