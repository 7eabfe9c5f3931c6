"""Pages of keys and values in a file: written completely or not at all, mapped when read.

A file fits only the model, types and adapters that it was saved with. The tier may differ; pages
are then rearranged. ``saved_header`` handles the beginning of the file.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat
import weakref
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_lanes import convert_page
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.saved.cache_maker import CacheMaker
from edgellama.engine.saved.saved_header import (
    SavedFile,
    SavedHeader,
    header_json,
    pages_start,
    read_head,
    write_head,
)
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, first_seen
from edgellama.quant.array_types import Octets
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ContextLengthError, InvalidOptionError, SessionFileError
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass
from edgellama.quant.replaced_file import replaced_file
from edgellama.quant.ways import Way

logger = logging.getLogger(__name__)

LANES = (4, 8, 16)
"""Those of all tiers."""


@dataclass(frozen=True)
class SavedText:
    """What is saved of a sequence: its tokens, and how its pages from ``first_page`` on lie.

    ``origin`` as for ``KVCache``; ``prompt_length``: how many tokens it began with.
    """

    tokens: Sequence[int]
    prompt_length: int
    origin: bytes
    layout: PageLayout
    first_page: int


@dataclass(frozen=True)
class Room:
    """What a saved text must fit: the pages of a sequence, what it sees, and how long it may be."""

    layout: PageLayout
    origin: bytes
    window: int
    context_length: int


def write_saved(
    path: Path,
    text: SavedText,
    maker: CacheMaker,
    pages: Iterable[Octets],
    progress: Progress | None = None,
) -> None:
    """Write a text with the memory of its pages, which come in order; as ``save_cache``."""
    if not text.tokens:
        raise SessionFileError(f"{path}: the session holds no tokens to save; allowed: at least 1")
    layout, num_tokens = text.layout, len(text.tokens)
    header = SavedHeader(
        model=maker.model,
        model_name=maker.model_name,
        first_layer=maker.layers.start,
        num_layers=layout.num_layers,
        num_heads=layout.num_heads,
        head_size=layout.head_size,
        kv_type=str(layout.types),
        lanes=layout.lanes,
        origin=text.origin.hex(),
        arithmetic=maker.arithmetic,
        num_tokens=num_tokens,
        first_page=text.first_page,
        page_bytes=layout.page_bytes,
        prompt_length=text.prompt_length,
    )
    start = pages_start(len(header_json(header)), header.num_tokens, header.num_pages)
    places = SavedFile(header, text.tokens, np.empty(0, np.uint32), start)
    sums = []
    with replaced_file(path) as file:
        for number, whole in enumerate(pages):
            memory = used_part(whole, layout, text.first_page + number, num_tokens)
            file.seek(places.page_offset(number))
            file.write(memory.data)
            sums.append(zlib.crc32(memory.data))
            if progress is not None:
                progress((number + 1) * layout.page_bytes, header.num_pages * layout.page_bytes)
        write_head(file, header, text.tokens, sums)


def used_part(memory: Octets, layout: PageLayout, number: int, num_tokens: int) -> Octets:
    """The memory of page ``number`` of a text, with zeros behind its last token.

    What is there may be of tokens that were taken back.
    """
    used = num_tokens - number * PAGE_POSITIONS
    if used >= PAGE_POSITIONS:
        return memory
    kept = np.zeros_like(memory)
    convert_page(memory, layout, kept, layout, used)
    return kept


def open_saved(path: Path, room: Room, maker: CacheMaker, *, verify: bool = False) -> SavedPages:
    """The pages of a file that fit.

    ``verify`` reads them all and compares their checksums. A file that is cut off is used up to
    its last whole page, which a warning says. SessionFileError for a file that does not fit,
    ContextLengthError for more tokens than the context, OSError if the system refuses.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise SessionFileError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        raise SessionFileError(f"{path}: not a regular file; allowed: a saved session")
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        saved = read_head(file, path, file_bytes)
        layout = _fitting_layout(path, saved.header, room, maker)
        tokens, num_pages = _whole_tokens(path, saved, room, file_bytes)
        _check_tokens(path, tokens, room, maker)
        try:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError as error:
            raise SessionFileError(f"{path}: cannot be mapped, {error}") from error
    pages = SavedPages(path, mapping, saved, layout, tokens, num_pages)
    if verify:
        pages.verify()
    return pages


