"""The kernels that the steps of an engine need, compiled before they run.

``steps`` knows which ones they are; those of threads and of choosing tokens are always needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property

from edgellama.engine.pages.page_pool import AnyLayout
from edgellama.engine.program.adapter_ops import kernels_of
from edgellama.engine.program.step_values import StepKind
from edgellama.engine.running.machinery import Machinery
from edgellama.engine.weights.adapter import Adapter
from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, TIMED_ENTRY
from edgellama.quant.progress import Progress

ALWAYS = frozenset((*ENTRY_KERNELS, CHOICE_KERNEL))


class NeededKernels:
    """Names of the kernels of one machinery's steps, over pages of one layout."""

    def __init__(self, machine: Machinery, pages: AnyLayout) -> None:
        self._machine, self._pages = machine, pages

    def compile(
        self, progress: Progress | None, companions: Iterable[str], *, is_timed: bool
    ) -> None:
        """Have the kernels of texts; those that check guesses, and ``companions``, come later.

        ``is_timed``: with what measures the time of each op.
        """
        kinds = self._machine.open().kinds
        entries = {TIMED_ENTRY} if is_timed else set()
        self._machine.kernels.ensure(
            self._of(kinds.of_texts()) | entries | ALWAYS,
            progress, companions, later=lambda: self._of(kinds.of_guesses()),
        )  # fmt: skip

    def compile_adapter(self, adapter: Adapter, progress: Progress | None) -> None:
        """Have those that steps with an adapter need besides."""
        self._machine.kernels.ensure(kernels_of(adapter), progress)

    def can_guess(self) -> bool:
        """Whether the kernels that check guesses are there; asked between two steps."""
        if self._machine.runner is None:
            return False
        return not self._machine.kernels.are_coming(self._of_guesses)

    @property
    def usual(self) -> set[str]:
        """The kernels of a chat: all kinds of steps, one token's logits, the next's choice."""
        kinds = self._machine.open().kinds
        return self._of(kinds.of_texts() | kinds.of_guesses()) | ALWAYS

    @cached_property
    def _of_guesses(self) -> set[str]:
        """The kernels that check guesses, which depend on nothing that changes."""
        return self._of(self._machine.open().kinds.of_guesses())

    def _of(self, kinds: Set[StepKind]) -> set[str]:
        steps = self._machine.open().step_ops(self._pages)
        return {kernel.name for kernel in steps.kernels(kinds)}
