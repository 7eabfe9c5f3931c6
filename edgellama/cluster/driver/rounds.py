"""Divides the tokens of a step into calls for the stages: pure functions over numbers.

A round is the calls that a stage computes together. Each chunk of a long prompt is a round of its
own, so that one stage computes the second chunk while the next stage has the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgellama.cluster.stages.adapter_uses import AdapterUse
from edgellama.cluster.stages.stage_call import Order, StageCall
from edgellama.cluster.stages.stage_task import Tokens
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.steps.segments import ROWS, Wanted, num_logits
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.sampling.share_order import ShareOrder


@dataclass(frozen=True)
class Chunking:
    """``chunk_tokens`` of a prompt go to a stage at once; ``step_tokens``: of one process."""

    chunk_tokens: int
    step_tokens: int


@dataclass(frozen=True)
class Part:
    """What a step wants of one sequence: ``tokens`` at ``position``, behind ``history``.

    ``order``: how tokens are chosen by the logits at its end; None: these are wanted themselves.
    """

    sequence: int
    history: Sequence[int]
    position: int
    tokens: Tokens
    wanted: Wanted
    prompt_length: int
    order: Order | None = None
    adapters: tuple[AdapterUse, ...] = ()


def rounds_of(parts: list[Part], held: dict[int, int], how: Chunking) -> list[list[StageCall]]:
    """The rounds of a step; ``held``: sequences of which a stage has only so many tokens.

    What these lack comes first. Parts of a few tokens share the last round.
    """
    rounds: list[list[StageCall]] = []
    together: list[StageCall] = []
    beside = frozenset([part.sequence for part in parts])
    for part in parts:
        if part.sequence in held:
            lacking = _lacking(part, held[part.sequence], how)
            rounds += [[replace(call, beside=beside)] for call in lacking]
        if len(part.tokens) <= MAX_SHORT_TOKENS:
            together.append(_whole(part, beside))
        else:
            rounds += [[replace(call, beside=beside)] for call in _calls(part, how)]
    return [*rounds, together] if together else rounds


def chunks_between(start: int, stop: int, how: Chunking) -> Iterator[tuple[int, int]]:
    """Where tokens are cut: at every place where one process would cut them, and at whole pages.

    A few tokens that one process would compute with those before them stay with these: they would
    be computed by other kernels alone.
    """
    for first, last in _cuts(start, stop, how.step_tokens):
        pieces = list(_cuts(first, last, max(how.chunk_tokens, PAGE_POSITIONS)))
        if len(pieces) > 1 and last - pieces[-1][0] <= MAX_SHORT_TOKENS:
            (before, _), _ = pieces[-2:]
            pieces[-2:] = [(before, last)]
        yield from pieces


def _cuts(start: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    while stop - start > most:
        end = (start + most) // PAGE_POSITIONS * PAGE_POSITIONS
        end = end if end > start else start + most
        yield start, end
        start = end
    if stop > start:
        yield start, stop


def _whole(part: Part, beside: frozenset[int]) -> StageCall:
    """A part of a few tokens, which one process computes together."""
    start, count = part.position, len(part.tokens)
    order = _order_of(part, part.wanted, start, start + count)
    return StageCall(
        part.sequence, start, part.tokens, part.wanted, None, part.prompt_length, beside,
        order, part.adapters,
    )  # fmt: skip


def _order_of(part: Part, wanted: Wanted, first: int, last: int) -> Order | None:
    """The part's order for its tokens from position ``first`` to before ``last``."""
    if not num_logits(wanted, last - first):
        return None
    return part.order.between(first, last) if isinstance(part.order, ShareOrder) else part.order


def _calls(part: Part, how: Chunking) -> Iterator[StageCall]:
    """The part's own tokens."""
    start, count = part.position, len(part.tokens)
    num_wanted = num_logits(part.wanted, count)
    for first, last in chunks_between(start, start + count, how):
        num_later = start + count - last
        is_whole = not num_later or part.wanted in ROWS
        wanted: Wanted = part.wanted if is_whole else max(0, num_wanted - num_later) or "none"
        tokens = part.tokens[first - start : last - start]
        order = _order_of(part, wanted, first, last)
        yield StageCall(
            part.sequence, first, tokens, wanted,
            prompt_length=part.prompt_length, order=order, adapters=part.adapters,
        )  # fmt: skip


def _lacking(part: Part, num_held: int, how: Chunking) -> Iterator[StageCall]:
    """What a stage lacks of the history: the prompt cut as it was, then the text's own tokens."""
    end = part.position
    prompt_end = min(max(part.prompt_length, num_held), end)
    for start, stop in ((num_held, prompt_end), (prompt_end, end)):
        for first, last in chunks_between(start, stop, how):
            tokens = np.array(part.history[first:last], np.int32)
            yield StageCall(
                part.sequence, first, tokens, "none",
                prompt_length=part.prompt_length, adapters=part.adapters,
            )  # fmt: skip