class SavedPages:
    """The pages of a file, as they lie there, and the ``tokens`` that they are of."""

    def __init__(
        self,
        path: Path,
        mapping: mmap.mmap,
        saved: SavedFile,
        layout: PageLayout,
        tokens: Sequence[int],
        num_pages: int,
    ) -> None:
        """``num_pages`` of them are whole; they are counted from the first in the file."""
        self._path = path
        self._mapping = mapping
        self._saved = saved
        self.layout = layout
        self.tokens, self.num_pages = tokens, num_pages
        self.first_page = saved.header.first_page
        self.prompt_length = saved.header.prompt_length
        self._bytes = np.frombuffer(mapping, np.uint8)

    def verify(self) -> None:
        """SessionFileError for a page that does not match its checksum."""
        for number in range(self.num_pages):
            if zlib.crc32(self.page(number).data) != self._saved.sums[number]:
                first = (self.first_page + number) * PAGE_POSITIONS
                raise SessionFileError(
                    f"{self._path}: keys and values of the tokens from {first} on do not match "
                    "their checksum; the file is damaged"
                )

    def page(self, number: int) -> Octets:
        """The memory of a page."""
        offset = self._saved.page_offset(number)
        return self._bytes[offset : offset + self.layout.page_bytes]

    def lent(self, number: int) -> Octets:
        """The same for good: it is read ahead, and given back once nobody uses it any more.

        The mapping itself stays until nobody uses any page.
        """
        memory = self.page(number)
        place = (self._saved.page_offset(number), self.layout.page_bytes)
        self._mapping.madvise(mmap.MADV_WILLNEED, *place)
        gone = weakref.finalize(memory, self._mapping.madvise, mmap.MADV_DONTNEED, *place)
        gone.atexit = False
        return memory


def _fitting_layout(path: Path, header: SavedHeader, room: Room, maker: CacheMaker) -> PageLayout:
    """How the file's pages lie; SessionFileError if they are not the room's but for lanes."""
    wanted = room.layout
    found = {
        "another model": (header.model, maker.model),
        "other layers of the model": (header.first_layer, maker.layers.start),
        "another number of layers": (header.num_layers, wanted.num_layers),
        "another number of heads": (header.num_heads, wanted.num_heads),
        "heads of another size": (header.head_size, wanted.head_size),
        "other adapters, hooks or rope_scaling": (header.origin, room.origin.hex()),
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
    path: Path, saved: SavedFile, room: Room, file_bytes: int
) -> tuple[Sequence[int], int]:
    """The tokens whose pages are there, and how many pages."""
    header, num_pages = saved.header, saved.num_whole_pages(file_bytes)
    tokens = saved.tokens
    if num_pages < header.num_pages:
        tokens = tokens[: (header.first_page + num_pages) * PAGE_POSITIONS]
    if not num_pages or header.first_page > first_seen(len(tokens), room.window) // PAGE_POSITIONS:
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


def _check_tokens(path: Path, tokens: Sequence[int], room: Room, maker: CacheMaker) -> None:
    if len(tokens) > room.context_length:
        raise ContextLengthError(
            f"{path}: the session has {len(tokens)} tokens, the context {room.context_length}",
            len(tokens),
            room.context_length,
            way=Way("raise context_length", "raise --context"),
        )
    if min(tokens) < 0 or max(tokens) >= maker.vocab_size:
        raise SessionFileError(
            f"{path}: tokens from {min(tokens)} to {max(tokens)}; allowed: 0 to "
            f"{maker.vocab_size - 1}"
        )
