"""What was measured, as data: in memory while it grows, and as the JSON file that keeps it.

How they are measured is left to ``rounds`` and ``workers``, how they are shown to ``table``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comparison.figures import Quantity


@dataclass(frozen=True)
class Settings:
    """What every engine runs; counts are tokens."""

    num_threads: int
    depths: tuple[int, ...]
    prompt_tokens: int
    decode_tokens: int
    repeats: int
    rounds: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))
        counts = (self.num_threads, self.prompt_tokens, self.decode_tokens, self.repeats)
        if min(*counts, self.rounds) < 1 or not self.depths or self.depths[0] < 0:
            raise ValueError(f"impossible task {asdict(self)}; allowed: counts of 1 or more")

    @property
    def context_length(self) -> int:
        """Tokens that the deepest test needs room for."""
        return self.depths[-1] + max(self.prompt_tokens, self.decode_tokens)


@dataclass
class EngineResults:
    """One engine on one model: a value for each round by quantity, and what it says it is."""

    name: str
    descriptions: list[str] = field(default_factory=list)
    values: dict[Quantity, list[float]] = field(default_factory=dict)
    other_cpus: list[float] = field(default_factory=list)
    """Cores that everything else kept busy, for every process that was measured."""

    def describe(self, text: str) -> None:
        """Keep what is said for the first time."""
        if text not in self.descriptions:
            self.descriptions.append(text)


@dataclass(frozen=True)
class ModelResults:
    """All engines on one model, edgellama first."""

    title: str
    start_tokens: int
    """Of the prompt whose first token is waited for."""
    engines: tuple[EngineResults, ...]


@dataclass(frozen=True)
class Comparison:
    """A run, or several of the same settings."""

    settings: Settings
    models: tuple[ModelResults, ...]

    def write(self, path: Path) -> None:
        """Write all values as JSON."""
        path.write_text(json.dumps(_plain(self), indent=1) + "\n", "utf-8")


def read_comparisons(paths: Iterable[Path]) -> Comparison:
    """The models of several files. RuntimeError: damaged, or measured with different settings."""
    found = [(path, _read(path)) for path in paths]
    first_path, first = found[0]
    for path, other in found:
        if other.settings != first.settings:
            raise RuntimeError(
                f"{path} was measured with {other.settings}, {first_path} with {first.settings}; "
                "only the same settings go together"
            )
    return Comparison(first.settings, tuple(model for _, one in found for model in one.models))


def _plain(comparison: Comparison) -> dict[str, Any]:
    models = [
        {
            "title": model.title,
            "start_tokens": model.start_tokens,
            "engines": [_plain_engine(engine) for engine in model.engines],
        }
        for model in comparison.models
    ]
    return {"settings": asdict(comparison.settings), "models": models}


def _plain_engine(engine: EngineResults) -> dict[str, Any]:
    series = [{**asdict(quantity), "values": values} for quantity, values in engine.values.items()]
    return {
        "name": engine.name,
        "descriptions": engine.descriptions,
        "series": series,
        "other_cpus": engine.other_cpus,
    }


def _read(path: Path) -> Comparison:
    try:
        plain = json.loads(path.read_text("utf-8"))
        settings = Settings(**plain["settings"])
        return Comparison(settings, tuple(_model(model) for model in plain["models"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeError(f"{path} holds no comparison: {error!r}") from error


def _model(plain: dict[str, Any]) -> ModelResults:
    engines = tuple(_engine(engine) for engine in plain["engines"])
    return ModelResults(plain["title"], plain["start_tokens"], engines)


def _engine(plain: dict[str, Any]) -> EngineResults:
    values = {
        Quantity(series["figure"], series["depth"]): [float(value) for value in series["values"]]
        for series in plain["series"]
    }
    return EngineResults(plain["name"], plain["descriptions"], values, plain["other_cpus"])
