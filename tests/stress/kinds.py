"""Texts of every kind share steps: with adapters, guesses, a sliding window, as vectors or scores,
while hooks that only look come and go, limits change and the model is unloaded.

All that is computed is what it is alone, bit for bit; at the end no page is held.
"""

from __future__ import annotations

import dataclasses
import gc
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import EdgellamaError, GenerationCancelled, Llama
from stress.at_once import at_once

NUM_THREADS = 6
NUM_TOKENS = 16
MODEL = TinyLlama(
    width=64,
    layers=3,
    context_length=2048,
    weight_format="Q8_0",
    sliding_window=200,
    vocab_size=300,
)
BEGINNINGS = ("a" * 140, "once upon a time, once upon a time, once upon ", "b" * 530, "")
SCALES: tuple[Mapping[str, float], ...] = ({}, {"one": 0.8}, {"one": 0.5, "two": 1.0})
Run = Callable[[Llama, str, Mapping[str, float]], Any]


def text(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """The likeliest tokens."""
    result = llama.generate(prompt, max_tokens=NUM_TOKENS, temperature=0, adapters=scales)
    return result.tokens


def sampled(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """Sampled ones, with the probabilities of each."""
    options: dict[str, Any] = {"seed": len(prompt), "temperature": 1.0, "logprobs": 2}
    with llama.session(adapters=scales) as session:
        result = session.generate(prompt, max_tokens=NUM_TOKENS, **options)
    assert result.logprobs is not None
    return result.tokens, [each.logprob for each in result.logprobs]


def score(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """How probable each token of the prompt is."""
    return llama.score(prompt + "!", adapters=scales).logprob


def vectors(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """Three texts as vectors, computed together; states are summed up step by step."""
    return llama.embed([prompt + "!", prompt[:20] + "?", "alone"]).round(3).tolist()


def forked(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """Two forks of a session whose adapters change, and go back."""
    with llama.session(adapters=scales) as session:
        session.generate(prompt, max_tokens=3, temperature=0)
        with session.fork() as fork:
            other = fork.generate(
                prompt[:60] + "x", max_tokens=4, temperature=0, adapters=SCALES[1]
            )
            own = fork.generate(prompt, max_tokens=NUM_TOKENS, temperature=0)
        return other.tokens, own.tokens


def batch(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """Prompts with adapters of their own, a few at a time."""
    prompts: list[Any] = [
        {"prompt": prompt + str(number), "adapters": SCALES[number % 3], "max_tokens": 3 + number}
        for number in range(7)
    ]
    results = llama.generate_batch(prompts, temperature=0, width=4)
    return sorted((result.index, result.tokens) for result in results)


def saved(llama: Llama, prompt: str, scales: Mapping[str, float]) -> Any:
    """What a saved session says once it is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.session"
        with llama.session(adapters=scales) as session:
            session.generate(prompt, max_tokens=2, temperature=0)
            session.save(path)
        try:
            loaded = llama.load_session(path, adapters=scales)
        except EdgellamaError as error:
            # A hook that came or went in between makes it another model's.
            assert "hooks" in str(error), error
            return None
        with loaded:
            return loaded.generate(prompt + " and", max_tokens=NUM_TOKENS, temperature=0).tokens


RUNS: tuple[Run, ...] = (text, sampled, score, vectors, forked, batch, saved)


def disturb(llama: Llama, rng: random.Random) -> None:
    """Something that must change no text."""
    choice = rng.randrange(8)
    if choice == 0:
        hook = llama.add_hook(lambda rows, step: None, rng.choice(["residual", "logits"]))
        time.sleep(0.02 * rng.random())
        llama.remove_hook(hook)
    elif choice == 1:
        llama.cache_limit = rng.choice([0, 100_000, 5_000_000])
    elif choice == 2:
        llama.unload()
    elif choice == 3:
        llama.num_threads = rng.choice([1, 2, 3])
    else:
        cut_short(llama, rng)


def cut_short(llama: Llama, rng: random.Random) -> None:
    """A text or a batch that is cancelled, left, or out of time."""
    prompt = rng.choice(BEGINNINGS) + str(rng.randrange(100))
    stream = llama.stream(prompt, max_tokens=NUM_TOKENS, timeout=rng.choice([None, 0.005]))
    for _ in range(rng.randrange(3)):
        next(stream, None)
    rng.choice([stream.cancel, stream.close, lambda: None])()
    results = llama.generate_batch([prompt] * 9, max_tokens=NUM_TOKENS, width=5)
    for _ in range(rng.randrange(3)):
        next(results, None)
    rng.choice([results.cancel, results.close, lambda: None])()
    try:
        next(results, None)
    except GenerationCancelled:
        pass
    finally:
        results.close()


def kinds(path: Path, seconds: float, seed: int) -> None:
    """AssertionError for anything that is not as it is alone, or for a page that is held.

    The model is one of its own, with a window.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_tiny_llama(folder / "window.gguf", dataclasses.replace(MODEL, seed=seed))
        options: dict[str, Any] = {"num_threads": 2, "exact": True, "cache_limit": 5_000_000}
        with Llama(model, speculation=False, **options) as llama:
            load_adapters(llama, folder)
            prompts = [f"{start}{number} ends" for start in BEGINNINGS for number in range(3)]
            expected = {
                (run, prompt, number): run(llama, prompt, scales)
                for run in RUNS
                for prompt in prompts
                for number, scales in enumerate(SCALES)
            }
        for speculation in (False, True):
            with Llama(model, speculation=speculation, **options) as llama:
                load_adapters(llama, folder)
                count = hammer(llama, expected, seconds / 2, seed)
                gc.collect()
                pool = llama._engine.pool()
                print(f"{count} rounds, {pool.num_owned} pages held")
                assert pool.num_owned == 0
                assert pool.idle_bytes <= pool.limit_bytes


def load_adapters(llama: Llama, folder: Path) -> None:
    """Two adapters of different ranks."""
    for rank, name in ((4, "one"), (7, "two")):
        factors = random_gguf_factors(MODEL, rank, seed=rank)
        llama.load_adapter(write_gguf_adapter(folder / f"{name}.gguf", factors))


def hammer(llama: Llama, expected: dict[Any, Any], seconds: float, seed: int) -> int:
    """All threads at once for some seconds; how much they did. The first error is raised."""
    until = time.monotonic() + seconds
    rngs = [random.Random(1000 * seed + number) for number in range(NUM_THREADS)]
    keys = list(expected)

    def act(thread: int, _: int) -> bool:
        if time.monotonic() >= until:
            return False
        rng = rngs[thread]
        if thread == 0 and rng.random() < 0.7:
            disturb(llama, rng)
            return True
        run, prompt, number = key = rng.choice(keys)
        found = run(llama, prompt, SCALES[number])
        if run is saved and found is None:
            return True
        assert found == expected[key], f"{run.__name__} of {prompt!r} with {SCALES[number]} differs"
        return True

    return at_once(NUM_THREADS, act)
