"""What is interrupted at every place: all that a user calls, with what must hold afterwards."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgellama import Llama, Session
from stress import held

LONG = "once upon a time there was " * 11
"""Three pages."""
NEW = f"new: {LONG}"
GREEDY: Any = {"temperature": 0, "max_tokens": 3}
CACHE_LIMIT = 200_000


class World:
    """A model, and what its texts are while nobody is interrupted."""

    def __init__(self, path: Path, folder: Path, num_threads: int = 1) -> None:
        """``folder`` has the adapter ``one.gguf``."""
        self.path, self.folder, self.adapter_path = path, folder, folder / "one.gguf"
        self.llama = llama = Llama(
            path, num_threads=num_threads, exact=True, cache_limit=CACHE_LIMIT
        )
        llama.load_adapter(self.adapter_path)
        self.saved = folder / "saved.session"
        with llama.session() as session:
            session.generate(LONG, **GREEDY)
            session.save(self.saved)
        self.other = llama.session()
        prompts = (LONG, LONG + "a", NEW, "short")
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
        self.check_text(self.other, LONG + "a")
        self.check_text(self.other, LONG)
        self.check_text(self.llama, "short")
        adapted = self.llama.generate("short", adapters={"one": 1.0}, **GREEDY).tokens
        assert adapted == self.adapted, f"{adapted} follows, not {self.adapted}"
        assert self.llama._engine.scheduler.is_idle, "somebody waits still"
        self._check_pages()

    def _check_pages(self) -> None:
        """Nothing is held but by the other session."""
        pool = self.pool
        if pool.num_owned != self.num_owned or len(self.llama.sessions) > 1:
            gc.collect()
        assert len(self.llama.sessions) == 1, f"{self.llama.sessions} are there"
        assert pool.num_owned == self.num_owned, f"{pool.num_owned} pages held"
        assert pool.idle_bytes <= pool.limit_bytes
        held = {page for page in self.other._cache.pages if page is not None}
        assert all(page.num_owners == 1 for page in held)
        assert all(page.num_owners == (page in held) for page in pool._by_key.values())


Act = Callable[[], object]
Check = Callable[[], None]
Scene = Callable[[World], "tuple[Act, Check]"]
"""Gives what is interrupted, and what must hold afterwards."""


def generating(world: World) -> tuple[Act, Check]:
    """A prompt over several pages, of which nothing is known, in a session of its own."""
    world.pool.clear()
    session = world.llama.session()

    def check() -> None:
        world.check_text(session, NEW)
        world.check_text(session, LONG + "a")
        session.close()

    return lambda: session.generate(NEW, **GREEDY), check


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
    for each in [path, *world.folder.glob(".*.partial")]:
        each.unlink(missing_ok=True)

    def check() -> None:
        if path.exists():
            with world.llama.load_session(path, verify=True) as session:
                world.check_text(session, LONG)
        assert not [*world.folder.glob(".*.partial")], "a part of a file is left"

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
    before = held.num_threads(), held.num_files()
    found: list[Llama] = []

    def act() -> None:
        found.append(Llama(world.path, num_threads=2, exact=True))
        world.check_text(found[0], "short")
        found[0].close()

    def check() -> None:
        for llama in found:
            llama.close()
        found.clear()
        for measure, number in zip((held.num_threads, held.num_files), before, strict=True):
            held.check_back(measure, number)

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
        llama.num_threads, llama.cache_limit = 1, CACHE_LIMIT
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


def answering(world: World) -> tuple[Act, Check]:
    """Replies that keep to a form, one of which calls a function."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def act() -> None:
        with world.llama.chat(temperature=0) as chat:
            chat.send("which?", choices=["red", "green"])
            chat.send("2 + 3", tools=[add], tool_choice="required", max_tokens=30)

    return act, lambda: None


def drafting(world: World) -> tuple[Act, Check]:
    """A text that another model guesses."""
    found: list[Llama] = []

    def act() -> None:
        found.append(Llama(world.path, num_threads=1, exact=True, draft=world.llama))
        world.check_text(found[0], "short")

    def check() -> None:
        for llama in found:
            world.check_text(llama, "short")
            llama.close()

    return act, check


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
    loading, batching, adapting, opening, changing, chatting, answering,
    drafting, judging, queueing,
)  # fmt: skip
