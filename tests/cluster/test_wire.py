"""Messages between a driver and a stage as bytes: what goes in comes out, and goes once."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cluster.connections.wire import MOST_SHARED, Packer, Unpacker
from edgellama.cluster.stages.adapter_uses import AdapterUse
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import Behind, Order, StageCall
from edgellama.cluster.stages.stage_task import Fork
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.choice_order import ChoiceOrder, SamplerPlan
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.share_order import ShareOrder


def order_of(number: int) -> ChoiceOrder:
    """An order of the text of a number, whose plan is large."""
    options = SamplingOptions(temperature=number / 7)
    plan = SamplerPlan(number, options, frozenset([2]), frozenset(), {5: 1.0}, 3, (1,) * 999)
    rules = (number.to_bytes(2, "big") * 20, number, None, b"always the same" * 9)[number % 3 :]
    return ChoiceOrder(plan, ((0.5, 0.25),), frozenset([number]), rules)


def call_of(number: int, num_rows: int, width: int) -> StageCall:
    """A call with an order, or without one and with an adapter."""
    dice = np.random.default_rng(number)
    rows = dice.normal(size=(num_rows, width)).astype(np.float32) if width else None
    tokens = dice.integers(0, 1 << 31, num_rows).astype(np.int32)
    has_order = number % 3 > 0
    adapters = () if has_order else (AdapterUse("/a.gguf", b"digest", 0.5),)
    order: Order | None = order_of(number) if has_order else None
    if number % 5 == 0:
        order = ShareOrder.of(number, tokens[1:], number % 4, order_of(number), 288)
        order = order.between(number, number + num_rows - number % 2)
    return StageCall(
        number, 10 * number, tokens, ("last", "each", 3)[number % 3], rows, num_rows,
        frozenset([number, 1]), order, adapters,
    )  # fmt: skip


def is_same(one: Any, other: Any) -> bool:
    """Whether two messages, or parts of one, say the same."""
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (StageCall, Fork, ChoiceOrder, ShareOrder)):
        return is_same(list(vars(one).items()), list(vars(other).items()))
    if isinstance(one, EdgellamaError):
        return type(one) is type(other) and str(one) == str(other)
    return bool(one == other)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 200), st.integers(1, 3), st.integers(0, 4)), max_size=4),
        max_size=20,
    )
)
def test_calls_come_out_as_they_went_in(numbers: list[list[tuple[int, int, int]]]) -> None:
    """However many texts take turns over one connection."""
    packer, unpacker = Packer(), Unpacker()
    for each in numbers:
        calls = [call_of(*one) for one in each]
        assert is_same(unpacker.unpack(packer.pack(calls)), calls)


@given(
    st.integers(0, 1 << 62), st.integers(0, 1 << 40), st.integers(0, (1 << 31) - 1),
    st.none() | st.lists(st.floats(0, 1), max_size=2).map(tuple), st.integers(0, 3),
)  # fmt: skip
def test_next_tokens_and_rows_come_out_as_they_went_in(
    sequence: int, position: int, token: int, chances: tuple[float, ...] | None, width: int
) -> None:
    """Every bit comes out, with rows and without, of views of larger arrays too."""
    rows = np.arange(2 * width, dtype=np.float32).reshape(1, -1)[:, ::2] if width else None
    given = NextToken(sequence, position, token, chances, rows)
    found = Unpacker().unpack(Packer().pack(given))
    assert isinstance(found, NextToken) and is_same(found, given)
    for row in (rows, np.empty((1, 0), np.float32)):
        assert row is None or is_same(Unpacker().unpack(Packer().pack(row)), row)


def test_more_texts_than_are_kept_take_turns() -> None:
    """A plan that was let go of is sent again."""
    packer, unpacker = Packer(), Unpacker()
    for number in [*range(3 * MOST_SHARED), *range(3 * MOST_SHARED)]:
        calls = [call_of(number, 1, 2)]
        assert is_same(unpacker.unpack(packer.pack(calls)), calls)
    assert len(packer._slots) == MOST_SHARED


def test_what_is_known_is_not_sent_again() -> None:
    """The second call of a text is its numbers alone."""
    packer = Packer()
    first, second = (len(packer.pack([call_of(1, 1, 64)])) for _ in range(2))
    assert second < 500 < 2000 < first


def test_answers_and_tasks_come_out_as_they_went_in() -> None:
    """Rows, what is lacking, what is wrong; tasks and the pulse."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    messages: list[Any] = [
        [rows, Behind(3, 4), EdgellamaError("no"), rows[:0], rows[:, ::2]],
        [], None, "words", Fork(1, 2, np.array([1, 2], np.int32)),
    ]  # fmt: skip
    packer, unpacker = Packer(), Unpacker()
    for message in messages:
        assert is_same(unpacker.unpack(packer.pack(message)), message)
