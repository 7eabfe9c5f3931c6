"""What applications do with one model: chats that overflow, fork and are cancelled, event loops,
a model that is unloaded or gets other threads in the middle of it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgellama import Conversation, Llama, Stream
from edgellama.text.chat_template import load_chat_template
from stress import held
from stress.at_once import at_once

CONTEXT_LENGTH = 160
"""So little that every conversation runs over it."""
NUM_TOKENS = 10
NUM_SCRIPTS, NUM_CONVERSATIONS, NUM_THREADS = 12, 200, 4
MAX_GROWTH_BYTES = 8_000_000
PROMPTS = [f"{number} once upon a time" for number in range(8)]
COLOURS = ("red", "green", "blue")
Step = tuple[str, str]
"""What is done, and what is said."""


def script(number: int) -> Sequence[Step]:
    """What one conversation does; always the same for its number."""
    rng = random.Random(number)
    kinds = ("send", "send", "choose", "cut", "again", "undo", "fork", "preload")
    return [
        (rng.choice(kinds), f"word {rng.randrange(100)} " * rng.randrange(1, 5)) for _ in range(8)
    ]


def conversed(llama: Llama, number: int) -> list[str]:
    """Run a script to its end; all that was replied."""
    template = load_chat_template(llama.metadata, llama.tokenizer)
    assert template is not None
    session = llama.session(context_length=CONTEXT_LENGTH)
    options = {"max_tokens": NUM_TOKENS, "temperature": 0}
    chat = Conversation(session, llama.tokenizer, template, system=f"S{number}", **options)  # type: ignore[arg-type]
    said: list[str] = []
    try:
        for kind, text in script(number):
            chat = step(chat, kind, text, said)
    finally:
        chat.close()
    return said


def step(chat: Conversation, kind: str, text: str, said: list[str]) -> Conversation:
    """Do one thing, and note what was replied; the conversation to go on with."""
    if kind == "preload":
        preload = chat.preload_prompt(text)
        thread = threading.Thread(target=lambda: run_quietly(preload))
        thread.start()
        said.append(chat.send(text).text)
        thread.join()
    elif kind == "choose":
        said.append(chat.send(text, choices=COLOURS, max_tokens=None).text)
        assert said[-1] in COLOURS
    elif kind == "cut":
        with chat.stream(text) as stream:
            said.extend(next(stream).text for _ in range(3))
    elif kind == "fork":
        fork = chat.fork()
        said.append(chat.send(text).text)
        chat.close()
        return fork
    elif kind == "again" and chat.messages[1:]:
        said.append(chat.regenerate().wait().text)
    elif kind == "undo" and chat.messages[1:]:
        chat.undo()
    else:
        said.append(chat.send(text).text)
    return chat


def run_quietly(stream: Stream) -> None:
    """Run a stream that another thread may end first."""
    with contextlib.suppress(StopIteration):
        stream.wait()


def awaited(llama: Llama, prompts: Sequence[str], rng: random.Random) -> dict[str, tuple[int, ...]]:
    """Texts in an event loop, some cancelled; the tokens of those that came to their end."""
    found: dict[str, tuple[int, ...]] = {}

    async def one(prompt: str) -> None:
        text = llama.generate_async(prompt, max_tokens=NUM_TOKENS, temperature=0)
        with contextlib.suppress(asyncio.TimeoutError):
            found[prompt] = (await asyncio.wait_for(text, rng.choice((0.002, 0.01, 30)))).tokens

    async def main() -> None:
        tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
        await asyncio.sleep(rng.random() / 100)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    return found


def disturbed(llama: Llama, rng: random.Random) -> None:
    """Let the model lose its memory, or have other threads, or let only a few texts run."""
    rng.choice(DISTURBANCES)(llama, rng)


def _resize(llama: Llama, rng: random.Random) -> None:
    llama.num_threads = rng.randrange(1, 4)


def _give_way(llama: Llama, rng: random.Random) -> None:
    llama.low_priority = rng.random() < 0.5


def _limit(llama: Llama, rng: random.Random) -> None:
    llama.max_concurrent = rng.choice((None, 2, 5))


DISTURBANCES: tuple[Callable[[Llama, random.Random], None], ...] = (
    *(lambda llama, rng: llama.unload(), _resize, _give_way, _limit),
)


def soak(path: Path, seconds: float, seed: int) -> None:
    """200 conversations in several threads and loops: each says what it says alone.

    Memory, threads and files are what they were.
    """
    with Llama(path, num_threads=2, exact=True, cache_limit=2_000_000) as llama:
        expected = [conversed(llama, number) for number in range(NUM_SCRIPTS)]
        assert len({str(said) for said in expected}) > NUM_SCRIPTS // 2
        alone = {prompt: generated(llama, prompt) for prompt in PROMPTS}
        converse(llama, expected, alone, NUM_CONVERSATIONS // 4, seed)
        rested(llama)
        resident, threads, files = held.resident_bytes(), held.num_threads(), held.num_files()
        converse(llama, expected, alone, NUM_CONVERSATIONS, seed + 1)
        rested(llama)
        held.check_back(held.num_threads, threads)
        held.check_back(held.num_files, files)
        growth = held.resident_bytes() - resident
        print(f"{NUM_CONVERSATIONS} conversations, {growth} bytes more")
        assert growth < MAX_GROWTH_BYTES


def rested(llama: Llama) -> None:
    """Leave the model as it was at first, with nothing held."""
    llama.num_threads, llama.low_priority, llama.max_concurrent = 2, False, None
    gc.collect()
    assert llama._engine.pool().num_owned == 0
    generated(llama, PROMPTS[0])
    gc.collect()


def generated(llama: Llama, prompt: str) -> tuple[int, ...]:
    """The likeliest tokens after a prompt."""
    return llama.generate(prompt, max_tokens=NUM_TOKENS, temperature=0).tokens


def converse(
    llama: Llama,
    expected: Sequence[list[str]],
    alone: Mapping[str, tuple[int, ...]],
    count: int,
    seed: int,
) -> None:
    """Have so many conversations in all threads; the first error is raised."""
    rngs = [random.Random(1000 * seed + thread) for thread in range(NUM_THREADS)]

    def talk(thread: int, num_done: int) -> bool:
        if num_done == count // NUM_THREADS:
            return False
        rng = rngs[thread]
        number = rng.randrange(NUM_SCRIPTS)
        assert conversed(llama, number) == expected[number], f"script {number}"
        for prompt, tokens in awaited(llama, rng.sample(PROMPTS, 3), rng).items():
            assert tokens == alone[prompt], prompt
        disturbed(llama, rng)
        return True

    at_once(NUM_THREADS, talk)
