"""The next token of a sequence whose last step was its own: three numbers differ, no more.

After the weights of a step all of Python's memory is cold, so that each function that is called
between two steps costs microseconds. A step like the one before it is therefore run again by what
that has left: token, position and angles are written, the program stays. Whatever else could
differ (another sequence, page, hook or adapter) makes it an ordinary step.
"""

from __future__ import annotations

import weakref

from edgellama.engine.kv_cache import KVCache
from edgellama.engine.page_layout import PageLayout
from edgellama.engine.program import Program
from edgellama.engine.segments import Segment
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class RepeatableStep:
    """A step of one token of one sequence, and what must be as it was to run it again."""

    cache: weakref.ref[KVCache]
    program: Program
    num_page_changes: int
    is_on_card: bool = False

    @classmethod
    def of(cls, segment: Segment, program: Program) -> RepeatableStep | None:
        """What is left of a step of one segment; None where the next one may need other values."""
        cache = segment.cache
        is_plain = segment.num_tokens == segment.num_logits == 1 and segment.rows is None
        if not is_plain or cache.adapters or cache.window != ALL_KEYS:
            return None
        is_on_card = not isinstance(cache.layout, PageLayout)
        return cls(weakref.ref(cache), program, cache.num_page_changes, is_on_card)

    def is_followed_by(self, cache: KVCache) -> bool:
        """Whether the next token of ``cache`` needs the same pages, and so the same tasks.

        Where keys are split, a page begins.
        """
        return (
            self.cache() is cache
            and self.num_page_changes == cache.num_page_changes
            and cache.length < cache.context_length
            and cache.is_end_writable
        )
