"""The kernels of attention on a graphics card alone: a model's layers, launched without their step.

Times are the card's own, between two events; memory is full of one number, since what numbers
are there changes no time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from edgellama.cuda.modules import Function
from edgellama.cuda.streams import Event
from edgellama.engine.card.attention import CardKernels
from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.card.device import CardDevice
from edgellama.engine.card.step import CardStep
from edgellama.engine.engine import Engine
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.running.step_timer import StepTimer
from edgellama.engine.steps.segments import Segment
from edgellama.kernels_cpu.layouts import (
    LAUNCH_ARGUMENTS,
    LAUNCH_BYTES,
    LAUNCH_FUNCTION,
    LAUNCH_SHARED_BYTES,
    LAUNCH_THREADS,
    LAUNCH_Y,
    LAUNCH_Z,
)
from edgellama.quant.errors import CudaMemoryError, KernelError
from edgellama.quant.gguf.file import GGUFFile

FILLING = 0x2C
"""A byte that is a small number in every type of keys and values."""
WORDS = (LAUNCH_FUNCTION, LAUNCH_Y, LAUNCH_Z, LAUNCH_THREADS, LAUNCH_SHARED_BYTES, LAUNCH_ARGUMENTS)


@dataclass(frozen=True)
class OnCard:
    """A model whose attention is on the card, or on the CPU beside it."""

    engine: Engine

    @property
    def device(self) -> CardDevice:
        """The card."""
        placement = self.engine.card_placement
        assert placement is not None and placement.made is not None
        assert placement.made.device is not None
        return placement.made.device

    def kernels(self) -> Collection[Function]:
        """The kernels of the model's own type of keys and values, as the driver has them."""
        config, pages = self.engine.config, self.engine.pool().layout
        assert isinstance(pages, PageLayout)
        kernels = CardKernels.of(config, CardLayout(pages, 1), self.device.card.capability)
        return self.device.functions(kernels.all, config.head_size).values()

    def hollow_cache(self, num_tokens: int, num_more: int, kv_type: str) -> KVCache:
        """A sequence of tokens that were never computed, whose memory is all there."""
        cache = self.engine.new_cache(num_tokens + num_more, kv_type=kv_type, is_passing=True)
        cache.settle(num_tokens + num_more)
        step = self.engine.step_tokens
        for start in range(0, num_tokens, step):
            count = min(step, num_tokens - start)
            cache.prepare(count)
            cache.append([0] * count)
        for page in cache.pages:
            if page is not None:
                page.memory[:] = FILLING
                if page.card is not None:
                    self.device.stream.fill(page.card.address, FILLING, page.card.num_bytes)
        if isinstance(cache.layout, CardLayout):
            self.device.stream.synchronize()
        elif self.engine.card_use is not None:
            raise CudaMemoryError(f"the card has no room for {num_tokens} tokens of {kv_type}")
        return cache

    def card_step(self) -> CardStep:
        """What steps have on the card, ready to run."""
        machine, placement = self.engine._machine, self.engine.card_placement
        assert placement is not None
        runner = machine.open()
        placement.take_part(runner, machine.team.cancel_word)
        assert isinstance(runner.card, CardStep)
        return runner.card

    def launch_seconds(self, cache: KVCache, name: str, num_tokens: int, rounds: int) -> float:
        """The card's time of one launch of "store", "few" or "many" for the next tokens."""
        step, layout = self.card_step(), cache.layout
        assert isinstance(layout, CardLayout)
        segment = Segment(cache, cache.length, np.zeros(num_tokens, np.int64), "none").prepared()
        runner = self.engine._machine.open()
        runner.attention(layout)
        values = step.begin([segment])
        stream = self.device.stream
        stream.copy_to_card(
            values["card_table"], values["card_table_source"], values["card_table_bytes"]
        )
        blocks = {"store": num_tokens, "few": values["num_few_tasks"],
                  "many": values["num_many_tasks"]}[name]  # fmt: skip
        if not blocks:
            raise KernelError(f"no kernel {name} for {num_tokens} tokens of {layout.types}")
        launches = step._launches[layout]
        calls = [
            self._call(launches.of_layer(index)[name], blocks)
            for index in range(layout.num_card_layers)
        ]
        start, end = Event(self.device.context), Event(self.device.context)
        driver = self.device.context.driver
        with self.device.context.current():
            for count in (1, rounds):
                driver.call("cuEventRecord", start.handle, stream.handle)
                for call in calls * count:
                    driver.call("cuLaunchKernel", *call)
                driver.call("cuEventRecord", end.handle, stream.handle)
        stream.synchronize()
        step.end()
        return start.seconds_until(end) / (rounds * len(calls))

    def _call(self, record: int, num_blocks: int) -> tuple[object, ...]:
        """The arguments of ``cuLaunchKernel`` that a launch's record stands for."""
        words = (ctypes.c_int64 * (LAUNCH_BYTES // 8)).from_address(record)
        function, y, z, threads, shared_bytes, arguments = (words[at // 8] for at in WORDS)
        places = ctypes.cast(arguments, ctypes.POINTER(ctypes.c_void_p))
        stream = self.device.stream.handle
        return (function, num_blocks, y, z, threads, 1, 1, shared_bytes, stream, places, None)


@contextmanager
def opened(
    path: str, choice: AttentionChoice, kv_type: str, timer: StepTimer | None = None
) -> Iterator[OnCard]:
    """The model in ``path``; ``timer`` runs its steps."""
    with (
        GGUFFile(path) as file,
        Engine(file, attention=choice, kv_type=kv_type, timer=timer) as engine,
    ):
        yield OnCard(engine)


def attention_bytes(cache: KVCache, num_tokens: int) -> float:
    """Bytes of keys and values that one token reads in a layer, without padding of pages."""
    layout = cache.layout
    assert isinstance(layout, CardLayout)
    return layout.card.layer_bytes / 128 * min(num_tokens, cache.window)
