"""What a request asks for, in terms of an answer: texts of a model, and how each begins.

The protocol of the request knows which fields say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgellama.generation.results import Chunk, Generation

if TYPE_CHECKING:
    from edgellama.llama import Llama


class TextStream(Protocol):
    """A text while it is made, such as a ``Stream``: one thread iterates, any may cancel."""

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks of the text."""
        ...

    @property
    def result(self) -> Generation:
        """The whole text, once it has ended."""
        ...

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that were computed, and that are to be."""
        ...

    def cancel(self) -> None:
        """Ask the text to end."""
        ...

    def close(self) -> None:
        """End the text."""
        ...


OpenText: TypeAlias = "Callable[[Llama, int, ExitStack], TextStream]"
"""Starts the text of a number; what is to be closed after it goes on the stack."""


@dataclass(frozen=True)
class Wish:
    """What a request asks for: ``num_texts`` of a model, and ``open``, which starts each.

    ``is_stream``: pieces are wanted as they come, else the results alone.
    """

    model: str | None
    open: OpenText
    num_texts: int = 1
    keep_alive_s: float | None = None
    is_stream: bool = False
