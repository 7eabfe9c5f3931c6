"""The table of a step's segments for kernels on a card: written here, copied to the card.

A segment of a few tokens is computed token by token, with keys cut into parts by each token's
position. One of many tokens is computed by tiles of query rows, see ``splits``. This module counts
both kinds of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgellama.cuda.decode_layout import decode_tasks, head_parts, partial_bytes
from edgellama.cuda.layouts import (
    HEADER_BYTES,
    MAX_DECODE_TOKENS,
    NUM_DECODE_SEGMENTS,
    NUM_SEGMENTS,
    POSITION,
    SEGMENT_BYTES,
    count_tiles,
    row_parts,
)
from edgellama.cuda.memory import DeviceMemory, MappedMemory
from edgellama.cuda.prefill_parts import TICKETS_OF_BLOCK, block_partial_bytes, prefill_tasks
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.engine.card.attention import NO_BOUND, CardKernels
from edgellama.engine.card.device import CardDevice
from edgellama.engine.card.splits import PrefillSplits, blocks_at_once, split_keys_at
from edgellama.engine.steps.segments import MAX_SEGMENTS, Segment
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

TABLE_BYTES = HEADER_BYTES + MAX_SEGMENTS * SEGMENT_BYTES
TICKET_BYTES = 4
SPARE_BYTES = 4 << 20
"""Room for results of parts that may be there before it is needed: parts grow one by one."""
WORD = 8


@dataclass(frozen=True)
class Tasks:
    """What a step's segments are for a card: tasks of both kinds, and bytes of the table.

    A launch has ``many_at_once`` tasks of segments of many tokens at most.
    """

    num_few: int
    num_many: int
    table_bytes: int
    many_at_once: int


@dataclass(frozen=True)
class Plan:
    """Parts of a segment's keys, its tasks, and what results of parts and counters take."""

    split_keys: int
    num_tasks: int
    partial_bytes: int
    ticket_bytes: int
    at_once: int = NO_BOUND


