"""The next token of a sequence that had the last step alone: only three numbers change.

After the weights of a step, all of Python's memory is cold, and each function call between two
steps costs microseconds. So a step like the last one is run again with what that has left: token,
position and angles are written, the program stays. Anything else that could differ (another
sequence, page, hook or adapter) makes it an ordinary step.
"""

from __future__ import annotations

import weakref

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.program.program import Program
from edgellama.engine.steps.segments import ROWS, Segment
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class RepeatableStep:
    """A step of one token of one sequence, and what must be as it was to run it again.

    ``takes_rows``: it began with a row of the layers before; ``gives_rows``: it ended with one, in
    place of logits.
    """

    cache: weakref.ref[KVCache]
    program: Program
    num_page_changes: int
    is_on_card: bool = False
    takes_rows: bool = False
    gives_rows: bool = False

    @classmethod
    def of(cls, segment: Segment, program: Program) -> RepeatableStep | None:
        """What is left of a step of one segment; None if the next one may need other values."""
        cache = segment.cache
        gives_rows = segment.wanted in ROWS
        is_plain = segment.num_tokens == 1 and (gives_rows or segment.num_logits == 1)
        if not is_plain or cache.adapters or cache.window != ALL_KEYS:
            return None
        is_on_card, takes_rows = not isinstance(cache.layout, PageLayout), segment.rows is not None
        return cls(
            weakref.ref(cache), program, cache.num_page_changes, is_on_card, takes_rows, gives_rows
        )

    def is_followed_by(self, cache: KVCache, takes_rows: bool, gives_rows: bool) -> bool:
        """Whether the next token of ``cache`` needs the same pages, and so the same tasks.

        Where keys are split, a page begins.
        """
        return (
            self.cache() is cache
            and self.takes_rows == takes_rows
            and self.gives_rows == gives_rows
            and self.num_page_changes == cache.num_page_changes
            and cache.length < cache.context_length
            and cache.is_end_writable
        )
