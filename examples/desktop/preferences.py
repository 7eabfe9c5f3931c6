"""What the user has set, kept as JSON; values that cannot be are replaced by the usual ones."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

CONTEXT_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
THEMES = ("light", "dark")


@dataclass(frozen=True)
class Preferences:
    """``temperature`` and ``max_tokens`` None: as the model recommends, and no limit."""

    model: str = ""
    context_length: int = 4096
    temperature: float | None = None
    max_tokens: int | None = None
    system: str = ""
    theme: str = "light"

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        checks = {
            "model": isinstance(self.model, str),
            "context_length": type(self.context_length) is int and self.context_length > 0,
            "temperature": self.temperature is None
            or (type(self.temperature) in (int, float) and 0 <= self.temperature <= 5),
            "max_tokens": self.max_tokens is None
            or (type(self.max_tokens) is int and self.max_tokens > 0),
            "system": isinstance(self.system, str),
            "theme": self.theme in THEMES,
        }
        for name, is_right in checks.items():
            if not is_right:
                raise ValueError(f"{name} is {getattr(self, name)!r}")


def read_preferences(path: Path) -> Preferences:
    """The preferences in a file; the usual ones where it is missing or broken."""
    try:
        found = json.loads(path.read_text("utf-8"))
        known = {field.name for field in fields(Preferences)}
        values: dict[str, Any] = {name: value for name, value in found.items() if name in known}
        return Preferences(**values)
    except (OSError, ValueError, TypeError, AttributeError):
        return Preferences()


def write_preferences(path: Path, preferences: Preferences) -> None:
    """Replace the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(preferences), indent=2), "utf-8")
    os.replace(new, path)
