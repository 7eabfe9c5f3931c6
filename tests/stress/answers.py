"""Answers in many forms, by tools, schemas and choices, cut and overflowing, in several threads.

What each script of turns says alone is what it says among the others, bit for bit; at the end no
page is held, and memory is what it was.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from edgellama import Conversation, Generation, Llama
from stress import held
from stress.at_once import at_once

NUM_THREADS = 6
NUM_SCRIPTS = 24
MAX_TURNS = 4
MAX_TOKENS = 24
CONTEXT_LENGTH = 700
"""Short enough that long conversations leave their oldest turns out."""
MAX_GROWTH_BYTES = 12_000_000
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
Turn: TypeAlias = Callable[[Conversation, str], Any]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def plain(chat: Conversation, text: str) -> Any:
    """A reply."""
    return outcome(chat.send(text))


def shaped(chat: Conversation, text: str) -> Any:
    """A reply that follows a schema, or is cut."""
    reply = chat.send(text, schema=SCHEMA, max_tokens=60)
    assert (reply.parsed is not None) == (reply.finish_reason == "stop"), reply
    return outcome(reply), reply.parsed


def chosen(chat: Conversation, text: str) -> Any:
    """One of some words."""
    reply = chat.send(text, choices=["red", "green", "blue and more"])
    assert reply.text in ("red", "green", "blue and more")
    return outcome(reply)


def called(chat: Conversation, text: str) -> Any:
    """A reply that must call a tool, and is told what came of it."""
    reply = chat.send(text, tools=[add], tool_choice="required", max_tokens=80)
    calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
    if reply.finish_reason == "tool_calls":
        assert all(name == "add" and {"a", "b"} <= arguments.keys() for name, arguments in calls)
    return outcome(reply), calls


def cut(chat: Conversation, text: str) -> Any:
    """A reply that is cancelled after its third chunk, and taken back."""
    with chat.stream(text) as stream:
        pieces = [chunk.text for _, chunk in zip(range(3), stream, strict=False)]
        stream.cancel()
    chat.undo()
    return pieces


def long(chat: Conversation, text: str) -> Any:
    """A message that takes much of the context."""
    return outcome(chat.send(f"{text} " + "and more " * 30))


def seeded(chat: Conversation, text: str) -> Any:
    """A reply that is drawn, with a seed, and may be drafted."""
    return outcome(chat.send(text, temperature=0.9, seed=len(text), top_k=30))


TURNS: tuple[Turn, ...] = (plain, shaped, chosen, called, cut, long, seeded)


def outcome(reply: Generation) -> tuple[str, str]:
    """What must be the same in every run."""
    return reply.text, reply.finish_reason


def said(llama: Llama, script: Sequence[tuple[Turn, str]]) -> list[Any]:
    """All that comes of a script of turns."""
    with llama.chat("Be brief.", temperature=0, max_tokens=MAX_TOKENS) as chat:
        return [turn(chat, text) for turn, text in script]


def answers(path: Path, seconds: float, seed: int) -> None:
    """AssertionError for another reply than alone, a page that is held, or grown memory."""
    rng = random.Random(seed)
    scripts = [
        [(rng.choice(TURNS), f"turn {rng.randrange(99)}") for _ in range(rng.randint(1, MAX_TURNS))]
        for _ in range(NUM_SCRIPTS)
    ]
    with Llama(
        path, num_threads=2, exact=True, context_length=CONTEXT_LENGTH, cache_limit=1_000_000
    ) as llama:
        expected = [said(llama, script) for script in scripts]
        together(llama, scripts, expected, min(seconds, 2.0), seed)
        gc.collect()
        resident = held.resident_bytes()
        count = together(llama, scripts, expected, seconds, seed + 1)
        gc.collect()
        growth, pool = held.resident_bytes() - resident, llama._engine.pool()
        print(f"{count} conversations, {growth} bytes more, {pool.num_owned} pages held")
        assert pool.num_owned == 0
        assert growth < MAX_GROWTH_BYTES


def together(
    llama: Llama,
    scripts: Sequence[Sequence[tuple[Turn, str]]],
    expected: Sequence[list[Any]],
    seconds: float,
    seed: int,
) -> int:
    """Threads that play scripts for some seconds; how many. The first error is raised."""
    until = time.monotonic() + seconds
    rngs = [random.Random(1000 * seed + number) for number in range(NUM_THREADS)]

    def play(thread: int, _: int) -> bool:
        if time.monotonic() >= until:
            return False
        number = rngs[thread].randrange(len(scripts))
        found = said(llama, scripts[number])
        names = [turn.__name__ for turn, _ in scripts[number]]
        assert found == expected[number], (names, found, expected[number])
        return True

    return at_once(NUM_THREADS, play)
