"""Measures once from how many tokens on attention is faster on the card than on the CPU.

One layer's attention runs on both with the same random keys and values. If the results differ by
more than rounding explains, "auto" never uses the card. The result is kept in the cache folder, for
this card, driver, model shape and code.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellama.cuda.ptx_text import card_source_hash
from edgellama.engine.card.device import CardDevice
from edgellama.engine.card.pages import CardPages
from edgellama.engine.card.step import use_card
from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import Hold, Page, PagePool
from edgellama.engine.steps.hooked_parts import RunOps
from edgellama.engine.steps.segments import Segment
from edgellama.engine.steps.step import StepRunner
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.machine.user_cache import folder_to_fill
from edgellama.quant.digests import blake2b
from edgellama.quant.errors import CacheError, CudaError
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.replaced_file import replaced_file

if TYPE_CHECKING:
    from edgellama.engine.program.program import Op
    from edgellama.engine.running.machinery import Machinery
    from edgellama.engine.scheduling.scheduler import Scheduler
    from edgellama.kernels_cpu.machine.cpu import Tier

FOLDER_NAME = "attention"
SHALLOW, DEEP = 1024, 8192
"""Tokens before the one whose attention is timed."""
PROMPT_TOKENS = 48
ROUNDS = 5
TOLERANCE = 0.02
"""Difference of results, as a share of the largest: tiles of many tokens have 16-bit weights."""
MARGIN = 0.95
"""The share of the CPU's time that must not be exceeded on the card."""


class Calibration:
    """Both ways of attention over one layer of random keys and values."""

    def __init__(
        self,
        device: CardDevice,
        runner: StepRunner,
        config: ModelConfig,
        types: KVTypes,
        lanes: int,
        run_ops: RunOps,
    ) -> None:
        """Fill both kinds of pages; CudaError, InvalidOptionError without memory."""
        self._runner, self._run_ops = runner, run_ops
        layout = PageLayout.of(config, types, lanes, num_layers=1)
        card_layout = CardLayout(layout, 1)
        maker = CardPages(card_layout, device.memory, device.stream)
        length, window = DEEP + PROMPT_TOKENS, config.sliding_window
        pool = PagePool(layout)
        self._host = KVCache(pool, length, window=window, is_passing=True)
        self._card = KVCache(pool, length, window=window, is_passing=True)
        self._fill_rows()
        for start in range(0, length, PAGE_POSITIONS):
            self._attend(self._host, start, min(PAGE_POSITIONS, length - start))
            self._host.append([0] * min(PAGE_POSITIONS, length - start))

        def take(source: Page, target: Page) -> None:
            maker.take(source.memory, layout, target)

        self._card.restore(*_contents(self._host))
        self._card.move_to(PagePool(card_layout, maker=maker), take)

    def check(self) -> None:
        """CudaError unless both ways give the same, for one token and for many."""
        for position, count in ((DEEP, 1), (SHALLOW, PROMPT_TOKENS)):
            results = []
            for cache in (self._host, self._card):
                self._fill_rows()
                attended = self._runner.buffers.attended
                attended.array[:count] = np.nan
                self._attend(cache, position, count)
                results.append(attended.array[:count, : attended.width].copy())
            limit = TOLERANCE * float(np.abs(results[0]).max())
            difference = float(np.abs(results[1] - results[0]).max())
            if not difference <= limit:
                raise CudaError(
                    f"the card's attention differs from the CPU's by {difference:.2g} for {count} "
                    f"tokens; allowed: {limit:.2g}"
                )

    def faster_from(self) -> int | None:
        """The number of tokens from which one token's attention is faster on the card."""
        cpu, card = ([self._seconds(cache, depth) for depth in (SHALLOW, DEEP)]
                     for cache in (self._host, self._card))  # fmt: skip
        return crossing(cpu, card)

    def close(self) -> None:
        """Give the pages back."""
        self._host.close()
        self._card.close()

    def _fill_rows(self) -> None:
        """The same random queries, keys and values every time: attention turns them in place."""
        rng, b = np.random.default_rng(0), self._runner.buffers
        for rows in (b.query, b.key, b.value):
            rows.array[:] = rng.standard_normal(rows.array.shape, np.float32)

    def _seconds(self, cache: KVCache, position: int) -> float:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            self._attend(cache, position, 1)
            times.append(time.perf_counter() - started)
        return min(times)

    def _attend(self, cache: KVCache, position: int, num_tokens: int) -> None:
        tokens = np.zeros(num_tokens, np.int64)
        pages = cache.prepare(num_tokens) if cache.length == position else cache.page_list
        segment = Segment(cache, position, tokens, "none", pages=pages)
        self._runner.attend([segment], self._run_ops)


