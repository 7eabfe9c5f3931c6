"""Which GGUF files are one model: all parts of a split one, and those that a reference means.

``names`` knows where models lie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgellama.models.well_known import USUAL_TYPE, HubReference
from edgellama.quant.errors import ModelNotFoundError

_FIRST_PART = r"-00001-of-(\d{5})\.gguf$"
_ANY_PART = r"-\d{5}-of-\d{5}\.gguf$"
_PART_NUMBER = r"-\d{5}(-of-\d{5}\.gguf)$"


def models_in(folder: Path, pattern: str) -> list[Path]:
    """Model files in a folder, a split model standing as its first part."""
    paths = sorted(folder.glob(pattern))
    return [p for p in paths if re.search(_FIRST_PART, p.name) or not re.search(_ANY_PART, p.name)]


def split_parts(first: Path) -> list[Path]:
    """Every part of the model that starts with ``first``, whether or not it is there."""
    match = re.search(_FIRST_PART, first.name)
    if match is None:
        return [first]
    stem, num_parts = first.name[: match.start()], int(match[1])
    return [
        first.with_name(f"{stem}-{part:05d}-of-{num_parts:05d}.gguf")
        for part in range(1, num_parts + 1)
    ]


def first_part(path: Path) -> Path:
    """The part that a split model is opened by; ModelNotFoundError if it is not there."""
    if not re.search(_ANY_PART, path.name):
        return path
    first = path.with_name(re.sub(_PART_NUMBER, r"-00001\1", path.name))
    if not first.is_file():
        raise ModelNotFoundError(
            f"{path} is a later part of a split model; {first.name} is missing"
        )
    return first


def models_meant(reference: HubReference, files: Sequence[str]) -> list[list[str]]:
    """The models that a reference means, as ``choose_files`` gives them.

    Of several, a reference without a file means the one of usual type.
    """
    found = choose_files(reference.file, files)
    if reference.file is None and len(found) > 1:
        return choose_files(USUAL_TYPE, files) or found
    return found


def choose_files(wanted: str | None, files: Sequence[str]) -> list[list[str]]:
    """The models, each as all of its parts in order, that ``wanted`` means among ``files``.

    ``wanted`` is an exact path, a file's name without its ending, or a fragment of a path, such
    as ``q4_k_m``, in either case; what is more exact goes first: ``q6_k`` is not ``q6_k_l``. None
    means all.
    """
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        models.setdefault(re.sub(_PART_NUMBER, r"\1", file), []).append(file)
    text = (wanted or "").lower()
    ends = re.compile(rf"(^|[-._]){re.escape(text)}$")
    fitting = (
        [parts for parts in models.values() if wanted in parts],
        [parts for name, parts in models.items() if model_stem(name).lower() == text],
        [parts for name, parts in models.items() if text and ends.search(model_stem(name).lower())],
        [parts for name, parts in models.items() if text in name.lower()],
    )
    return next((found for found in fitting if found), [])


def model_stem(file: str) -> str:
    """A file's name without folders, ending, and which part of how many it is."""
    return re.sub(r"(-\d{5})?-of-\d{5}$", "", file.rpartition("/")[2].removesuffix(".gguf"))
