"""The table of a step's segments as kernels on a card read it: written here, copied to the card.

A segment of a few tokens is attended token by token, its keys cut into parts by the position of
each token alone; one of many tokens by tiles of query rows. Both kinds of tasks are counted here.
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
)
from edgellama.cuda.memory import CardMemory, DeviceMemory, MappedMemory
from edgellama.cuda.streams import Stream
from edgellama.engine.segments import MAX_SEGMENTS, Segment
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.records import dataclass

SMALLEST_SPLIT = 128
"""Keys of one part at least: a warp's work, of which a card wants hundreds at once."""
SPLITS_AT_MOST = 64
"""Parts from which on they are longer instead."""
TABLE_BYTES = HEADER_BYTES + MAX_SEGMENTS * SEGMENT_BYTES
TICKET_BYTES = 4
WORD = 8


def split_keys_at(position: int) -> int:
    """Keys of one part for the token at ``position``, the next power of two for long contexts."""
    split = SMALLEST_SPLIT
    while position >= split * SPLITS_AT_MOST:
        split *= 2
    return split


@dataclass(frozen=True)
class Tasks:
    """What a step's segments are for a card: tasks of both kinds, and bytes of the table."""

    num_few: int
    num_many: int
    table_bytes: int


class CardTable:
    """The table of one step, refilled for every step; it grows with the pages of its segments."""

    def __init__(self, config: ModelConfig, memory: CardMemory, stream: Stream) -> None:
        """CudaMemoryError where the card has no room."""
        self._config, self._memory, self._stream = config, memory, stream
        self._source: MappedMemory
        self._table: DeviceMemory
        self._partials: DeviceMemory | None = None
        self._tickets: DeviceMemory | None = None
        self._make_room(1024)

    @property
    def address(self) -> int:
        """Where the card has it."""
        return self._table.address

    @property
    def source(self) -> int:
        """Where the computer has it."""
        return self._source.address

    def fill(self, segments: Sequence[Segment]) -> Tasks:
        """Write the records: those of few tokens first. CudaMemoryError without room."""
        tables = [s.cache.card_addresses(s.position + s.num_tokens) for s in segments]
        if (num_pages := sum(map(len, tables))) > self._num_pages:
            self._make_room(2 * num_pages)
        rows = np.cumsum([0, *(segment.num_tokens for segment in segments)])
        few = [segment.num_tokens <= MAX_DECODE_TOKENS for segment in segments]
        order = sorted(range(len(segments)), key=lambda i: not few[i])
        num_splits = [_num_token_splits(segments[i]) if few[i] else 0 for i in order]
        partials = self._room_for(sum(num_splits), sum(segments[i].num_tokens for i in order))
        group, page = self._config.heads_per_group, 0
        tasks = {True: 0, False: 0}
        first_part = first_token = 0
        for record, i, splits in zip(self._records, order, num_splits, strict=False):
            segment, table, is_few = segments[i], tables[i], few[i]
            self._pages[page : page + len(table)] = table
            record[:] = (
                rows[i], segment.num_tokens, segment.position,
                self._table.address + TABLE_BYTES + WORD * page, tasks[is_few],
                split_keys_at(segment.position),
                partials[0] + first_part * self._part_bytes,
                partials[1] + first_token * self._token_ticket_bytes,
            )  # fmt: skip
            page += len(table)
            tasks[is_few] += splits if is_few else count_tiles(segment.num_tokens, group)
            first_part += splits
            first_token += segment.num_tokens if is_few else 0
        self._header[NUM_SEGMENTS // WORD] = len(segments)
        self._header[NUM_DECODE_SEGMENTS // WORD] = sum(few)
        return Tasks(tasks[True], tasks[False], TABLE_BYTES + WORD * page)

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
        """Counters of one token."""
        config = self._config
        return config.head_count_kv * head_parts(config.heads_per_group) * TICKET_BYTES

    def _make_room(self, num_pages: int) -> None:
        """Memory for the table, and for so many addresses of pages behind it."""
        num_bytes = TABLE_BYTES + WORD * num_pages
        # Both, or none: what is written must be what is copied.
        source = MappedMemory(self._memory.context, num_bytes)
        table = self._memory.allocate(num_bytes)
        self._source, self._table = source, table
        words = self._source.view().view(np.int64)
        self._header = words[: HEADER_BYTES // WORD]
        records = words[HEADER_BYTES // WORD : TABLE_BYTES // WORD]
        self._records = records.reshape(MAX_SEGMENTS, SEGMENT_BYTES // WORD)
        self._pages = words[TABLE_BYTES // WORD :]
        self._num_pages = num_pages

    def _room_for(self, num_parts: int, num_tokens: int) -> tuple[int, int]:
        """Where results of parts go, and counters, which are zero."""
        num_bytes = num_parts * self._part_bytes
        if self._partials is None or self._partials.num_bytes < num_bytes:
            self._partials = None
            self._partials = self._memory.allocate(2 * num_bytes + self._part_bytes)
        num_bytes = num_tokens * self._token_ticket_bytes
        if self._tickets is None or self._tickets.num_bytes < num_bytes:
            self._tickets = self._memory.allocate(2 * num_bytes + TICKET_BYTES)
            self._stream.fill(self._tickets.address, 0, self._tickets.num_bytes)
        return self._partials.address, self._tickets.address


def _num_token_splits(segment: Segment) -> int:
    """Parts of the keys of all tokens of a segment, each token's own."""
    position, window = segment.position, segment.cache.window
    return decode_tasks(position, segment.num_tokens, split_keys_at(position), window)
