"""A choice that is made where the logits are: what must be said there, and what is done with it.

Logits of a whole vocabulary are too many to be sent for each token. What a sampler needs are plain
values; chance is drawn by who orders, so that an order that is carried out twice gives one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellama.sampling.chance import GivenChance
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels

UNCHOSEN = -1
"""Stands for the choice behind a guess that was wrong."""


@dataclass(frozen=True)
class SamplerPlan:
    """How the tokens of the text ``number`` are chosen; the rest is as for ``Sampler``."""

    number: int
    options: SamplingOptions
    end_tokens: frozenset[int]
    stop_tokens: frozenset[int]
    bias: Mapping[int, float]
    prompt_length: int
    own_tokens: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceOrder:
    """Choose by ``plan``, a token for each of the rows of logits that a step gives.

    ``chances``: random numbers for each row. ``breaking``: tokens of the text at which DRY's
    sequences end.
    """

    plan: SamplerPlan
    chances: tuple[tuple[float, ...], ...]
    breaking: frozenset[int]


class OrderedChoices:
    """Carries out the orders of one text, whose history grows or is cut; for one thread."""

    def __init__(self, plan: SamplerPlan, kernels: CompiledKernels) -> None:
        self.plan = plan
        self._breaking: frozenset[int] = frozenset()
        self._sampler = Sampler(
            plan.options,
            kernels,
            end_tokens=plan.end_tokens,
            stop_tokens=plan.stop_tokens,
            breaks=lambda token: token in self._breaking,
            bias=plan.bias,
            prompt_length=plan.prompt_length,
            own_tokens=plan.own_tokens,
        )

    def tokens(
        self, order: ChoiceOrder, rows: npt.NDArray[np.float32], history: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """A row of one number for each of ``rows`` (n, vocab_size): the token, which f32 can hold.

        ``history`` ends with the token of the last row. Those of the other rows but the first are
        guesses: behind one that is not what was chosen before it, nothing is chosen any more.
        """
        self._breaking = order.breaking
        chosen = np.full((len(rows), 1), UNCHOSEN, np.float32)
        for number, row in enumerate(rows):
            end = len(history) - len(rows) + number + 1
            if number and history[end - 1] != chosen[number - 1, 0]:
                break
            so_far = history if end == len(history) else history[:end]
            chosen[number] = self._sampler(row, so_far, chance=GivenChance(order.chances[number]))
        return chosen
