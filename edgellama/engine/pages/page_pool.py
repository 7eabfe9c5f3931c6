"""Pages of keys and values: counted, shared, and kept for later texts with the same tokens.

A page belongs to every sequence that holds it. When no sequence holds a full page any more, it
stays, under a byte limit, and is found again by its key, which stands for all tokens up to its end.
The least recently used pages go first, and their memory returns to the system.

Ctrl-C may come between any two lines, so nothing is counted up and down: the number of holders of a
page, and the number of pages, is the number of weak references to them. There is no lock either,
because a signal handler could find it taken by its own thread. Whatever threads do at once, a page
that is held is not written; at worst, one is found by nobody any more.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.page_keys import PageKey
from edgellama.engine.pages.page_layout import PageLayout, memory_parts
from edgellama.engine.weights.memory import reserve
from edgellama.quant.array_types import Octets
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.cuda.memory import DeviceMemory

AnyLayout: TypeAlias = PageLayout | CardLayout


class Page:
    """The memory of 128 positions, and how many sequences hold it.

    ``card`` is its part on a graphics card, ``memory`` its part in the computer's memory.
    """

    __slots__ = ("__weakref__", "address", "card", "counted", "key", "memory")

    def __init__(self, memory: Octets, card: DeviceMemory | None = None) -> None:
        self.memory, self.card = memory, card
        self.address = int(memory.ctypes.data)
        self.key: PageKey | None = None
        self.counted: _Counted | None = None

    @property
    def card_address(self) -> int:
        """Where its part on the card begins; 0 without."""
        return 0 if self.card is None else self.card.address

    @property
    def num_owners(self) -> int:
        """How many sequences hold it."""
        return weakref.getweakrefcount(self)

    @property
    def is_shared(self) -> bool:
        """Whether it must not be written: others hold it, or may find it."""
        return self.num_owners > 1 or self.key is not None


class Hold(weakref.ref[Page]):
    """A page as one sequence holds it, as long as this object is there.

    It is a weak reference, of which Python counts those that are there, and a strong one.
    """

    __slots__ = ("page",)
    page: Page

    def __new__(cls, page: Page) -> Hold:
        """Note one owner more of the page."""
        self = super().__new__(cls, page)
        self.page = page
        return self


class _Pages:
    """Stands for all pages of a pool, each of which refers to it."""


class _Counted(weakref.ref[_Pages]):
    """What a page has as long as it is there; two references of a class of one's own differ."""

    __slots__ = ()


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
        """See ``PageMaker``; InvalidOptionError if there is no memory."""
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
        # Pages by their keys; those that were used least recently come first.
        self._by_key: OrderedDict[PageKey, Page] = OrderedDict()
        self._pages = _Pages()

    @property
    def limit_bytes(self) -> int:
        """How much pages without an owner may take; less drops the oldest of them at once."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, num_bytes: int) -> None:
        self._limit_bytes = num_bytes
        self._drop_oldest(num_bytes)

    @property
    def idle_bytes(self) -> int:
        """What pages without an owner take."""
        self._drop_oldest(self._limit_bytes)
        return len(self._idle()) * self.layout.page_bytes

    @property
    def num_owned(self) -> int:
        """Pages that sequences hold, each counted once."""
        return weakref.getweakrefcount(self._pages) - len(self._idle())

    def new(self, *, is_for_all: bool = False) -> Hold:
        """An empty page with one owner. InvalidOptionError or CudaMemoryError without memory.

        Where there is none, pages without an owner go first.

        ``is_for_all``: all of its positions are written by the next step.
        """
        try:
            page = self.maker.new(is_for_all=is_for_all)
        except EdgellamaError:
            if not self._idle():
                raise
            self.clear()
            page = self.maker.new(is_for_all=is_for_all)
        return self._new_hold(page)

    def adopt(self, memory: Octets) -> Hold:
        """A page with one owner over memory that holds keys and values already."""
        return self._new_hold(Page(memory))

    def released(self, pages: Iterable[Page]) -> None:
        """Say that somebody held these until now: they stay longest, of those that can be found."""
        for page in pages:
            if page.key is not None and self._by_key.get(page.key) is page:
                with contextlib.suppress(KeyError):  # another thread has dropped it
                    self._by_key.move_to_end(page.key)
        self._drop_oldest(self._limit_bytes)

    def publish(self, page: Page, key: PageKey) -> None:
        """Let others find a full page; the first one of a key stays the one that is found."""
        if self._limit_bytes and page.key is None and key not in self._by_key:
            # The page gets its key before others can find it: nobody writes to a page with a key.
            page.key = key
            if self._by_key.setdefault(key, page) is not page:
                page.key = None

    def find(self, key: PageKey) -> Hold | None:
        """The page of a key with one owner more, if there is one."""
        page = self._by_key.get(key)
        return None if page is None else Hold(page)

    def change_origin(self, origin: bytes) -> None:
        """Have other keys and values from now on; what earlier texts have left is dropped."""
        self.origin = origin
        self.clear()

    def clear(self) -> None:
        """Drop all pages without an owner."""
        self._drop_oldest(0)

    def _new_hold(self, page: Page) -> Hold:
        page.counted = _Counted(self._pages)
        return Hold(page)

    def _idle(self) -> list[PageKey]:
        """The keys of pages without an owner, the oldest first."""
        # list() copies in one go, while other threads change the dictionary.
        pages = list(self._by_key.values())
        return [page.key for page in pages if page.key is not None and not page.num_owners]

    def _drop_oldest(self, most_bytes: int) -> None:
        """Drop pages without an owner until they take no more."""
        page_bytes = self.layout.page_bytes
        if len(self._by_key) * page_bytes <= most_bytes:
            return
        idle = self._idle()
        for key in idle[: len(idle) - most_bytes // page_bytes]:
            self._by_key.pop(key, None)
