"""The models that requests may name: those that the server was given, and those of the cache.

A name is looked up among these, and never used as a path. ``model_shelf`` loads the models.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgellama.models.facts import ModelFacts, read_facts
from edgellama.models.library import stored_models
from edgellama.models.made import NO_PRESET, Preset
from edgellama.models.model_files import split_parts
from edgellama.models.well_known import ALIASES, find_hub_model
from edgellama.quant.error_text import shown
from edgellama.quant.errors import EdgellamaError
from edgellama.server.errors import RequestError

logger = logging.getLogger(__name__)

LATEST = ":latest"
"""What Ollama's clients add to a name that has no colon."""
MAX_NAME_CHARACTERS = 300
Stamp = tuple[tuple[int, int, int], ...]
"""Of each part of a model its inode, its size in bytes, and when it was written."""


@dataclass(frozen=True)
class ServedModel:
    """A model by the name that clients see."""

    name: str
    path: Path
    preset: Preset = NO_PRESET

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all its parts."""
        return sum(part.stat().st_size for part in split_parts(self.path) if part.is_file())

    @cached_property
    def modified(self) -> float:
        """When its file was written, in seconds since 1970."""
        return self.path.stat().st_mtime

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits that change with the file; no checksum of its content."""
        state = f"{self.path.name}:{self.num_bytes}:{self.modified}"
        return hashlib.sha256(state.encode()).hexdigest()

    @cached_property
    def facts(self) -> ModelFacts:
        """What its header says; ModelFileError for a damaged file."""
        return read_facts(self.path)


class Catalogue:
    """Models by name; the first given one is the default."""

    def __init__(
        self, given: Mapping[str, Path], *, only_given: bool, aliases: Mapping[str, str]
    ) -> None:
        self._given = {name: ServedModel(name, path) for name, path in given.items()}
        self._stamps = {name: _stamp(path) for name, path in given.items()}
        self._half_there: set[str] = set()
        self._only_given = only_given
        self._aliases = aliases
        self._known: dict[tuple[str, Path, float], ServedModel] = {}

    def models(self) -> dict[str, ServedModel]:
        """All models by name, the given ones first."""
        found = {name: self._current_given(name) for name in self._given}
        if not self._only_given:
            taken = {os.path.realpath(model.path) for model in found.values()}
            for stored in stored_models():
                is_given = os.path.realpath(stored.path) in taken
                if stored.name in found or (is_given and not stored.preset.base):
                    continue
                try:
                    key = (stored.name, stored.path, stored.path.stat().st_mtime)
                except OSError:
                    continue
                known = self._known.get(key)
                if known is None or known.preset != stored.preset:
                    known = ServedModel(stored.name, stored.path, stored.preset)
                    self._known[key] = known
                found[stored.name] = known
        return found

    def usable(self) -> list[ServedModel]:
        """The models whose header can be read."""
        found = []
        for model in self.models().values():
            try:
                _ = model.facts, model.num_bytes, model.modified
            except (EdgellamaError, OSError):
                continue
            found.append(model)
        return found

    def find(self, name: str | None) -> ServedModel:
        """The model of a name, or the default for none; RequestError (404) if there is none."""
        # Models that were given by path come first: looking into the cache's folder takes time.
        given = self._among(self._given, name)
        if given is not None:
            return self._current_given(given.name)
        models = self.models()
        found = self._among(models, name)
        if found is not None:
            return found
        if not name:
            raise RequestError(404, "there is no model yet; pull one", code="model_not_found")
        raise _unknown(name, models)

    def named(self, name: str) -> ServedModel:
        """The model that has exactly this name; RequestError (404) if there is none any more."""
        model = self._now(name)
        if model is None:
            raise _unknown(name, self.models())
        return model

    def holds(self, model: ServedModel) -> bool:
        """Whether its name still means the file that it meant when the model was found."""
        return model is self._now(model.name)

    def _now(self, name: str) -> ServedModel | None:
        """What a name means now; the cache's folder is looked into only for what was not given."""
        return self._current_given(name) if name in self._given else self.models().get(name)

    def _current_given(self, name: str) -> ServedModel:
        """A given model; another one from when its file was replaced, and is whole."""
        model = self._given[name]
        stamp = _stamp(model.path)
        if stamp is None or stamp == self._stamps[name]:
            return model
        replaced = ServedModel(name, model.path)
        try:
            _ = replaced.facts
        except (EdgellamaError, OSError) as error:
            if name not in self._half_there:
                logger.warning("%s stays as it was: its new file cannot be read: %s", name, error)
            self._half_there.add(name)
            return model
        self._half_there.discard(name)
        self._stamps[name], self._given[name] = stamp, replaced
        return replaced

    def _among(self, models: Mapping[str, ServedModel], name: str | None) -> ServedModel | None:
        """The model of a name, or the first one."""
        if not name:
            return next(iter(models.values()), None)
        candidates = self._candidates(name[:MAX_NAME_CHARACTERS])
        return next((models[text] for text in candidates if text in models), None)

    def _candidates(self, name: str) -> list[str]:
        """What a name may be meant for, the most exact first."""
        bare = name.removesuffix(LATEST)
        candidates = [name, bare]
        candidates += [self._aliases[text] for text in (name, bare) if text in self._aliases]
        candidates += [ALIASES[bare.lower()]] if bare.lower() in ALIASES else []
        reference = find_hub_model(bare)
        if reference is not None:
            candidates += [str(reference), *_short_names(str(reference))]
        return [*candidates, *(text.lower() for text in candidates)]


def _stamp(path: Path) -> Stamp | None:
    """What tells a model's parts from others in their place; None if one is not there."""
    try:
        states = [part.stat() for part in split_parts(path)]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in states)


def _unknown(name: str, models: Mapping[str, ServedModel]) -> RequestError:
    return RequestError(
        404,
        f"there is no model {shown(name)}; allowed: {', '.join(models) or 'none yet'}",
        param="model",
        code="model_not_found",
    )


def _short_names(reference: str) -> list[str]:
    from edgellama.models.well_known import parse_hub_reference, short_name

    name = short_name(parse_hub_reference(reference))
    return [] if name is None else [name]
