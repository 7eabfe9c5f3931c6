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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama, Session
from stress.signal_places import SignalPlaces

MODEL = TinyLlama(width=32, heads=2, layers=2, context_length=1024, weight_format="Q8_0")
WINDOW = replace(MODEL, sliding_window=150)
LONG = "once upon a time there was " * 11
"""Three pages."""
GREEDY: Any = {"temperature": 0, "max_tokens": 3}
PATIENCE_S = 30.0
SECOND_WITHIN = 60
"""Places after the first signal within which the second one comes."""


class World:
    """A model, and what its texts are while nobody is interrupted."""

    def __init__(self, path: Path, folder: Path, num_threads: int = 1) -> None:
        self.path, self.folder = path, folder
        self.llama = llama = Llama(path, num_threads=num_threads, exact=True, cache_limit=200_000)
        self.adapter_path = folder / "one.gguf"
        self.adapter = llama.load_adapter(self.adapter_path)
        self.saved = folder / f"{path.stem}.session"
        with llama.session() as session:
            session.generate(LONG, **GREEDY)
            session.save(self.saved)
        self.other = llama.session()
        prompts = (LONG, LONG + "a", "short")
        self.expected = {prompt: llama.generate(prompt, **GREEDY).tokens for prompt in prompts}
        self.adapted = llama.generate("short", adapters={"one": 1.0}, **GREEDY).tokens
        self.check_text(self.other, LONG)
        self.pool = llama._engine.pool()
        self.num_owned = self.pool.num_owned

    def check_text(self, session: Session | Llama, prompt: str) -> None:
        """A session makes the text that it must."""
        found = session.generate(prompt, **GREEDY).tokens
        assert found == self.expected[prompt], f"{found} follows, not {self.expected[prompt]}"

    def check(self) -> None:
        """All is free, and all texts are right."""
        llama, pool = self.llama, self.pool
        self.check_text(self.other, LONG + "a")
        self.check_text(self.other, LONG)
        self.check_text(llama, "short")
        assert llama.generate("short", adapters={"one": 1.0}, **GREEDY).tokens == self.adapted
        assert llama._engine.scheduler.is_idle, "somebody waits still"
        for _ in range(2):
            if pool.num_owned == self.num_owned and len(llama.sessions) == 1:
                break
            gc.collect()
        assert len(llama.sessions) == 1, f"{llama.sessions} are there"
        assert pool.num_owned == self.num_owned, f"{pool.num_owned} pages held"
        assert pool.idle_bytes <= pool.limit_bytes
        held = set(self.other._cache.pages)
        for key, page in pool._by_key.items():
            is_idle = pool._idle.get(key) is page
            assert page.num_owners == (page in held), f"{page.num_owners} hold a page"
            assert is_idle == (page.num_owners == 0), "a page is neither idle nor held"
        for page in held:
            assert page is None or page.num_owners == 1

    def close(self) -> None:
        """Let go of the model."""
        self.llama.close()


Act = Callable[[], object]
Check = Callable[[], None]
Scene = Callable[[World], "tuple[Act, Check]"]
"""Gives what is interrupted, and what must hold afterwards."""


def generating(world: World) -> tuple[Act, Check]:
    """A prompt over several pages in a session of its own."""
    session = world.llama.session()

    def check() -> None:
        world.check_text(session, LONG + "a")
        session.close()

    return lambda: session.generate(LONG, **GREEDY), check


def going_on(world: World) -> tuple[Act, Check]:
    """A text of a session that holds the beginning of its prompt and something else."""
    session = world.llama.session()
    session.generate(LONG[:200] + "something else", **GREEDY)

    def check() -> None:
        world.check_text(session, LONG)
        session.close()

    return lambda: session.generate(LONG, **GREEDY), check


def of_its_own(world: World) -> tuple[Act, Check]:
    """A text without a session that anybody knows."""
    return lambda: world.llama.generate(LONG, **GREEDY), lambda: None


def guessed(world: World) -> tuple[Act, Check]:
    """A text whose tokens are guessed."""
    session = world.llama.session()
    options: Any = {"temperature": 0, "max_tokens": 16, "speculation": True}

    def check() -> None:
        world.check_text(session, LONG + "a")
        session.close()

    return lambda: session.generate(LONG, **options), check


def streaming(world: World) -> tuple[Act, Check]:
    """A stream that is iterated, left and cancelled."""
    session = world.llama.session()

    def act() -> None:
        with session.stream("short", temperature=0, max_tokens=8) as stream:
            for number, _ in enumerate(stream):
                if number == 2:
                    break
        stream = session.stream("short", temperature=0, max_tokens=8)
        next(stream)
        stream.cancel()
        for _ in stream:
            pass

    def check() -> None:
        world.check_text(session, LONG)
        session.close()

    return act, check


