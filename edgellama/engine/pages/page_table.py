"""The pages of one sequence in order, and their addresses for kernels.

Pages are taken when positions are written, copied if other sequences hold them too, and released.
The cache knows the tokens, the pool the other holders. Ctrl-C may come between any two lines, so
addresses are not kept, but read from the pages after each change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.engine.pages.page_pool import Hold, Page, PagePool
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass

Addresses = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PageList:
    """The pages of a sequence at one moment, which stay in memory as long as this does.

    ``pages`` in order, None for those that were left behind; ``num_changes`` is the table's.
    ``addresses`` (2, pages): in the computer's memory, and on a graphics card; 0 without.
    """

    pages: tuple[Page | None, ...]
    addresses: Addresses
    num_changes: int

    @classmethod
    def of(cls, pages: tuple[Page | None, ...], num_changes: int) -> PageList:
        """A list with the addresses of its pages."""
        found = [(0, 0) if page is None else (page.address, page.card_address) for page in pages]
        addresses = np.array(found, np.int64).reshape(-1, 2).T
        return cls(pages, np.ascontiguousarray(addresses), num_changes)


NOTHING = PageList.of((), -1)


class PageTable:
    """Room for the pages of ``context_length`` positions, which come from ``pool``.

    ``num_changes`` is another one before and after each change.
    """

    def __init__(self, pool: PagePool, context_length: int) -> None:
        """InvalidOptionError if there is no memory for the addresses of so many pages."""
        try:
            np.empty((2, -(-context_length // PAGE_POSITIONS)), np.int64)
        except (MemoryError, ValueError):
            raise InvalidOptionError(
                f"no memory for a context of {context_length} tokens; choose a shorter one"
            ) from None
        self.pool = pool
        self.num_changes = 0
        self._holds: list[Hold | None] = []
        self._listed = NOTHING

    @property
    def listed(self) -> PageList:
        """The pages as they are now."""
        listed, num_changes = self._listed, self.num_changes
        if listed.num_changes != num_changes:
            pages = tuple(None if hold is None else hold.page for hold in self._holds)
            listed = self._listed = PageList.of(pages, num_changes)
        return listed

    def page(self, number: int) -> Page | None:
        """One of them, without all the others; None behind the last one, too."""
        hold = self._holds[number] if number < len(self._holds) else None
        return None if hold is None else hold.page

    def is_writable(self, position: int) -> bool:
        """Whether a position has a page already, which nobody else holds or may find."""
        page = self.page(position // PAGE_POSITIONS)
        return page is not None and not page.is_shared

    def are_there(self, numbers: range) -> bool:
        """Whether none of these pages was left behind."""
        return all(self._holds[number] is not None for number in numbers)

    def place(self, number: int, hold: Hold | None) -> None:
        """Put a page into the table, in place of the one that is there."""
        old = self.page(number)
        self.num_changes += 1
        self._holds[number : number + 1] = [hold]
        self.num_changes += 1
        self._listed = NOTHING
        if old is not None:
            self.pool.released([old])

    def drop(self, first: int) -> None:
        """Release pages from ``first`` on, the last first: a text's beginning stays longest."""
        if len(self._holds) > first:
            left = [hold.page for hold in reversed(self._holds[first:]) if hold is not None]
            self.num_changes += 1
            del self._holds[first:]
            self.num_changes += 1
            self._listed = NOTHING
            self.pool.released(left)

    def leave_behind(self, end: int) -> None:
        """Release the pages before ``end``."""
        for number in reversed(range(end)):
            if self._holds[number] is None:
                break
            self.place(number, None)

    def make_writable(self, start: int, end: int) -> None:
        """Have pages of one's own for positions from ``start`` on, which end the text.

        InvalidOptionError without memory.
        """
        number, used = divmod(start, PAGE_POSITIONS)
        if used and number < len(self._holds):
            page = self.page(number)
            assert page is not None
            if page.is_shared:
                self.place(number, self._copy(page, used))
        while number * PAGE_POSITIONS < end:
            if number >= len(self._holds):
                is_whole = start <= number * PAGE_POSITIONS <= end - PAGE_POSITIONS
                self.place(number, self.pool.new(is_for_all=is_whole))
            elif number * PAGE_POSITIONS >= start and not self.is_writable(number * PAGE_POSITIONS):
                self.place(number, self.pool.new())
            number += 1

    def share(self, other: PageTable, num_pages: int) -> None:
        """Have the first pages of another table too; both copy them before they write."""
        self.pool = other.pool
        for number, hold in enumerate(other._holds[:num_pages]):
            self.place(number, None if hold is None else Hold(hold.page))

    def replace(self, pool: PagePool, holds: list[Hold | None]) -> None:
        """Have pages of another pool instead of all that are here."""
        self.drop(0)
        self.pool = pool
        for number, hold in enumerate(holds):
            self.place(number, hold)

    def _copy(self, page: Page, used: int) -> Hold:
        """A page of one's own with the first ``used`` positions of another."""
        copy = self.pool.new()
        self.pool.maker.copy(page, copy.page, used)
        return copy
