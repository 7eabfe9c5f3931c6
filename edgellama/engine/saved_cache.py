"""Keys and values in a file: written whole or not at all, mapped when they are read.

A file fits the model, the types and the adapters that it was saved with; the tier may be another,
whose pages are then laid out anew. The file's beginning is the business of ``saved_header``.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat
import sys
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.engine.kv_cache import KVCache
from edgellama.engine.kv_types import KVTypes
from edgellama.engine.page_lanes import convert_page
from edgellama.engine.page_layout import PageLayout
from edgellama.engine.page_pool import Page
from edgellama.engine.saved_header import (
    SavedFile,
    SavedHeader,
    header_json,
    pages_start,
    read_head,
    write_head,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, first_seen
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ContextLengthError, InvalidOptionError, SessionFileError
from edgellama.quant.records import dataclass
from edgellama.quant.replaced_file import replaced_file
from edgellama.quant.ways import Way

logger = logging.getLogger(__name__)

Progress: TypeAlias = "Callable[[int, int], None]"
LANES = (4, 8, 16)
"""Those of all tiers."""


@dataclass(frozen=True)
class CacheMaker:
    """Who computes keys and values: a model, some of its layers, and how it rounds.

    ``model`` is its identity. Where ``is_exact``, keys and values of another ``arithmetic`` are
    refused, since texts would not be the same to the bit.
    """

    model: str
    model_name: str
    layers: range
    vocab_size: int
    arithmetic: str
    is_exact: bool


def save_cache(
    path: Path, cache: KVCache, maker: CacheMaker, progress: Progress | None = None
) -> None:
    """Write the tokens of a cache with their keys and values, at the disk's speed.

    ``progress`` hears of (written, total) bytes of pages. SessionFileError for an empty cache,
    OSError where the system refuses; then the old file stays.
    """
    if not cache.length:
        raise SessionFileError(f"{path}: the session holds no tokens to save; allowed: at least 1")
    pages_here, tokens = cache.pool.maker, list(cache.tokens)
    layout = pages_here.host_layout
    pages = [page for page in cache.pages[: -(-len(tokens) // PAGE_POSITIONS)] if page is not None]
    header = SavedHeader(
        model=maker.model,
        model_name=maker.model_name,
        first_layer=maker.layers.start,
        num_layers=layout.num_layers,
        num_heads=layout.num_heads,
        head_size=layout.head_size,
        kv_type=str(layout.types),
        lanes=layout.lanes,
        origin=cache.origin.hex(),
        arithmetic=maker.arithmetic,
        num_tokens=len(tokens),
        first_page=-(-len(tokens) // PAGE_POSITIONS) - len(pages),
        page_bytes=layout.page_bytes,
        prompt_length=cache.prompt_length,
    )
    start = pages_start(len(header_json(header)), header.num_tokens, header.num_pages)
    places = SavedFile(header, tokens, np.empty(0, np.uint32), start)
    used = len(tokens) % PAGE_POSITIONS
    sums = []
    with replaced_file(path) as file:
        for number, page in enumerate(pages):
            memory = pages_here.host_memory(page)
            if used and number == len(pages) - 1:
                # What is behind the end may be of tokens that were taken back.
                whole, memory = memory, np.zeros_like(memory)
                convert_page(whole, layout, memory, layout, used)
            file.seek(places.page_offset(number))
            file.write(memory.data)
            sums.append(zlib.crc32(memory.data))
            if progress is not None:
                progress((number + 1) * layout.page_bytes, len(pages) * layout.page_bytes)
        write_head(file, header, tokens, sums)


def load_cache(path: Path, cache: KVCache, maker: CacheMaker, *, verify: bool = False) -> None:
    """Take tokens with their keys and values from a file, in place of what the cache holds.

    Pages of the same lanes are mapped and read when they are used; ``verify`` reads them all and
    compares their checksums. A file that is cut off is used up to its last whole page, which a
    warning says. SessionFileError for a file that does not fit, ContextLengthError for more
    tokens than the context, OSError where the system refuses; then the cache stays as it was.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise SessionFileError(f"{path}: no such file; allowed: a saved session") from None
    if not stat.S_ISREG(mode):
        raise SessionFileError(f"{path}: not a regular file; allowed: a saved session")
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        saved = read_head(file, path, file_bytes)
        layout = _fitting_layout(path, saved.header, cache, maker)
        tokens, num_pages = _whole_tokens(path, saved, cache, file_bytes)
        _check_tokens(path, tokens, cache, maker)
        try:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError as error:
            raise SessionFileError(f"{path}: cannot be mapped, {error}") from error
    pages = _MappedPages(path, mapping, saved, layout)
    if verify:
        pages.verify(num_pages)
    behind: list[Page | None] = [None] * saved.header.first_page
    cache.restore(tokens, behind + pages.taken(num_pages, cache), saved.header.prompt_length)


