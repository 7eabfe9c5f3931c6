"""What steps need on a graphics card besides pages: access to their buffers, tables, kernels.

Each runner of steps has one of these, for its own buffers. Pages outlive it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgellama.cuda.driver import LOST
from edgellama.cuda.memory import RegisteredMemory
from edgellama.engine.card.attention import (
    NO_BOUND,
    CardAttentionOps,
    CardKernels,
    CardRows,
    Launches,
    SplitAttention,
)
from edgellama.engine.card.device import CardDevice
from edgellama.engine.card.table import CardTable
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.program.attention_ops import AttentionOps
from edgellama.engine.program.buffers import StepBuffers
from edgellama.engine.steps.segments import Segment
from edgellama.engine.steps.step import StepRunner
from edgellama.kernels_cpu import layouts
from edgellama.quant.errors import CudaError
from edgellama.quant.model_config import ModelConfig

FUNCTIONS = {
    layouts.CARD_PUSH: "cuCtxPushCurrent",
    layouts.CARD_COPY: "cuMemcpyHtoDAsync",
    layouts.CARD_LAUNCH: "cuLaunchKernel",
    layouts.CARD_IS_READY: "cuStreamQuery",
    layouts.CARD_POP: "cuCtxPopCurrent",
}
Values: TypeAlias = "dict[str, int]"


def use_card(runner: StepRunner, device: CardDevice, config: ModelConfig, cancel_word: int) -> None:
    """Let a runner of steps of a model run those on this card, too; CudaError.

    ``cancel_word``: see ``CardStep``.
    """
    if not isinstance(runner.card, CardStep) or runner.card.device is not device:
        runner.card = CardStep(device, config, runner.buffers, cancel_word)


class CardStep:
    """Steps of one runner on one card."""

    def __init__(
        self, device: CardDevice, config: ModelConfig, buffers: StepBuffers, cancel_word: int
    ) -> None:
        """Pin the buffers; CudaError if the driver refuses.

        ``cancel_word``: that of the team of threads which runs the steps.
        """
        self.device = device
        self._config, self._buffers = config, buffers
        self._launches: dict[CardLayout, Launches] = {}
        self._many_at_once = NO_BOUND
        self.is_running = False
        self._cancel_word = cancel_word
        self._record = np.zeros(layouts.CARD_BYTES // 8, np.int64)
        self._record[layouts.CARD_CONTEXT // 8] = device.context.handle
        self._record[layouts.CARD_STREAM // 8] = device.stream.handle
        for place, name in FUNCTIONS.items():
            self._record[place // 8] = device.context.driver.address(name)
        self._table = CardTable(config, device)
        self._registered = [
            RegisteredMemory(device.context, rows.array)
            for rows in (buffers.query, buffers.key, buffers.value, buffers.attended)
        ]
        self._staged = device.memory.allocate(buffers.query.array.nbytes)
        q, k, v, y = (memory.device_address for memory in self._registered)
        self._rows = CardRows(q, k, v, y, self._staged.address)

    def attention(self, layout: CardLayout, host: AttentionOps) -> SplitAttention:
        """What writes attention over pages of a layout; ``host`` does so for layers that are not
        on the card. CudaError, KernelError.
        """
        launches = self._launches_of(layout)
        record = int(self._record.ctypes.data)
        ops = CardAttentionOps(
            self._config, self._buffers, layout, record, self._cancel_word, launches
        )
        return SplitAttention(ops, host)

    def begin(self, segments: Sequence[Segment]) -> Values:
        """Fill the table for a step; the values that its program binds.

        Waits for what a cancelled step has left running. CudaError.
        """
        self.device.context.driver.check_process()
        self.settle()
        if self._status not in LOST:
            self._record[layouts.CARD_STATUS // 8] = 0
        tasks = self._table.fill(segments)
        for launches in self._launches.values():
            launches.set_segments(self._table.address, tasks.many_at_once)
        self._many_at_once = tasks.many_at_once
        self.is_running = True
        return {
            "card_table": self._table.address,
            "card_table_source": self._table.source,
            "card_table_bytes": tasks.table_bytes,
            "num_few_tasks": tasks.num_few,
            "num_many_tasks": tasks.num_many,
        }

    def settle(self) -> None:
        """Wait for what a cancelled step has left running: it still writes to the buffers.

        A card that has failed writes no more, which the next step on it finds out.
        """
        if self.is_running:
            self.is_running = False
            with contextlib.suppress(CudaError):
                self.device.stream.synchronize()

    @property
    def _status(self) -> int:
        """What the last call of the driver returned."""
        return int(self._record[layouts.CARD_STATUS // 8])

    def move_first(self, position: int) -> None:
        """Make the step that has just run one of its sequence's next token."""
        self._table.move_first(position)
        self.is_running = True

    def end(self) -> None:
        """Say that a step has run to its end; CudaError, or one of its kinds, if the card failed.

        After an error nothing more is launched.
        """
        if status := self._status:
            raise self.device.context.driver.error(status, "attention on the graphics card")
        self.is_running = False

    def close(self) -> None:
        """Give back what the card sees of the buffers, once it looks at them no more."""
        self.settle()
        for memory in self._registered:
            memory.close()

    def _launches_of(self, layout: CardLayout) -> Launches:
        """The launches over pages of a layout. CudaError."""
        launches = self._launches.get(layout)
        if launches is None:
            config, card = self._config, self.device.card
            kernels = CardKernels.of(config, layout, card.capability)
            functions = self.device.functions(kernels.all, config.head_size)
            launches = Launches(config, layout, kernels, functions, self._rows, self._buffers)
            launches.set_segments(self._table.address, self._many_at_once)
            self._launches[layout] = launches
        return launches
