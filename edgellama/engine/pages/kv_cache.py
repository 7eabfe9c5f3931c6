"""Keys and values of one sequence: a table of pages, and the tokens they belong to.

Pages are taken as tokens come, copied before a write if other sequences hold them too, and released
behind a sliding window. Kernels know what is in a page, the pool knows who holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edgellama.engine.pages.page_keys import PageKey, page_key, shared_length
from edgellama.engine.pages.page_pool import AnyLayout, Hold, Page, PagePool
from edgellama.engine.pages.page_table import PageList, PageTable
from edgellama.engine.pages.text_origin import TextOrigin
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet
from edgellama.kernels_cpu.layouts import ALL_KEYS, PAGE_POSITIONS, first_seen
from edgellama.quant.errors import CudaMemoryError, InvalidOptionError
from edgellama.quant.late_interrupt import LATE_INTERRUPT


class Placement(Protocol):
    """Decides where the keys and values of sequences lie."""

    def settle(self, cache: KVCache, length: int, *, may_forget: bool) -> None:
        """Move a sequence that will have ``length`` tokens to where they should lie.

        Raises the error that has lost what it holds, unless it ``may_forget`` that.
        """
        ...

    def retreat(self, cache: KVCache, error: CudaMemoryError) -> None:
        """Move a sequence that finds no more room where it lies."""
        ...


class KVCache:
    """Room for ``context_length`` tokens of one sequence; ``tokens`` are those in it.

    ``window``: how many tokens each one sees, itself included. ``adapters`` are those that its
    tokens are computed with: pages are shared only where they and the pool's origin are the same.
    ``dynamic_from``: prompts of more tokens are turned by their own length, see ``begin``; None: no
    prompt is. ``is_passing``: pages are not left in the pool, where they would take the place of
    texts that come back. ``placement`` may move it to another pool, whenever it is going to grow.
    """

    def __init__(
        self,
        pool: PagePool,
        context_length: int,
        *,
        window: int | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
        dynamic_from: int | None = None,
        is_passing: bool = False,
        placement: Placement | None = None,
    ) -> None:
        if context_length < 1:
            raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
        self.context_length = context_length
        self.window = ALL_KEYS if window is None else window
        self._home = pool
        self._origin = TextOrigin(pool.origin, adapters, dynamic_from)
        self._is_passing = is_passing
        self._placement = placement
        self._keys: list[PageKey] = []
        self._table = PageTable(pool, context_length)
        self._tokens: list[int] = []

    @property
    def layout(self) -> AnyLayout:
        """Where numbers lie in the pages."""
        return self._table.pool.layout

    @property
    def pool(self) -> PagePool:
        """Where its pages come from."""
        return self._table.pool

    @property
    def home(self) -> PagePool:
        """Where its pages came from at first."""
        return self._home

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens whose keys and values are here; not to be changed."""
        return self._tokens

    @property
    def length(self) -> int:
        """How many tokens are in use."""
        return len(self._tokens)

    @property
    def origin(self) -> bytes:
        """What else than tokens decides keys and values, as it was at the first of them."""
        begun_with = self._origin.begun_with if self._tokens else self._home.origin
        return begun_with + self.adapters.origin

    @property
    def prompt_length(self) -> int:
        """How long the prompt is that the tokens began with."""
        return self._origin.prompt_length

    @property
    def adapters(self) -> AdapterSet:
        """What the tokens here are computed with; other adapters forget all tokens."""
        return self._origin.adapters

    @adapters.setter
    def adapters(self, adapters: AdapterSet) -> None:
        if adapters is not self._origin.adapters:
            self.truncate(0)
            self._origin.adapters = adapters

    @property
    def num_bytes(self) -> int:
        """What the pages take once they are full."""
        return sum(page is not None for page in self.pages) * self.layout.page_bytes

    @property
    def num_page_changes(self) -> int:
        """A number that grows whenever a page comes, goes or is another."""
        return self._table.num_changes

    @property
    def is_end_writable(self) -> bool:
        """Whether the next token has a page already, which nobody else holds or may find."""
        return self._table.is_writable(len(self._tokens))

    @property
    def pages(self) -> tuple[Page | None, ...]:
        """The pages in order, None for those behind the window."""
        return self._table.listed.pages

    @property
    def page_list(self) -> PageList:
        """The pages as they are now: what a step holds, since its sequence may change meanwhile."""
        return self._table.listed

    def begin(self, prompt_length: int) -> None:
        """Say how long the prompt is, before its first token is computed.

        Where positions are scaled dynamically, the keys of a prompt beyond the original length are
        turned by that. Those of a prompt of another length are forgotten, so that what is here
        never depends on what was asked before.
        """
        if not self._origin.keeps_turn(prompt_length):
            self.return_home()
        if not self._tokens:
            self._origin.begun_with = self._home.origin
        self._origin.prompt_length = prompt_length

    def settle(self, num_tokens: int, *, may_forget: bool = False) -> None:
        """Lie where a sequence of ``num_tokens`` tokens should; see ``Placement``."""
        if self._placement is not None:
            self._placement.settle(self, num_tokens, may_forget=may_forget)

    def retreat(self, error: CudaMemoryError) -> None:
        """Leave a card that has no room for what comes; see ``Placement``."""
        if self._placement is None:
            raise error
        self._placement.retreat(self, error)

    def return_home(self) -> None:
        """Forget all tokens, and take pages where they came from at first."""
        self.truncate(0)
        self._table.pool = self._home

    def move_to(self, pool: PagePool, copy: Callable[[Page, Page], None]) -> None:
        """Take pages of another pool, into which ``copy`` copies those that are not there yet.

        What it raises leaves all as it was.
        """
        holds: list[Hold | None] = []
        for number, page in enumerate(self.pages[: -(-self.length // PAGE_POSITIONS)]):
            key = self._keys[number] if number < len(self._keys) else None
            found = None if page is None or key is None else pool.find(key)
            if page is not None and found is None:
                found = pool.new()
                copy(page, found.page)
                if key is not None and not self._is_passing:
                    pool.publish(found.page, key)
            holds.append(found)
        self._table.replace(pool, holds)

    def prepare(self, num_tokens: int) -> PageList:
        """Make the next ``num_tokens`` positions writable. InvalidOptionError without memory."""
        self._table.make_writable(self.length, self.length + num_tokens)
        return self._table.listed

    def append(self, tokens: Sequence[int]) -> None:
        """Count ``tokens``, whose keys and values have been stored, as part of the sequence."""
        self._origin.go_on(self._home.origin, has_tokens=bool(self._tokens))
        is_for_all = not self._is_passing and self._origin.begun_with == self._home.origin
        self._tokens.extend(tokens)
        for number in range(len(self._keys), self.length // PAGE_POSITIONS):
            key = self._next_key(number, self._tokens)
            self._keys.append(key)
            page = self._table.page(number)
            if page is not None and is_for_all:
                self.pool.publish(page, key)
        self._table.leave_behind(first_seen(self.length, self.window) // PAGE_POSITIONS)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep or find the beginning of ``prompt``, without its last token at most; the length.

        Own tokens come first, then whole pages that other sequences have left in the pool; neither
        where they would be computed otherwise now.
        """
        if self._origin.begun_with != self._home.origin:
            self.return_home()
        self.begin(len(prompt))
        self.settle(len(prompt), may_forget=True)
        most = len(prompt) - 1
        shared = min(shared_length(self._tokens, prompt), most)
        self.truncate(shared)
        while (first := len(self._keys)) * PAGE_POSITIONS + PAGE_POSITIONS <= len(prompt):
            key = self._next_key(first, prompt)
            hold = self.pool.find(key)
            if hold is None:
                break
            self._table.place(first, hold)
            start, end = first * PAGE_POSITIONS, (first + 1) * PAGE_POSITIONS
            # In this order: a key that is missing is made with the next tokens.
            self._tokens[start:] = prompt[start:end]
            self._keys.append(key)
        if self.length > most:
            self.truncate(most)
        return self.length

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on; all, where a window has given up what it needs."""
        if not 0 <= length <= self.length:
            raise InvalidOptionError(
                f"cannot truncate to {length} tokens; the cache holds {self.length}"
            )
        if length == self.length:
            return
        num_pages = -(-length // PAGE_POSITIONS)
        needed = range(first_seen(length, self.window) // PAGE_POSITIONS, num_pages)
        if not self._table.are_there(needed):
            length = num_pages = 0
        # In this order: a key that is missing is made with the next tokens.
        del self._keys[length // PAGE_POSITIONS :]
        del self._tokens[length:]
        self._table.drop(num_pages)

    def passing_room(self, length: int) -> int:
        """How many tokens behind ``length`` may come and be forgotten again.

        A sliding window must not give up a page for them.
        """
        room = self.context_length - length
        if length > self.window:
            oldest = first_seen(length, self.window)
            room = min(room, PAGE_POSITIONS - 1 - oldest % PAGE_POSITIONS)
        return room

    def fork(self) -> KVCache:
        """Another sequence of the same tokens, which shares the pages until either writes."""
        other = KVCache(
            self._home,
            self.context_length,
            window=self.window,
            is_passing=self._is_passing,
            placement=self._placement,
        )
        other._origin = self._origin.copy()
        other._table.share(self._table, -(-self.length // PAGE_POSITIONS))
        other._keys = self._keys.copy()
        other._tokens = self._tokens.copy()
        return other

    def restore(
        self, tokens: Sequence[int], holds: Sequence[Hold | None], prompt_length: int
    ) -> None:
        """Take over pages of ``home`` that hold ``tokens`` in place of what is here.

        None stands for pages behind the window; ``prompt_length``: what they began with.
        InvalidOptionError for more than fits.
        """
        if len(tokens) > self.context_length:
            raise InvalidOptionError(
                f"{len(tokens)} tokens do not fit a context of {self.context_length}"
            )
        self.return_home()
        self._origin.prompt_length = prompt_length
        for number, hold in enumerate(holds):
            self._table.place(number, hold)
        self.append(tokens)

    def close(self) -> None:
        """Give the pages back; the cache is unusable afterwards."""
        self._keys.clear()
        self._tokens.clear()
        self.context_length = 0
        self._table.drop(0)

    def __del__(self) -> None:
        try:
            # An __init__ that failed has no pages.
            if hasattr(self, "_tokens"):
                self.close()
        except KeyboardInterrupt:
            self.close()
            LATE_INTERRUPT.comes  # noqa: B018

    def _next_key(self, number: int, tokens: Sequence[int]) -> PageKey:
        """The key of page ``number`` of a text whose earlier pages have keys here."""
        before = self._keys[number - 1] if number else self._origin.first_key
        return page_key(before, number, tokens)
