"""From the name of a model, as a user writes it, to its file.

A name is a path, a short name, or ``hf:OWNER/REPO[:FILE]``. This module knows how pulled models lie
in the cache folder. ``pulling`` fetches them.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edgellama.kernels_cpu.machine.user_cache import cache_folders
from edgellama.models.model_files import first_part, model_stem, models_in, models_meant
from edgellama.models.well_known import (
    ALIASES,
    HUB_PREFIX,
    NAMED_MODELS,
    HubReference,
    find_hub_model,
    known_names,
    meant_name,
    parse_hub_reference,
    refuse_address,
    short_name,
)
from edgellama.quant.error_text import NEARLY_THE_SAME, nearest, shown
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError
from edgellama.quant.ways import Way, command_line

FOLDER_NAME = "models"
"""Of the folder with pulled models, within the cache folder."""
_CHECKPOINT_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "consolidated.*.pth")
_WEIGHT_SUFFIXES = (".safetensors", ".pth")
_ADAPTER = "adapter_config.json"


def pulled_models() -> dict[str, Path]:
    """Models in the cache, by the shortest name that ``resolve`` takes; a split model once."""
    found: dict[str, Path] = {}
    for root in cache_folders(FOLDER_NAME):
        for path in sorted(root.glob("*.gguf")):
            found.setdefault(_index_name(path), path)
        for path in models_in(root, "hf/*/*/**/*.gguf"):
            found.setdefault(_hub_name(path.relative_to(root / "hf")), path)
    return found


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The GGUF file meant by a path, a short name or an ``hf:`` reference; nothing is fetched.

    A folder means the one model in it; any part of a split model means its first part.
    Raises ModelNotFoundError, whose text says what to do next.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise InvalidOptionError(f"the model is {shown(name_or_path)}; allowed: a path or a name")
    text = os.fspath(name_or_path)
    if not text:
        raise InvalidOptionError("the model is ''; allowed: a path or a name")
    path = Path(os.path.expanduser(text))
    if _is_file(path):
        if path.suffix in _WEIGHT_SUFFIXES:
            raise _not_converted(path, "is")
        return first_part(path)
    refuse_address(text)
    if text.startswith(HUB_PREFIX):
        return resolve_hub(parse_hub_reference(text))
    name = ALIASES.get(text.lower(), text)
    pulled = pulled_models()
    if name in pulled:
        return pulled[name]
    if path.is_dir() and name not in NAMED_MODELS:
        return _only_model_in(path)
    if name in NAMED_MODELS:
        raise _not_downloaded(name)
    reference = find_hub_model(name)
    if reference is not None:
        try:
            return resolve_hub(reference)
        except ModelNotFoundError:
            raise _not_downloaded(name) from None
    if is_plainly_a_path(text):
        raise _no_such_file(path)
    known = list(dict.fromkeys([*pulled, *known_names()]))
    meant = meant_name(text, known)
    allowed = f"the path of a .gguf file, hf:OWNER/REPO[:FILE], or one of: {', '.join(known)}"
    advice = f"allowed: {allowed}" if meant is None else f"did you mean {meant}?"
    raise ModelNotFoundError(f"no file and no model called {text!r}; {advice}")


def _is_file(path: Path) -> bool:
    """ModelNotFoundError for a name that the system does not take."""
    try:
        return path.is_file()
    except OSError as error:
        raise ModelNotFoundError(f"{shown(str(path))}: {error.strerror}") from None


def is_plainly_a_path(text: str) -> bool:
    """Whether a text can mean nothing but a file: by its ending, or by how it begins."""
    is_named_so = text.lower().endswith(".gguf") or text.startswith((".", "~"))
    return is_named_so or Path(text).is_absolute()


def _no_such_file(path: Path) -> ModelNotFoundError:
    """The error for an absent file; it names the GGUF file of its folder that is called alike.

    Pipes and devices are there, but cannot be mapped.
    """
    if path.exists():
        return ModelNotFoundError(f"{path} is not a regular file; allowed: a file on a disk")
    if path.is_symlink():
        there = shown(os.readlink(path))
        end = "leads nowhere" if _is_in_a_circle(path) else "is not there"
        return ModelNotFoundError(f"{path} is a link to {there}, which {end}")
    if not path.parent.is_dir():
        return ModelNotFoundError(f"{path}: no such file; {path.parent} is not a folder")
    beside = sorted(found.name for found in path.parent.glob("*.gguf"))
    meant = nearest(path.name, beside, NEARLY_THE_SAME)
    guess = "" if meant is None else f"; did you mean {path.with_name(meant)}?"
    return ModelNotFoundError(f"{path}: no such file{guess}")


def _is_in_a_circle(link: Path) -> bool:
    """Whether a link leads to itself, over others or at once."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def can_pull(name: str) -> bool:
    """Whether ``pull`` knows where to fetch ``name`` from."""
    is_short = ALIASES.get(name.lower(), name) in NAMED_MODELS or find_hub_model(name) is not None
    return is_short or name.startswith(HUB_PREFIX)


