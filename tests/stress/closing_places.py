"""A signal's handler that closes the model, at many places of what a user calls.

The call ends by itself, early, or with an error of ours; no page and no thread is held afterwards.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import EdgellamaError, Llama, Session
from stress import held
from stress.interrupt_scenes import GREEDY, SCENES, Scene, World
from stress.signal_places import SignalPlaces

MODEL = TinyLlama(width=32, heads=2, layers=1, context_length=1024, weight_format="Q8_0")


class ClosingWorld(World):
    """One whose texts may end early, since the model is closed."""

    def check_text(self, session: Session | Llama, prompt: str) -> None:
        """A session makes a text."""
        session.generate(prompt, **GREEDY)


def closing_places(path: Path, seconds: float, seed: int) -> None:
    """AssertionError if anything is held, or if something else than an error of ours comes out.

    The model is its own.
    """
    draw, failures = random.Random(seed), dict[str, str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_gguf_adapter(folder / "one.gguf", random_gguf_factors(MODEL, 4, seed=1))
        tiny = write_tiny_llama(folder / "tiny.gguf", MODEL)
        num_places = {scene: places_of(scene, tiny, folder) for scene in SCENES}
        before, num_done = held.num_threads(), Counter[str]()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            scene = draw.choice(SCENES)
            num_done[scene.__name__] += 1
            place = draw.randint(1, num_places[scene])
            if failure := failure_at(place, scene, ClosingWorld(tiny, folder)):
                print(f"{scene.__name__} at {place}: {failure}", flush=True)
                failures[failure] = scene.__name__
        held.check_back(held.num_threads, before)
    print(f"closed at {num_done.total()} places: {dict(num_done)}")
    assert not failures, f"{len(failures)} places leave something wrong"


def places_of(scene: Scene, path: Path, folder: Path) -> int:
    """How many places a scene passes."""
    signals, world = SignalPlaces(), ClosingWorld(path, folder)
    act, check = scene(world)
    num_places = signals.count(act)
    check()
    world.llama.close()
    return num_places


def failure_at(place: int, scene: Scene, world: World) -> str:
    """What is wrong after the model was closed at a place; empty for nothing."""
    signals, llama, pool = SignalPlaces(), world.llama, world.pool
    act, check = scene(world)
    signals.handler = llama.close
    try:
        with suppress(EdgellamaError, StopIteration):
            signals.is_interrupted(act, (place,))
        llama.close()
        del act, check, scene, world
        gc.collect()
        assert not pool.num_owned, f"{pool.num_owned} pages are held"
        assert not pool.idle_bytes, f"{pool.idle_bytes} bytes are kept"
    except Exception as error:
        return f"{signals.landed}: {error!r}"
    return ""
