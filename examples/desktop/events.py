"""What the window asks for and what it is told: plain data between its thread and the talker's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Message: TypeAlias = "dict[str, str]"
"""A message: its ``role`` ("system", "user" or "assistant") and its ``content``."""


@dataclass(frozen=True)
class ModelChoice:
    """A model of the picker; ``num_bytes`` is what it is predicted to take, None for unknown."""

    name: str
    path: Path
    num_bytes: int | None

    @property
    def label(self) -> str:
        """What the picker shows."""
        needs = "damaged" if self.num_bytes is None else f"needs {self.num_bytes / 1e9:.2f} GB"
        return f"{self.name}  ({needs})"


@dataclass(frozen=True)
class FindModels:
    """Look which models there are and what each would take."""

    context_length: int


@dataclass(frozen=True)
class LoadModel:
    """Load a model in place of the one that is loaded."""

    path: Path
    context_length: int


@dataclass(frozen=True)
class Ask:
    """Answer a conversation that ends with the user's message."""

    messages: tuple[Message, ...]
    temperature: float | None
    max_tokens: int | None


@dataclass(frozen=True)
class Quit:
    """Give everything back; the thread ends."""


Command: TypeAlias = FindModels | LoadModel | Ask | Quit


@dataclass(frozen=True)
class ModelsFound:
    """The models that there are."""

    choices: tuple[ModelChoice, ...]


@dataclass(frozen=True)
class Busy:
    """Something takes a while: ``done`` of ``total`` parts, 0 of 0 where nobody knows."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Loaded:
    """A model is ready."""

    path: Path


@dataclass(frozen=True)
class Piece:
    """The reply goes on."""

    text: str


@dataclass(frozen=True)
class Replied:
    """The reply has ended: its whole text, why, and at what speed."""

    text: str
    reason: str
    tokens_per_second: float


@dataclass(frozen=True)
class Failed:
    """What was asked for went wrong."""

    error: str


Event: TypeAlias = ModelsFound | Busy | Loaded | Piece | Replied | Failed
