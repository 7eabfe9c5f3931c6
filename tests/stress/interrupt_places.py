"""Ctrl-C at every place of what a user calls, one after the other, and a second one soon after.

What is interrupted is free afterwards, for any thread; its pages are given back, and all texts are
what they are alone.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import EdgellamaError
from stress.interrupt_scenes import LONG, SCENES, Scene, World
from stress.signal_places import SignalPlaces

MODEL = TinyLlama(width=32, heads=2, layers=2, context_length=1024, weight_format="Q8_0")
SCENES_VARIABLE = "EDGELLAMA_TEST_SCENES"
PATIENCE_S = 120.0
REFUSALS = ("in the middle of its own step", "which would wait for itself")
SECOND_WITHIN = 60
"""Places after the first signal within which the second one comes."""


@dataclass
class Interrupted:
    """One scene that is interrupted at many places; ``failures`` by where signals were handled."""

    scene: Scene
    make_world: Callable[[], World]
    helper: ThreadPoolExecutor
    has_neighbour: bool
    signals: SignalPlaces = field(default_factory=SignalPlaces)
    failures: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    num_done: int = 0
    num_interrupted: int = 0

    def __post_init__(self) -> None:
        self.world = self.make_world()

    def num_places(self) -> int:
        """How many places the scene passes once all is imported that it needs."""
        for _ in range(2):
            act, check = self.scene(self.world)
            self.signals.count(act)
            self.in_time(check)
            self.in_time(self.world.check)
        return self.signals.num_passed

    def interrupt(self, places: tuple[int, ...], *, is_handled: bool = False) -> None:
        """Let signals come, and look at what is left; after a failure in another world.

        ``is_handled``: a handler makes a text, in place of raising an error.
        """
        self.signals.handler = self._make_text if is_handled else None
        error = self._error(places)
        if error:
            where = " and ".join(self.signals.landed)
            if where not in self.failures:
                print(f"{self.scene.__name__} at {places}: {where}: {error}", flush=True)
            self.failures[where] = error
            self.world = self.make_world()

    def in_time(self, check: Callable[[], object]) -> None:
        """Call a check on another thread, which must not wait for ever."""
        future = self.helper.submit(check)
        if not wait((future,), PATIENCE_S).done:
            print(f"{self.scene.__name__}: stuck after {self.signals.landed}", flush=True)
            faulthandler.dump_traceback()
            os._exit(1)
        future.result()

    def _error(self, places: tuple[int, ...]) -> str:
        """What is wrong after signals at some places; empty for nothing."""
        num_ignored, world = len(self.ignored), self.world
        act, check = self.scene(world)
        if self.has_neighbour:
            beside = self.helper.submit(world.check_text, world.llama, LONG)
        try:
            is_interrupted = self.signals.is_interrupted(act, places)
            del act
            self.num_done += 1
            self.num_interrupted += is_interrupted
            if self.has_neighbour:
                self.in_time(beside.result)
            self.in_time(check)
            del check
            self.in_time(world.check)
        except Exception as error:
            return repr(error)
        is_heard = is_interrupted or len(self.ignored) > num_ignored or self.signals.handler
        return "" if is_heard or not self.signals.landed else "nobody hears of the signal"

    def _make_text(self) -> None:
        """What a handler may do between two steps, and is told that it cannot within one."""
        try:
            self.world.check_text(self.world.llama, LONG)
        except EdgellamaError as error:
            if not any(reason in str(error) for reason in REFUSALS):
                raise

    def note_ignored(self, ignored: Any) -> None:
        """Of a signal that comes before a finalizer's first line Python tells, and forgets it."""
        self.ignored.append(f"{ignored.exc_value!r} in {ignored.object!r}")


def interruptions(
    one: Interrupted, num_places: int, draw: random.Random
) -> Iterator[Callable[[], None]]:
    """Every place in three ways: alone, with a second signal, and with one that is handled."""
    places = draw.sample(range(1, num_places + 1), num_places)
    for first in range(3):
        for way, place in enumerate(places, start=first):
            second = (draw.randint(1, SECOND_WITHIN),) if way % 3 == 1 else ()
            yield partial(one.interrupt, (place, *second), is_handled=way % 3 == 2)


def interrupt_places(path: Path, seconds: float, seed: int) -> None:
    """AssertionError if anything is not as it was before a signal came.

    The models are its own, with a window and without. EDGELLAMA_TEST_SCENES: some of the scenes.
    """
    draw, failures = random.Random(seed), dict[str, str]()
    names = os.environ.get(SCENES_VARIABLE, "").split()
    scenes = [scene for scene in SCENES if not names or scene.__name__ in names]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as helper:
        folder = Path(name)
        write_gguf_adapter(folder / "one.gguf", random_gguf_factors(MODEL, 4, seed=1))
        models = [
            write_tiny_llama(folder / "plain.gguf", MODEL),
            write_tiny_llama(folder / "window.gguf", replace(MODEL, sliding_window=150)),
        ]
        helper.submit(gc.freeze).result()
        for scene in scenes:
            world = partial(World, draw.choice(models), folder, draw.choice((1, 2)))
            one = Interrupted(scene, world, helper, has_neighbour=draw.random() < 0.5)
            play(one, time.monotonic() + seconds / len(scenes), draw)
            failures |= one.failures
    assert not failures, f"{len(failures)} places leave something wrong"


def play(one: Interrupted, until: float, draw: random.Random) -> None:
    """Interrupt a scene until its time is over, or at all places in all ways."""
    started = time.monotonic()
    num_places = one.num_places()
    sys.unraisablehook = one.note_ignored
    for interruption in interruptions(one, num_places, draw):
        interruption()
        if time.monotonic() >= until:
            break
    sys.unraisablehook = sys.__unraisablehook__
    print(
        f"{one.scene.__name__}: {num_places} places, {one.num_interrupted} of {one.num_done} "
        f"interrupted, {len(one.ignored)} ignored in finalizers, {len(one.failures)} wrong, "
        f"{time.monotonic() - started:.1f} s",
        flush=True,
    )
    one.world.llama.close()
