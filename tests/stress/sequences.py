"""Eight threads start, stop, fork, save, load and batch texts under a small limit of memory.

Every text must be the one that its prompt has alone, bit for bit; at the end no page is held, and
memory is what it was.
"""

from __future__ import annotations

import gc
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgellama import Llama
from stress import held
from stress.at_once import at_once

NUM_THREADS = 8
NUM_TOKENS = 12
LIMITS = (0, 200_000, 2_000_000)
MAX_GROWTH_BYTES = 8_000_000
BEGINNINGS = ("a" * 140, "b" * 300, "once upon a time ", "")


class Texts:
    """Prompts with common beginnings, and the tokens that follow each of them alone."""

    def __init__(self, llama: Llama) -> None:
        self.prompts = [f"{start}{number} ends" for start in BEGINNINGS for number in range(6)]
        self.expected = {prompt: generated(llama, prompt) for prompt in self.prompts}
        self.longer = {
            prompt: generated(llama, prompt + " and more") for prompt in self.prompts[::3]
        }

    def check(self, prompt: str, tokens: tuple[int, ...]) -> None:
        """AssertionError if other tokens follow a prompt than do alone."""
        assert tokens == self.expected[prompt], f"another text follows {prompt!r}"


def generated(llama: Llama, prompt: str) -> tuple[int, ...]:
    """The likeliest tokens after a prompt."""
    return llama.generate(prompt, max_tokens=NUM_TOKENS, temperature=0).tokens


def one_text(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """A text of its own."""
    prompt = rng.choice(texts.prompts)
    texts.check(prompt, generated(llama, prompt))


def cancelled(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """A stream that is left, cancelled or closed in the middle; what came first is right."""
    prompt = rng.choice(texts.prompts)
    session = llama.session()
    stream = session.stream(prompt, max_tokens=NUM_TOKENS, temperature=0)
    for _ in range(rng.randrange(4)):
        next(stream, None)
    rng.choice([stream.cancel, stream.close, session.close, lambda: None])()
    tokens = tuple(chunk.token for chunk in stream if chunk.token is not None)
    assert len(tokens) <= NUM_TOKENS
    session.close()


def forked(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """Forks of a session that has read a prompt, each with the same text."""
    prompt = rng.choice(texts.prompts)
    with llama.session() as session:
        texts.check(prompt, session.generate(prompt, max_tokens=NUM_TOKENS, temperature=0).tokens)
        forks = [session.fork() for _ in range(rng.randrange(1, 4))]
        for fork in forks:
            tokens = fork.generate(prompt, max_tokens=NUM_TOKENS, temperature=0).tokens
            texts.check(prompt, tokens)
            if rng.random() < 0.7:
                fork.close()


def saved(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """A session that is saved, loaded by this thread or found by another, and goes on."""
    prompt = rng.choice(list(texts.longer))
    path = folder / f"{threading.get_ident()}.session"
    with llama.session() as session:
        session.generate(prompt, max_tokens=2, temperature=0)
        session.save(path)
    with llama.load_session(path) as session:
        longer = session.generate(prompt + " and more", max_tokens=NUM_TOKENS, temperature=0)
        assert longer.tokens == texts.longer[prompt], f"another text follows {prompt!r}"


def together(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """A batch, sometimes left early."""
    prompts = rng.choices(texts.prompts, k=rng.randrange(1, 9))
    results = llama.generate_batch(
        prompts, max_tokens=NUM_TOKENS, temperature=0, width=rng.randrange(1, 6)
    )
    for number, result in enumerate(results):
        texts.check(prompts[result.index], result.tokens)
        if number > 2 and rng.random() < 0.2:
            break


def evicted(llama: Llama, texts: Texts, rng: random.Random, folder: Path) -> None:
    """Another limit for what earlier texts may take."""
    llama.cache_limit = rng.choice(LIMITS)


ACTIONS: tuple[Callable[[Llama, Texts, random.Random, Path], None], ...] = (
    *(one_text, cancelled, forked, saved, together, evicted),
)


def sequences(path: Path, seconds: float, seed: int) -> None:
    """AssertionError for a wrong text, a page that is held, or memory that has grown."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Llama(path, num_threads=2, exact=True, cache_limit=LIMITS[-1]) as llama,
    ):
        texts = Texts(llama)
        hammer(llama, texts, min(seconds, 2.0), seed, Path(folder))
        gc.collect()
        resident = held.resident_bytes()
        count = hammer(llama, texts, seconds, seed + 1, Path(folder))
        gc.collect()
        pool = llama._engine.pool()
        growth = held.resident_bytes() - resident
        print(f"{count} actions, {growth} bytes more, {pool.num_owned} pages held")
        assert pool.num_owned == 0
        assert pool.idle_bytes <= pool.limit_bytes
        assert growth < MAX_GROWTH_BYTES


def hammer(llama: Llama, texts: Texts, seconds: float, seed: int, folder: Path) -> int:
    """All threads at once for some seconds; how much they did. The first error is raised."""
    until = time.monotonic() + seconds
    rngs = [random.Random(1000 * seed + number) for number in range(NUM_THREADS)]

    def act(thread: int, _: int) -> bool:
        if time.monotonic() >= until:
            return False
        rngs[thread].choice(ACTIONS)(llama, texts, rngs[thread], folder)
        return True

    return at_once(NUM_THREADS, act)