class _MappedPages:
    """The pages of a file, as they lie there."""

    def __init__(
        self, path: Path, mapping: mmap.mmap, saved: SavedFile, layout: PageLayout
    ) -> None:
        self._path = path
        self._mapping = mapping
        self._saved = saved
        self._layout = layout
        self._bytes = np.frombuffer(mapping, np.uint8)

    def verify(self, num_pages: int) -> None:
        """SessionFileError for a page that does not match its checksum."""
        for number in range(num_pages):
            if zlib.crc32(self._page(number).data) != self._saved.sums[number]:
                first = (self._saved.header.first_page + number) * PAGE_POSITIONS
                raise SessionFileError(
                    f"{self._path}: keys and values of the tokens from {first} on do not match "
                    "their checksum; the file is damaged"
                )

    def taken(self, num_pages: int, cache: KVCache) -> list[Page | None]:
        """Pages for a cache: those of the file where they can be, else copies."""
        pages: list[Page | None] = []
        try:
            for number in range(num_pages):
                pages.append(self._taken(number, cache))
        except BaseException:
            for page in pages:
                if page is not None:
                    cache.home.release(page)
            raise
        return pages

    def _taken(self, number: int, cache: KVCache) -> Page:
        memory = self._page(number)
        # Windows replaces no file that is mapped, so there it is read.
        layout = cache.home.maker.host_layout
        if self._layout == layout and sys.platform != "win32":
            self._give_back_with(memory, number)
            return cache.home.adopt(memory)
        page = cache.home.new()
        if self._layout == layout:
            page.memory[:] = memory
        else:
            convert_page(memory, self._layout, page.memory, layout, PAGE_POSITIONS)
        return page

    def _page(self, number: int) -> npt.NDArray[np.uint8]:
        offset = self._saved.page_offset(number)
        return self._bytes[offset : offset + self._layout.page_bytes]

    def _give_back_with(self, memory: npt.NDArray[np.uint8], number: int) -> None:
        """Read ahead, and give the memory back once nobody uses this page any more.

        The mapping itself stays until nobody uses any page.
        """
        place = (self._saved.page_offset(number), self._layout.page_bytes)
        self._mapping.madvise(mmap.MADV_WILLNEED, *place)
        gone = weakref.finalize(memory, self._mapping.madvise, mmap.MADV_DONTNEED, *place)
        gone.atexit = False


def _fitting_layout(
    path: Path, header: SavedHeader, cache: KVCache, maker: CacheMaker
) -> PageLayout:
    """How the file's pages lie; SessionFileError where they are not the cache's but for lanes."""
    wanted = cache.home.maker.host_layout
    found = {
        "another model": (header.model, maker.model),
        "other layers of the model": (header.first_layer, maker.layers.start),
        "another number of layers": (header.num_layers, wanted.num_layers),
        "another number of heads": (header.num_heads, wanted.num_heads),
        "heads of another size": (header.head_size, wanted.head_size),
        "other adapters, hooks or rope_scaling": (header.origin, cache.origin.hex()),
    }
    for what, (own, needed) in found.items():
        if own != needed:
            raise SessionFileError(
                f"{path}: saved with {what} ({shown(header.model_name)}); load it with what it "
                "was saved with"
            )
    try:
        types = KVTypes.of(header.kv_type)
    except InvalidOptionError as error:
        raise SessionFileError(f"{path}: {error}") from None
    if types != wanted.types:
        raise SessionFileError(
            f"{path}: its keys and values are {types}, here they are {wanted.types}",
            way=Way(f'load the model with kv_type="{types}"', f"use --kv {types}"),
        )
    if maker.is_exact and header.arithmetic != maker.arithmetic:
        raise SessionFileError(
            f"{path}: computed as {shown(header.arithmetic)}, an exact model takes only what was "
            f"computed as {maker.arithmetic}",
            way=Way("load the model without exact=True", "leave out --exact"),
        )
    if header.lanes not in LANES:
        raise SessionFileError(f"{path}: lanes are {header.lanes}; allowed: {LANES}")
    layout = PageLayout(
        wanted.types, wanted.num_layers, wanted.num_heads, wanted.head_size, header.lanes
    )
    if header.page_bytes != layout.page_bytes:
        raise SessionFileError(
            f"{path}: pages of {header.page_bytes} bytes; allowed: {layout.page_bytes}"
        )
    return layout


def _whole_tokens(
    path: Path, saved: SavedFile, cache: KVCache, file_bytes: int
) -> tuple[Sequence[int], int]:
    """The tokens whose pages are there, and how many pages."""
    header, num_pages = saved.header, saved.num_whole_pages(file_bytes)
    tokens = saved.tokens
    if num_pages < header.num_pages:
        tokens = tokens[: (header.first_page + num_pages) * PAGE_POSITIONS]
    if not num_pages or header.first_page > first_seen(len(tokens), cache.window) // PAGE_POSITIONS:
        raise SessionFileError(
            f"{path}: the file ends before the first keys and values that are needed"
        )
    if num_pages < header.num_pages:
        logger.warning(
            "%s is cut off: %d of its %d tokens can be used, the others are computed again",
            path,
            len(tokens),
            header.num_tokens,
        )
    return tokens, num_pages


def _check_tokens(path: Path, tokens: Sequence[int], cache: KVCache, maker: CacheMaker) -> None:
    if len(tokens) > cache.context_length:
        raise ContextLengthError(
            f"{path}: the session has {len(tokens)} tokens, the context {cache.context_length}",
            len(tokens),
            cache.context_length,
            way=Way("raise context_length", "raise --context"),
        )
    if min(tokens) < 0 or max(tokens) >= maker.vocab_size:
        raise SessionFileError(
            f"{path}: tokens from {min(tokens)} to {max(tokens)}; allowed: 0 to "
            f"{maker.vocab_size - 1}"
        )
