"""A choice that is made where the logits are: what it needs to know, and how it is carried out.

The logits of a whole vocabulary are too many to send for each token, while a sampler needs only
plain values. The side that orders draws the random numbers, so an order that is carried out twice
gives the same token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.quant.records import dataclass
from edgellama.sampling.chance import GivenChance
from edgellama.sampling.filters import Mask
from edgellama.sampling.logprobs import TokenShare, row_width
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels

UNCHOSEN = -1
"""Stands for the choice behind a guess that was wrong, and where there is none."""
Rule: TypeAlias = "bytes | int | None"
"""What may be chosen: tokens as bits, one in any case (``UNCHOSEN``: none), or all."""


@dataclass(frozen=True)
class SamplerPlan:
    """How the tokens of the text ``number`` are chosen; the rest is as for ``Sampler``.

    ``num_alternatives``: how many of the likeliest tokens' log-probabilities are told with each
    token and its own; None: none is told.
    """

    number: int
    options: SamplingOptions
    end_tokens: frozenset[int]
    stop_tokens: frozenset[int]
    bias: Mapping[int, float]
    prompt_length: int
    own_tokens: tuple[int, ...]
    num_alternatives: int | None = None


@dataclass(frozen=True)
class ChoiceOrder:
    """Choose by ``plan``, a token for each of the rows of logits that a step gives.

    ``chances``: random numbers for each row. ``breaking``: tokens of the text at which DRY's
    sequences end. ``rules``: one for each row; none where all tokens may be chosen.
    """

    plan: SamplerPlan
    chances: tuple[tuple[float, ...], ...]
    breaking: frozenset[int]
    rules: tuple[Rule, ...] = ()


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
        """A row for each of ``rows`` (n, vocab_size): the token, which f32 can hold.

        With log-probabilities it is a ``TokenShare``. ``history`` ends with the token of the last
        row. Those of the other rows but the first are guesses: behind one that is not what was
        chosen before it, nothing is chosen any more.
        """
        self._breaking = order.breaking
        width = row_width(self.plan.num_alternatives, rows.shape[1])
        chosen = np.full((len(rows), width), UNCHOSEN, np.float32)
        token = UNCHOSEN
        for number, row in enumerate(rows):
            end = len(history) - len(rows) + number + 1
            if number and history[end - 1] != token:
                break
            so_far = history if end == len(history) else history[:end]
            token = self._token(order, number, row, so_far)
            chosen[number] = self._answer_row(token, row)
        return chosen

    def next_token(
        self, chances: Sequence[float], row: npt.NDArray[np.float32], history: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """The same for one row (1, vocab_size) with an order that is the last but for chances."""
        token = self._sampler(row[0], history, None, GivenChance(chances))
        return np.array([self._answer_row(token, row[0])], np.float32).reshape(1, -1)

    def _answer_row(
        self, token: int, row: npt.NDArray[np.float32]
    ) -> int | npt.NDArray[np.float32]:
        """The row that is sent of a chosen token, with log-probabilities if they are wanted."""
        if self.plan.num_alternatives is None or token == UNCHOSEN:
            return token
        return TokenShare.by(row, token, self.plan.num_alternatives).row()

    def _token(
        self, order: ChoiceOrder, number: int, row: npt.NDArray[np.float32], history: Sequence[int]
    ) -> int:
        rule = order.rules[number] if order.rules else None
        if isinstance(rule, int):
            return rule
        allowed = None if rule is None else allowed_by(rule, len(row))
        return self._sampler(row, history, allowed, GivenChance(order.chances[number]))


def as_rule(mask: Mask, vocab_size: int) -> Rule:
    """What a mask allows, of which the end may be lacking."""
    mask = mask[:vocab_size]
    return bits_of(mask) if mask.any() else UNCHOSEN


def bits_of(mask: Mask) -> bytes:
    """The rule of a mask; where it allows nothing, the sampler says so."""
    return np.packbits(mask).tobytes()


def allowed_by(rule: bytes, vocab_size: int) -> Mask:
    """The mask (vocab_size,) of a rule; what it does not name is not allowed."""
    bits = np.unpackbits(np.frombuffer(rule, np.uint8))[:vocab_size]
    allowed = np.zeros(vocab_size, np.bool_)
    allowed[: len(bits)] = bits
    return allowed
