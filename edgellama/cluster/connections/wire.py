"""Writes calls and answers as bytes: numbers and octets in place of objects, so that a token costs
little.

When a message comes, the processor's caches are full of weights, so each object in a pickle costs
several times what it costs in a loop. What a text repeats with every token, such as its sampling
options, is sent once for each connection. Connections are in ``direct_line``.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from edgellama.cluster.stages.next_token import MOST_CHANCES, NextToken
from edgellama.cluster.stages.stage_call import Order, StageCall
from edgellama.sampling.choice_order import ChoiceOrder
from edgellama.sampling.share_order import ShareOrder

MOST_SHARED = 64
"""Values that both ends of a connection keep, the latest ones."""
_OTHER, _CALLS, _ANSWERS = range(3)
_NEXT, _ROW = 1, 2
"""How messages begin that are no pickles: a ``NextToken``, and its answer."""
_NEXT_NUMBERS = struct.Struct(f"<bbxxiqq{MOST_CHANCES}d")
_ROW_HEAD = struct.pack("<bxxx", _ROW)
"""As long as a float, so that those that follow are where floats may lie."""


class Packer:
    """Makes bytes of what one end of a connection sends, in this order."""

    def __init__(self) -> None:
        self._slots: dict[Hashable, int] = {}
        self._num_shared = 0

    def pack(self, message: object) -> bytes:
        """What ``Unpacker.unpack`` of the other end makes the same message of."""
        if isinstance(message, NextToken):
            return _packed_next(message)
        if isinstance(message, np.ndarray) and message.dtype == np.float32 and len(message) == 1:
            return _ROW_HEAD + message.tobytes()
        return pickle.dumps(self._plain(message), pickle.HIGHEST_PROTOCOL)

    def _plain(self, message: object) -> tuple[int, object]:
        if not isinstance(message, list):
            return _OTHER, message
        if message and isinstance(message[0], StageCall):
            return _CALLS, [self._call(call) for call in message]
        return _ANSWERS, [_answer(answer) for answer in message]

    def _call(self, call: StageCall) -> tuple[object, ...]:
        return (
            call.sequence,
            call.position,
            call.tokens.astype(np.int32, copy=False).tobytes(),
            call.wanted,
            None if call.rows is None else call.rows.astype(np.float32, copy=False).tobytes(),
            call.prompt_length,
            call.beside,
            None if call.order is None else self._order_values(call.order),
            call.adapters,
        )

    def _order_values(self, order: Order) -> tuple[object, ...]:
        """An order that has another one in it, which may have none, as two values; else its own."""
        if isinstance(order, ShareOrder):
            choice = None if order.choice is None else self._order(order.choice)
            return replace(order, choice=None), choice
        return self._order(order)

    def _order(self, order: ChoiceOrder) -> tuple[object, ...]:
        rules = [
            self._shared(rule, rule) if isinstance(rule, bytes) else rule for rule in order.rules
        ]
        return self._shared(order.plan, order.plan.number), order.chances, order.breaking, rules

    def _shared(self, value: object, key: Hashable) -> tuple[object, ...]:
        """A value, or where the other end has it already."""
        slot = self._slots.get(key)
        if slot is not None:
            return (slot,)
        if len(self._slots) >= MOST_SHARED:
            del self._slots[next(iter(self._slots))]
        slot = self._num_shared % MOST_SHARED
        self._num_shared += 1
        self._slots[key] = slot
        return slot, value


class Unpacker:
    """Makes messages of the bytes that a ``Packer`` has made, each once and in their order."""

    def __init__(self) -> None:
        self._values: list[Any] = [None] * MOST_SHARED

    def unpack(self, data: bytes | memoryview) -> object:
        """The message."""
        if data[0] == _NEXT:
            return _read_next(data)
        if data[0] == _ROW:
            return np.frombuffer(data, np.float32, offset=len(_ROW_HEAD)).reshape(1, -1)
        kind, plain = pickle.loads(data)
        if kind == _CALLS:
            return [self._call(*each) for each in plain]
        if kind == _ANSWERS:
            return [_read_answer(each) for each in plain]
        return plain

    def _call(
        self,
        sequence: int,
        position: int,
        tokens: bytes,
        wanted: Any,
        rows: bytes | None,
        prompt_length: int,
        beside: frozenset[int],
        order: tuple[Any, ...] | None,
        adapters: Any,
    ) -> StageCall:
        ids = np.frombuffer(tokens, np.int32)
        floats = None if rows is None else np.frombuffer(rows, np.float32).reshape(len(ids), -1)
        read = None if order is None else self._read_order(*order)
        return StageCall(
            sequence, position, ids, wanted, floats, prompt_length, beside, read, adapters
        )

    def _read_order(self, first: Any, choice: tuple[Any, ...] | None, *others: Any) -> Order:
        if isinstance(first, ShareOrder):
            return replace(first, choice=None if choice is None else self._order(*choice))
        return self._order(first, choice, *others)

    def _order(
        self, plan: tuple[Any, ...], chances: Any, breaking: frozenset[int], rules: list[Any]
    ) -> ChoiceOrder:
        # In the order in which they were packed: a later one may take an earlier one's place.
        read = [self._shared(*rule) if isinstance(rule, tuple) else rule for rule in rules]
        return ChoiceOrder(self._shared(*plan), chances, breaking, tuple(read))

    def _shared(self, slot: int, *value: Any) -> Any:
        if value:
            (self._values[slot],) = value
        return self._values[slot]


def _packed_next(given: NextToken) -> bytes:
    sequence, position, token, chances, rows = given
    count = -1 if chances is None else len(chances)
    padded = (*(chances or ()), 0.0, 0.0)[:MOST_CHANCES]
    numbers = _NEXT_NUMBERS.pack(_NEXT, count, token, sequence, position, *padded)
    return numbers if rows is None else numbers + rows.tobytes()


def _read_next(data: bytes | memoryview) -> NextToken:
    _, count, token, sequence, position, *padded = _NEXT_NUMBERS.unpack_from(data)
    rows = None
    if len(data) > _NEXT_NUMBERS.size:
        rows = np.frombuffer(data, np.float32, offset=_NEXT_NUMBERS.size).reshape(1, -1)
    return NextToken(sequence, position, token, None if count < 0 else tuple(padded[:count]), rows)


def _answer(answer: object) -> object:
    """Rows as octets and their width; everything else as it is."""
    if not isinstance(answer, np.ndarray):
        return answer
    return answer.astype(np.float32, copy=False).tobytes(), answer.shape[1]


def _read_answer(plain: object) -> object:
    if not isinstance(plain, tuple):
        return plain
    data, width = plain
    return np.frombuffer(data, np.float32).reshape(-1, width)