class CardTable:
    """The table of one step, refilled for every step; it grows with the pages of its segments."""

    def __init__(self, config: ModelConfig, device: CardDevice) -> None:
        """CudaMemoryError if the card has no room."""
        self._config, self._device, self._memory = config, device, device.memory
        self._source: MappedMemory
        self._table: DeviceMemory
        self._partials: DeviceMemory | None = None
        self._tickets: DeviceMemory | None = None
        self._make_room(1024)

    @property
    def address(self) -> int:
        """Where the table lies on the card."""
        return self._table.address

    @property
    def source(self) -> int:
        """Where the table lies in the computer's memory."""
        return self._source.address

    def fill(self, segments: Sequence[Segment]) -> Tasks:
        """Write the records: those of few tokens first. CudaMemoryError without room."""
        tables = [segment.addresses("card") for segment in segments]
        if (num_pages := sum(map(len, tables))) > self._num_pages:
            self._make_room(2 * num_pages)
        rows = np.cumsum([0, *(segment.num_tokens for segment in segments)])
        few = [segment.num_tokens <= MAX_DECODE_TOKENS for segment in segments]
        order = sorted(range(len(segments)), key=lambda i: not few[i])
        plans = [self._plan(segments[i], is_few=few[i]) for i in order]
        partials, tickets = self._room_for(
            sum(plan.partial_bytes for plan in plans), sum(plan.ticket_bytes for plan in plans)
        )
        tasks, page = {True: 0, False: 0}, 0
        for record, i, plan in zip(self._records, order, plans, strict=False):
            segment, table, is_few = segments[i], tables[i], few[i]
            self._pages[page : page + len(table)] = table
            record[:] = (
                rows[i], segment.num_tokens, segment.position,
                self._table.address + TABLE_BYTES + WORD * page, tasks[is_few], plan.split_keys,
                partials, tickets,
            )  # fmt: skip
            page += len(table)
            tasks[is_few] += plan.num_tasks
            partials += plan.partial_bytes
            tickets += plan.ticket_bytes
        self._header[NUM_SEGMENTS // WORD] = len(segments)
        self._header[NUM_DECODE_SEGMENTS // WORD] = sum(few)
        at_once = min((plan.at_once for plan in plans), default=NO_BOUND)
        return Tasks(tasks[True], tasks[False], TABLE_BYTES + WORD * page, at_once)

    def move_first(self, position: int) -> None:
        """Let the first segment begin elsewhere, within the page where it is."""
        self._records[0, POSITION // WORD] = position

    @property
    def _part_bytes(self) -> int:
        """What all heads of a token leave for one part of its keys."""
        num_bytes: int = partial_bytes(self._config.head_size)
        return self._config.head_count * num_bytes

    @property
    def _token_ticket_bytes(self) -> int:
        """Counters of one token of a few."""
        config = self._config
        return config.head_count_kv * head_parts(config.heads_per_group) * TICKET_BYTES

    def _plan(self, segment: Segment, *, is_few: bool) -> Plan:
        """Parts of the keys of a segment, and what they need."""
        config, group = self._config, self._config.heads_per_group
        position, num_tokens, window = segment.position, segment.num_tokens, segment.cache.window
        if is_few:
            split_keys = split_keys_at(position)
            tasks = decode_tasks(position, num_tokens, split_keys, window)
            tickets = num_tokens * self._token_ticket_bytes
            return Plan(split_keys, tasks, tasks * self._part_bytes, tickets)
        card, pair = self._device.card, segment.cache.layout.types.pair
        kernel = CardKernels.many_of(config, pair, card.capability)
        places = card.num_multiprocessors * CARD_SIGNATURES[kernel].min_blocks
        split_keys = PrefillSplits(config, places).split_keys(segment)
        tasks = prefill_tasks(position, num_tokens, group, split_keys, window)
        at_once = blocks_at_once(config, min(position + num_tokens, split_keys), card, kernel)
        if split_keys == ALL_KEYS:
            return Plan(split_keys, tasks, 0, 0, at_once)
        blocks = config.head_count_kv * row_parts(group)
        tickets = count_tiles(num_tokens, group) * blocks * TICKETS_OF_BLOCK
        part_bytes = blocks * block_partial_bytes(config.head_size)
        return Plan(split_keys, tasks, tasks * part_bytes, tickets * TICKET_BYTES, at_once)

    def _make_room(self, num_pages: int) -> None:
        """Memory for the table, and for so many addresses of pages behind it."""
        num_bytes = TABLE_BYTES + WORD * num_pages
        # Both are replaced or neither: steps copy from the one that they have written.
        source = MappedMemory(self._memory.context, num_bytes)
        table = self._memory.allocate(num_bytes)
        self._source, self._table = source, table
        words = self._source.view().view(np.int64)
        self._header = words[: HEADER_BYTES // WORD]
        records = words[HEADER_BYTES // WORD : TABLE_BYTES // WORD]
        self._records = records.reshape(MAX_SEGMENTS, SEGMENT_BYTES // WORD)
        self._pages = words[TABLE_BYTES // WORD :]
        self._num_pages = num_pages

    def _room_for(self, partial_bytes: int, ticket_bytes: int) -> tuple[int, int]:
        """Where results of parts go, and counters, which are zero."""
        if self._partials is None or self._partials.num_bytes < partial_bytes:
            self._partials = None
            spare = min(partial_bytes, SPARE_BYTES) + self._part_bytes
            self._partials = self._memory.allocate(partial_bytes + spare)
        if self._tickets is None or self._tickets.num_bytes < ticket_bytes:
            spare = ticket_bytes + MAX_DECODE_TOKENS * self._token_ticket_bytes
            self._tickets = self._memory.allocate(ticket_bytes + spare)
            self._device.stream.fill(self._tickets.address, 0, self._tickets.num_bytes)
        return self._partials.address, self._tickets.address