def dropping(world: World) -> tuple[Act, Check]:
    """A stream that nobody refers to any more, and its session."""

    def act() -> None:
        next(world.llama.stream("short", temperature=0, max_tokens=8))

    return act, lambda: None


def closing(world: World) -> tuple[Act, Check]:
    """A session that is closed while a stream of it runs."""
    session = world.llama.session()
    stream = session.stream(LONG, temperature=0, max_tokens=8)
    next(stream)

    def check() -> None:
        session.close()
        assert stream.ended

    return session.close, check


def forking(world: World) -> tuple[Act, Check]:
    """A fork, which goes on otherwise."""

    def act() -> None:
        with world.other.fork() as fork:
            fork.generate(LONG + "a", **GREEDY)

    return act, lambda: None


def saving(world: World) -> tuple[Act, Check]:
    """A session that is written to a file, which is there whole or not at all."""
    path = world.folder / "other.session"
    path.unlink(missing_ok=True)

    def check() -> None:
        if path.exists():
            with world.llama.load_session(path, verify=True) as session:
                world.check_text(session, LONG)
        assert not [*world.folder.glob(".*")], "a partial file is left"

    return lambda: world.other.save(path), check


def loading(world: World) -> tuple[Act, Check]:
    """A session that comes from a file."""

    def act() -> None:
        with world.llama.load_session(world.saved) as session:
            session.generate(LONG, **GREEDY)

    return act, lambda: None


def batching(world: World) -> tuple[Act, Check]:
    """Several texts at once."""
    prompts = [LONG, "short", LONG + "a"]

    def act() -> None:
        for result in world.llama.generate_batch(prompts, width=2, **GREEDY):
            assert result.tokens == world.expected[prompts[result.index]]

    return act, lambda: None


def adapting(world: World) -> tuple[Act, Check]:
    """An adapter that is loaded, used and unloaded."""
    llama = world.llama

    def act() -> None:
        adapter = llama.load_adapter(world.adapter_path, "two")
        llama.generate("short", adapters={adapter: 0.5}, **GREEDY)
        llama.unload_adapter(adapter)

    def check() -> None:
        if "two" in llama.adapters:
            llama.unload_adapter("two")
        llama.load_adapter(world.adapter_path, "two")
        llama.unload_adapter("two")

    return act, check


def opening(world: World) -> tuple[Act, Check]:
    """A model that is opened, used and closed."""
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    found: list[Llama] = []

    def act() -> None:
        found.append(Llama(world.path, num_threads=2, exact=True))
        world.check_text(found[0], "short")
        found[0].close()

    def check() -> None:
        for llama in found:
            llama.close()
        found.clear()
        until = time.monotonic() + 2.0
        while (
            len(os.listdir("/proc/self/task")) > threads or len(os.listdir("/proc/self/fd")) > files
        ) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        assert len(os.listdir("/proc/self/task")) <= threads, "a thread is left"
        assert len(os.listdir("/proc/self/fd")) <= files, "a file is left open"

    return act, check


def changing(world: World) -> tuple[Act, Check]:
    """A model that is unloaded, has other threads, and a hook that comes and goes."""
    llama = world.llama

    def act() -> None:
        llama.unload()
        world.check_text(llama, "short")
        llama.num_threads = 2
        llama.num_threads = 1
        llama.cache_limit = 0
        llama.cache_limit = 200_000
        llama.remove_hook(llama.add_hook(lambda rows, step: None))

    def check() -> None:
        llama._engine.hooks = ()
        llama.num_threads, llama.cache_limit = 1, 200_000
        world.check_text(world.other, LONG)
        assert llama.add_hook(lambda rows, step: None) is not None
        llama._engine.hooks = ()

    return act, check


def chatting(world: World) -> tuple[Act, Check]:
    """A conversation, which is forked and taken back."""

    def act() -> None:
        with world.llama.chat("Be brief.", **GREEDY) as chat:
            chat.send("hello")
            chat.send("and more")
            chat.undo()
            with chat.fork() as fork:
                fork.send("again")

    return act, lambda: None


def judging(world: World) -> tuple[Act, Check]:
    """Vectors and scores of texts."""

    def act() -> None:
        world.llama.embed(["one", "two and more", LONG])
        world.llama.score("short and more")

    return act, lambda: None