def calibrate(
    device: CardDevice,
    types: KVTypes,
    machine: Machinery,
    config: ModelConfig,
    tier: Tier,
    scheduler: Scheduler,
) -> int | None:
    """From how many tokens on attention is faster on the card; None: never.

    Measured between two steps, or remembered. CudaError where results differ.
    """

    def run_ops(
        key: tuple[object, ...], ops: Callable[[], list[Op]], values: dict[str, int]
    ) -> bool:
        program = machine.program(key, ops)
        program.prepare(machine.team.next_job, **values)
        return machine.team.run(program.memory, owner=program)

    def measure() -> int | None:
        runner = machine.open()
        machine.last_step = None
        use_card(runner, device, config, machine.team.cancel_word)
        calibration = Calibration(device, runner, config, types, tier.lanes, run_ops)
        try:
            calibration.check()
            return calibration.faster_from()
        finally:
            calibration.close()

    scheduler.refuse_within_a_step()
    key = calibration_key(device, config, types, tier.name, machine.num_threads)
    return remembered(key, lambda: scheduler.exclusively(measure))


def crossing(cpu_seconds: list[float], card_seconds: list[float]) -> int | None:
    """Where the card's line through SHALLOW and DEEP falls below the CPU's; None for nowhere.

    >>> crossing([0.001, 0.008], [0.002, 0.003])
    2299
    >>> crossing([0.001, 0.008], [0.002, 0.009]) is None
    True
    """
    cpu_at, card_at = MARGIN * cpu_seconds[0], card_seconds[0]
    cpu_slope, card_slope = MARGIN * cpu_seconds[1] - cpu_at, card_seconds[1] - card_at
    if card_slope >= cpu_slope:
        return 0 if card_at < cpu_at and card_seconds[1] < MARGIN * cpu_seconds[1] else None
    crossed = SHALLOW + (DEEP - SHALLOW) * (card_at - cpu_at) / (cpu_slope - card_slope)
    return max(0, math.ceil(crossed))


def remembered(key: str, measure: Callable[[], int | None]) -> int | None:
    """What ``measure`` has found once for this key; what cannot be kept is measured again."""
    path: Path | None = None
    with contextlib.suppress(CacheError):
        path = folder_to_fill(FOLDER_NAME) / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if path is not None:
            found = json.loads(path.read_text("utf-8"))["faster_from_tokens"]
            if found is None or (isinstance(found, int) and found >= 0):
                return found
    tokens = measure()
    with contextlib.suppress(OSError):
        if path is not None:
            with replaced_file(path) as file:
                file.write(json.dumps({"faster_from_tokens": tokens}).encode())
    return tokens


def calibration_key(
    device: CardDevice, config: ModelConfig, types: KVTypes, tier: str, num_threads: int
) -> str:
    """Stands for all that the times depend on."""
    parts = (
        *(device.card.uuid, device.context.driver.version, card_source_hash(), tier, num_threads),
        # Parts of a card (MIG) share its number.
        *(device.card.total_bytes, device.card.num_multiprocessors),
        *(str(types), config.head_count, config.head_count_kv, config.head_size),
        config.sliding_window,
    )
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _contents(cache: KVCache) -> tuple[list[int], list[Hold | None], int]:
    """What ``restore`` takes, with pages that both sequences then hold."""
    holds = [None if page is None else Hold(page) for page in cache.pages]
    return list(cache.tokens), holds, cache.prompt_length
