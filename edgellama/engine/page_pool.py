"""Pages of keys and values: counted, shared, and kept for who asks for the same tokens again.

A page belongs to as many sequences as hold it. A full one that no sequence holds any more stays,
under a byte limit, and is found again by its key, which stands for all tokens up to its end. The
pages that were used least recently go first, and their memory goes back to the system.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgellama.engine.card.layout import CardLayout
from edgellama.engine.memory import reserve
from edgellama.engine.page_keys import PageKey
from edgellama.engine.page_layout import Octets, PageLayout, memory_parts
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.cuda.memory import DeviceMemory

AnyLayout: TypeAlias = PageLayout | CardLayout


class Page:
    """The memory of 128 positions, and how many sequences hold it.

    ``card`` is what of it lies on a graphics card, ``memory`` what lies in the computer's memory.
    """

    __slots__ = ("address", "card", "key", "memory", "num_owners")

    def __init__(self, memory: Octets, card: DeviceMemory | None = None) -> None:
        self.memory, self.card = memory, card
        self.address = int(memory.ctypes.data)
        self.num_owners = 1
        self.key: PageKey | None = None

    @property
    def card_address(self) -> int:
        """Where its part on the card begins; 0 without."""
        return 0 if self.card is None else self.card.address

    @property
    def is_shared(self) -> bool:
        """Whether it must not be written: others hold it, or may find it."""
        return self.num_owners > 1 or self.key is not None


class PageMaker(Protocol):
    """Makes and copies pages of one layout; ``host_layout`` is how the CPU's pages of it lie."""

    @property
    def layout(self) -> AnyLayout: ...

    @property
    def host_layout(self) -> PageLayout: ...

    def new(self, *, is_for_all: bool = False) -> Page:
        """An empty page, all of whose positions are written soon where ``is_for_all``."""
        ...

    def copy(self, source: Page, target: Page, num_positions: int) -> None:
        """Write the first positions of a page into an empty one."""
        ...

    def host_memory(self, page: Page) -> Octets:
        """What a page holds, in the host's layout."""
        ...


class HostPages:
    """Pages in the computer's memory."""

    def __init__(self, layout: PageLayout) -> None:
        self.layout = self.host_layout = layout

    def new(self, *, is_for_all: bool = False) -> Page:
        """See ``PageMaker``; InvalidOptionError where there is no memory."""
        return Page(reserve(self.layout.page_bytes, is_for_all=is_for_all))

    def copy(self, source: Page, target: Page, num_positions: int) -> None:
        """See ``PageMaker``."""
        num_blocks = -(-num_positions // self.layout.block_positions)
        old, new = (memory_parts(page.memory, self.layout) for page in (source, target))
        for source_part, target_part in zip(old, new, strict=True):
            target_part[:, :, :num_blocks] = source_part[:, :, :num_blocks]

    def host_memory(self, page: Page) -> Octets:
        """The page's own memory."""
        return page.memory


class PagePool:
    """All pages of one layout; thread-safe."""

    def __init__(
        self,
        layout: AnyLayout,
        limit_bytes: int = 0,
        maker: PageMaker | None = None,
        origin: bytes = b"",
    ) -> None:
        """``limit_bytes``: how much pages without an owner may take.

        ``maker`` of the pages; None: they lie in the computer's memory. ``origin`` stands for what
        else than tokens and adapters decides the keys and values that are computed from now on.
        """
        self.layout, self.origin = layout, origin
        if maker is None:
            assert isinstance(layout, PageLayout)
            maker = HostPages(layout)
        self.maker = maker
        self._limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._by_key: dict[PageKey, Page] = {}
        self._idle: OrderedDict[PageKey, Page] = OrderedDict()
        self._num_owned = 0

    @property
    def limit_bytes(self) -> int:
        """How much pages without an owner may take; less drops the oldest of them at once."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, num_bytes: int) -> None:
        with self._lock:
            self._limit_bytes = num_bytes
            self._drop_oldest()

    @property
    def idle_bytes(self) -> int:
        """What pages without an owner take."""
        return len(self._idle) * self.layout.page_bytes

    @property
    def num_owned(self) -> int:
        """Pages that sequences hold, each counted once."""
        return self._num_owned

    def new(self, *, is_for_all: bool = False) -> Page:
        """An empty page with one owner. InvalidOptionError or CudaMemoryError without memory.

        Where there is none, pages without an owner go first.

        ``is_for_all``: all of its positions are written by the next step.
        """
        try:
            page = self.maker.new(is_for_all=is_for_all)
        except EdgellamaError:
            if not self._idle:
                raise
            self.clear()
            page = self.maker.new(is_for_all=is_for_all)
        with self._lock:
            self._num_owned += 1
        return page

    def adopt(self, memory: Octets) -> Page:
        """A page with one owner over memory that holds keys and values already."""
        with self._lock:
            self._num_owned += 1
        return Page(memory)

    def share(self, page: Page) -> Page:
        """The same page with one owner more."""
        with self._lock:
            page.num_owners += 1
        return page

    def release(self, page: Page) -> None:
        """One owner less; a page without any stays if it can be found, under the limit."""
        with self._lock:
            page.num_owners -= 1
            if page.num_owners:
                return
            self._num_owned -= 1
            if page.key is not None:
                self._idle[page.key] = page
                self._drop_oldest()

    def publish(self, page: Page, key: PageKey) -> None:
        """Let others find a full page; the first one of a key stays the one that is found."""
        with self._lock:
            if self._limit_bytes and page.key is None and key not in self._by_key:
                page.key = key
                self._by_key[key] = page

    def find(self, key: PageKey) -> Page | None:
        """The page of a key with one owner more, if there is one."""
        with self._lock:
            page = self._by_key.get(key)
            if page is None:
                return None
            if self._idle.pop(key, None) is not None:
                self._num_owned += 1
            page.num_owners += 1
            return page

    def change_origin(self, origin: bytes) -> None:
        """Have other keys and values from now on; what earlier texts have left is dropped."""
        self.origin = origin
        self.clear()

    def clear(self) -> None:
        """Drop all pages without an owner."""
        with self._lock:
            while self._idle:
                self._drop(next(iter(self._idle)))

    def _drop_oldest(self) -> None:
        while self._idle and self.idle_bytes > self._limit_bytes:
            self._drop(next(iter(self._idle)))

    def _drop(self, key: PageKey) -> None:
        # A cache that the garbage collector closes may come between any two lines.
        if self._idle.pop(key, None) is not None:
            self._by_key.pop(key, None)