def queueing(world: World) -> tuple[Act, Check]:
    """Texts that wait for their turn."""
    world.llama.max_concurrent = 1

    def check() -> None:
        world.check_text(world.llama, "short")
        world.llama.max_concurrent = None

    return lambda: world.llama.generate("short", timeout=60, **GREEDY), check


SCENES: tuple[Scene, ...] = (
    generating, going_on, of_its_own, guessed, streaming, dropping, closing, forking, saving,
    loading, batching, adapting, opening, changing, chatting, judging, queueing,
)  # fmt: skip


@dataclass
class Interrupted:
    """One scene, interrupted at some places; ``failures`` by where the signals were handled."""

    scene: Scene
    make_world: Callable[[], World]
    helper: ThreadPoolExecutor
    has_neighbour: bool

    def __post_init__(self) -> None:
        self.world = self.make_world()
        self.signals = SignalPlaces()
        self.failures: dict[str, str] = {}
        self.num_done = self.num_interrupted = 0
        self._ignored: list[str] = []

    def num_places(self) -> int:
        """How many places the scene passes."""
        for _ in range(2):
            act, check = self.scene(self.world)
            self.signals.is_interrupted(act, ())
            self._in_time(check)
            self._in_time(self.world.check)
        return self.signals.num_passed

    def interrupt(self, places: tuple[int, ...]) -> None:
        """Let signals come, and look at what is left."""
        self.num_done += 1
        self._ignored.clear()
        sys.unraisablehook = self._note_ignored
        world = self.world
        act, check = self.scene(world)
        beside = None
        if self.has_neighbour:
            beside = self.helper.submit(world.check_text, world.other, LONG)
        error = ""
        try:
            is_interrupted = self.signals.is_interrupted(act, places)
            self.num_interrupted += is_interrupted
            if self.signals.landed and not is_interrupted:
                error = "the signal is lost"
        except BaseException as raised:
            error = f"another error: {raised!r}"
        del act
        try:
            if beside is not None:
                beside.result(PATIENCE_S)
            self._in_time(check)
            del check
            self._in_time(world.check)
        except (TimeoutError, Exception) as raised:
            error += f" {type(raised).__name__}: {raised}"
            if isinstance(raised, TimeoutError):
                print(f"stuck after {self.signals.landed}", flush=True)
                faulthandler.dump_traceback()
                os._exit(1)
        finally:
            sys.unraisablehook = sys.__unraisablehook__
        if self._ignored:
            error += f" ignored: {self._ignored}"
        if error:
            where = " and ".join(self.signals.landed)
            if where not in self.failures:
                print(f"FAIL {self.scene.__name__} at {places}: {where}: {error}", flush=True)
            self.failures[where] = error
            self.world = self.make_world()

    def _in_time(self, check: Check) -> None:
        self.helper.submit(check).result(PATIENCE_S)

    def _note_ignored(self, ignored: Any) -> None:
        self._ignored.append(f"{ignored.exc_value!r} in {ignored.object!r}")


def chosen_places(num_places: int, draw: random.Random) -> Iterator[tuple[int, ...]]:
    """Every place once, then each again with a second signal."""
    places = [*range(1, num_places + 1)]
    draw.shuffle(places)
    yield from ((place,) for place in places)
    yield from ((place, draw.randint(1, SECOND_WITHIN)) for place in places)


def interrupt_places(path: Path, seconds: float, seed: int) -> None:
    """AssertionError if anything is not as it was before a signal came."""
    draw = random.Random(seed)
    names = os.environ.get("SCENES", "").split()
    scenes = [scene for scene in SCENES if not names or scene.__name__ in names]
    num_failures = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as helper:
        folder = Path(name)
        write_gguf_adapter(folder / "one.gguf", random_gguf_factors(MODEL, 4, seed=1))
        models = [
            write_tiny_llama(folder / f"{number}.gguf", model)
            for number, model in enumerate((MODEL, WINDOW))
        ]
        gc.freeze()
        for number, scene in enumerate(scenes):
            started, until = time.monotonic(), time.monotonic() + seconds / len(scenes)
            model, num_threads = draw.choice(models), draw.choice((1, 2))
            one = Interrupted(
                scene, lambda: World(model, folder, num_threads), helper, draw.random() < 0.5
            )
            num_places = one.num_places()
            for places in chosen_places(num_places, draw):
                if time.monotonic() >= until:
                    break
                one.interrupt(places)
            print(
                f"{scene.__name__}: {num_places} places, {one.num_interrupted} of {one.num_done} "
                f"interrupted, {len(one.failures)} wrong, {time.monotonic() - started:.1f} s",
                flush=True,
            )
            num_failures += len(one.failures)
            one.world.close()
    assert not num_failures, f"{num_failures} places leave something wrong"
