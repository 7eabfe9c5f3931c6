"""The calls of a stage besides computing, as plain values that any transport can carry.

``stage_call`` has the steps, ``stage_tasks`` carries out the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.cluster.stages.adapter_uses import AdapterUse
from edgellama.cluster.stages.stage_hooks import HookAt
from edgellama.quant.array_types import Octets

Tokens: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Fork:
    """Let ``target`` hold ``tokens``, which ``source`` begins with, without computing them.

    A stage of which that is not true does nothing; it is behind then.
    """

    source: int
    target: int
    tokens: Tokens


@dataclass(frozen=True)
class DescriptionWanted:
    """Say how keys and values are computed: a ``StageDescription``."""


@dataclass(frozen=True)
class StageDescription:
    """As for ``CacheMaker``."""

    arithmetic: str
    is_exact: bool


@dataclass(frozen=True)
class PageWanted:
    """Give page ``number`` of a sequence of ``num_tokens`` tokens: ``PageMemory`` or ``Behind``."""

    sequence: int
    num_tokens: int
    number: int


@dataclass(frozen=True)
class PageMemory:
    """Keys and values of a stage's layers in a page, as they lie on a machine of so many lanes."""

    memory: Octets
    lanes: int


@dataclass(frozen=True)
class PageGiven:
    """Keep a page of a sequence that is restored when all are there."""

    sequence: int
    number: int
    page: PageMemory


@dataclass(frozen=True)
class Restored:
    """Let a sequence be ``tokens`` with the pages that were given, from ``first_page`` on.

    ``prompt_length`` and ``adapters``: what they were computed with. How many tokens it holds then:
    all, or none where pages are missing.
    """

    sequence: int
    tokens: Tokens
    first_page: int
    prompt_length: int
    adapters: tuple[AdapterUse, ...]


@dataclass(frozen=True)
class Priority:
    """Let the threads that compute give way to other programs, or no more."""

    is_low: bool


@dataclass(frozen=True)
class HooksWanted:
    """Let the driver's hooks at these places see every step from now on."""

    places: tuple[HookAt, ...]


StageTask: TypeAlias = (
    Fork | Priority | HooksWanted | DescriptionWanted | PageWanted | PageGiven | Restored
)
