"""What the threads of an answer report while they make its texts, as plain values.

``streaming`` and the protocols turn them into bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgellama.generation.results import Chunk, Generation
from edgellama.server.errors import RequestError


@dataclass(frozen=True)
class Piece:
    """Some text of the text ``index``."""

    index: int
    chunk: Chunk


@dataclass(frozen=True)
class Ended:
    """The text ``index`` is whole."""

    index: int
    result: Generation


@dataclass(frozen=True)
class Failed:
    """Nothing more will come of the answer."""

    error: RequestError


@dataclass(frozen=True)
class Rest:
    """Bytes of a piece that a slow client has not taken yet; they come before all others."""

    chunk: bytes


@dataclass(frozen=True)
class Done:
    """All texts have ended."""


Event: TypeAlias = "Piece | Rest | Ended | Failed | Done"
