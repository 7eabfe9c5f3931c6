"""Keys and values of a sequence in a file: pages are written and read as they lie.

``saved_pages`` handles the file, and ``page_lanes`` other layouts of pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_lanes import copy_page
from edgellama.engine.pages.page_pool import Hold
from edgellama.engine.saved.cache_maker import CacheMaker
from edgellama.engine.saved.saved_pages import Room, SavedPages, SavedText, open_saved, write_saved
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.progress import Progress


def save_cache(
    path: Path, cache: KVCache, maker: CacheMaker, progress: Progress | None = None
) -> None:
    """Write the tokens of a cache with their keys and values, at the disk's speed.

    ``progress`` hears of (written, total) bytes of pages. SessionFileError for an empty cache,
    OSError if the system refuses; then the old file stays.
    """
    pages_here, num_tokens = cache.pool.maker, cache.length
    layout, num_pages = pages_here.host_layout, -(-num_tokens // PAGE_POSITIONS)
    pages = [page for page in cache.pages[:num_pages] if page is not None]
    text = SavedText(
        list(cache.tokens), cache.prompt_length, cache.origin, layout, num_pages - len(pages)
    )
    memories = (pages_here.host_memory(page) for page in pages)
    write_saved(path, text, maker, memories, progress)


def load_cache(path: Path, cache: KVCache, maker: CacheMaker, *, verify: bool = False) -> None:
    """Take tokens with their keys and values from a file, in place of what the cache holds.

    Pages of the same lanes are mapped and read when they are used. Arguments and errors as for
    ``open_saved``; after an error the cache stays as it was.
    """
    layout = cache.home.maker.host_layout
    room = Room(layout, cache.origin, cache.window, cache.context_length)
    pages = open_saved(path, room, maker, verify=verify)
    holds: list[Hold | None] = [None] * pages.first_page
    holds += [_page(pages, number, cache) for number in range(pages.num_pages)]
    cache.restore(pages.tokens, holds, pages.prompt_length)


def _page(saved: SavedPages, number: int, cache: KVCache) -> Hold:
    """A page for a cache: that of the file where it can be, else a copy."""
    # Windows cannot replace a file that is mapped, so pages are copied there.
    layout = cache.home.maker.host_layout
    if saved.layout == layout and sys.platform != "win32":
        return cache.home.adopt(saved.lent(number))
    copy = cache.home.new()
    copy_page(saved.page(number), saved.layout, copy.page.memory, layout)
    return copy