def _not_downloaded(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"the model {name!r} is not downloaded yet", way=pull_it(name))


def pull_it(name: str) -> Way:
    """What helps where a model that can be pulled is not there."""
    return Way(f"edgellama.pull({name!r}) fetches it", f"run: {command_line('pull', name)}")


def resolve_hub(reference: HubReference) -> Path:
    """The pulled file that ``reference`` means; ModelNotFoundError if there is none, or several."""
    for root in cache_folders(FOLDER_NAME):
        folder = root / "hf" / reference.repository
        files = sorted(folder.glob("**/*.gguf"))
        present = {path.relative_to(folder).as_posix(): path for path in files}
        wanted = models_meant(reference, list(present))
        if len(wanted) == 1:
            return first_part(present[wanted[0][0]])
        if wanted:
            names = ", ".join(parts[0] for parts in wanted)
            raise ModelNotFoundError(
                f"{reference} means several downloaded files; name one of: {names}"
            )
    raise ModelNotFoundError(
        f"the model {reference} is not downloaded yet", way=pull_it(str(reference))
    )


def holds_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a folder with the weights of a model that was not converted yet."""
    try:
        is_folder = path.is_dir()
    except OSError:  # A name that the system does not take is told of where it is resolved.
        return False
    return is_folder and any(any(path.glob(pattern)) for pattern in _CHECKPOINT_PATTERNS)


def _only_model_in(folder: Path) -> Path:
    models = models_in(folder, "*.gguf")
    if len(models) == 1:
        return models[0]
    if not models and (folder / _ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder} holds a LoRA adapter, not a model",
            way=Way(
                f"edgellama.convert.adapter.lora.convert_lora({str(folder)!r}) writes what "
                "Llama.load_adapter takes",
                f"{command_line('convert-lora', folder)} writes what --lora takes",
            ),
        )
    if not models and holds_checkpoint(folder):
        raise _not_converted(folder, "holds")
    names = ", ".join(path.name for path in models) or "none"
    raise ModelNotFoundError(
        f"{folder} is a folder that must hold exactly one GGUF model; it holds: {names}"
    )


def _not_converted(path: Path, relation: str) -> ModelNotFoundError:
    """The error for a folder that holds a checkpoint, or a file that is one."""
    folder = path if path.is_dir() else path.parent
    return ModelNotFoundError(
        f"{path} {relation} a checkpoint, which must be converted before it runs",
        way=Way(
            f'Llama({str(folder)!r}, quantize="q4_k_m") does so and keeps the result',
            f"{command_line('convert', path)} writes a file, "
            f"{command_line('chat', folder, '--type', 'q4_k_m')} converts it and chats",
        ),
    )


def _index_name(path: Path) -> str:
    """The name of a file from the package index, or that somebody put there."""
    for model in NAMED_MODELS.values():
        if model.file_name == path.name:
            return model.name
    return path.stem


def _hub_name(inside: Path) -> str:
    """The shortest name of a file from the hub; ``inside`` is OWNER/REPO/FILE."""
    owner, repository, *rest = inside.parts
    file = "/".join(rest)
    reference = HubReference(f"{owner}/{repository}", file)
    whole = HubReference(reference.repository, model_stem(file))
    return short_name(whole) or str(reference)
