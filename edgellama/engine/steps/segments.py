"""The segments of a step: whose tokens it computes, and the table of them for kernels.

A segment is some tokens of one sequence. Where its keys are split depends only on the position of
its tokens, so its results depend on no other segment and on no reserved length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_table import PageList
from edgellama.engine.program.key_splits import split_keys_at
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.program.step_values import Attending, Method
from edgellama.kernels_cpu.layouts import (
    ALL_KEYS,
    FIRST_ATTEND_TASK,
    FIRST_ROW,
    FIRST_STORE_TASK,
    NUM_TOKENS,
    PAGE_POSITIONS,
    PAGES,
    PARTIALS,
    POSITION,
    SEGMENT_BYTES,
    SPLIT_KEYS,
    count_splits,
)
from edgellama.quant.records import dataclass

Wanted: TypeAlias = Literal["last", "all", "next", "each", "none", "rows", "alike_rows"] | int
"""Logits of the last token, of all, or of so many at the end; nothing, or the residual stream's
rows instead of logits. "next" and "each" are those of the last and of all, with the bits that steps
of one token would give, where a few are the only ones in a step; so are "alike_rows" among rows."""
Memory: TypeAlias = Literal["host", "card"]
ALIKE = ("next", "each", "alike_rows")
ROWS = ("rows", "alike_rows")
MAX_SEGMENTS = 512


@dataclass(frozen=True)
class Segment:
    """``tokens`` (n,) for ``cache`` from ``position``, its end, on, and what is wanted of them.

    ``rows`` (n, width): the residual stream that they begin with, where the first layer runs
    elsewhere. ``pages``: where their keys and values lie, once there is room for them.
    """

    cache: KVCache
    position: int
    tokens: npt.NDArray[np.int64]
    wanted: Wanted = "last"
    rows: npt.NDArray[np.float32] | None = None
    pages: PageList | None = None

    def prepared(self) -> Segment:
        """The same with room for the tokens; raises why there is none."""
        return replace(self, pages=self.cache.prepare(self.num_tokens))

    def addresses(self, memory: Memory) -> npt.NDArray[np.int64]:
        """The addresses of the pages of all tokens up to the segment's last one."""
        assert self.pages is not None, "only what has room is computed"
        num_pages = -(-(self.position + self.num_tokens) // PAGE_POSITIONS)
        return self.pages.addresses[int(memory == "card"), :num_pages]

    @property
    def num_tokens(self) -> int:
        """How many tokens the segment has."""
        return len(self.tokens)

    @property
    def num_logits(self) -> int:
        """How many tokens at the end have their logits computed."""
        return num_logits(self.wanted, len(self.tokens))


def num_logits(wanted: Wanted, num_tokens: int) -> int:
    """How many of ``num_tokens`` at their end have their logits computed."""
    if wanted in ("last", "next"):
        return min(1, num_tokens)
    if isinstance(wanted, int):
        return min(max(0, wanted), num_tokens)
    return num_tokens if wanted in ("all", "each") else 0


def attending_of(segments: Iterable[Segment]) -> Attending:
    """What suits segments: each is attended as it would be without the others."""
    methods = {method_of(len(segment.tokens)) for segment in segments}
    return "both" if len(methods) > 1 else methods.pop()


def method_of(num_tokens: int) -> Method:
    """What suits a segment of so many tokens."""
    return "packed" if num_tokens > MAX_SHORT_TOKENS else "direct"


def num_token_splits(segment: Segment) -> int:
    """Parts of the keys of all the segment's tokens; 0 if they are not split."""
    position, count = segment.position, segment.num_tokens
    splits = count_splits(position, count, split_keys_at(position), segment.cache.window)
    return count * splits if splits > 1 else 0


class SegmentTable:
    """The table of one step, in memory that kernels read; refilled for every step."""

    def __init__(
        self, num_kv_heads: int, block_positions: int, partials: int, token_split_bytes: int
    ) -> None:
        """``partials``: address of room for MAX_TOKEN_SPLITS times ``token_split_bytes``."""
        self._words = np.zeros((2, MAX_SEGMENTS, SEGMENT_BYTES // 8), np.int64)
        self.address, self.packed_address = (int(words.ctypes.data) for words in self._words)
        self._make_room(MAX_SEGMENTS)
        self._num_kv_heads = num_kv_heads
        self._block = block_positions
        self._partials = partials
        self._token_split_bytes = token_split_bytes

    def fill(
        self,
        segments: Sequence[Segment],
        attending: Attending,
        tokens_per_task: Mapping[Method, int],
    ) -> dict[str, int]:
        """Write the records; of segments that are attended directly keys are cut into parts.

        Where both methods are used, the records at ``packed_address`` count the tasks of one and
        those at ``address`` those of the other: a segment has none of the one that is not its own.
        Gives the numbers that a program binds, of segments and of tasks.
        """
        tasks: dict[Method, int] = {"direct": 0, "packed": 0}
        usual: Method = "packed" if attending == "packed" else "direct"
        row = store = token_splits = num_pages = 0
        block = self._block
        tables = [segment.addresses("host") for segment in segments]
        if (total := sum(map(len, tables))) > len(self._pages):
            self._make_room(2 * total)
        for number, (segment, table) in enumerate(zip(segments, tables, strict=True)):
            cache, count, position = segment.cache, len(segment.tokens), segment.position
            method = usual if attending != "both" else method_of(count)
            split = split_keys_at(position) if method == "direct" else ALL_KEYS
            splits = count_splits(position, count, split, cache.window)
            partials = self._partials + token_splits * self._token_split_bytes
            pages = self._pages_address + num_pages * table.itemsize
            self._pages[num_pages : num_pages + len(table)] = table
            num_pages += len(table)
            record = (row, count, position, pages, store, tasks[usual], split, partials)
            self._words[0, number] = record
            if attending == "both":
                self._words[1, number] = record
                self._words[1, number, FIRST_ATTEND_TASK // 8] = tasks["packed"]
            row += count
            store += (position + count - 1) // block - position // block + 1
            tasks[method] += -(-count // tokens_per_task[method]) * self._num_kv_heads * splits
            token_splits += count * splits if splits > 1 else 0
        return {
            "num_segments": len(segments),
            "num_store_tasks": store,
            "num_attend_tasks": tasks[usual],
            "num_packed_tasks": tasks["packed"],
        }

    def move_first(self, position: int) -> None:
        """Let the first segment begin elsewhere, within the page where it is."""
        self._words[0, 0, POSITION // 8] = position

    def _make_room(self, num_pages: int) -> None:
        """Memory for so many addresses of pages, of all segments one after the other."""
        pages = np.zeros(num_pages, np.int64)
        address = int(pages.ctypes.data)
        # Both at once, whenever Ctrl-C comes.
        self._pages, self._pages_address = pages, address


_ORDER = (FIRST_ROW, NUM_TOKENS, POSITION, PAGES, FIRST_STORE_TASK, FIRST_ATTEND_TASK)
assert (*_ORDER, SPLIT_KEYS, PARTIALS) == tuple(range(0, SEGMENT_BYTES, 8))
