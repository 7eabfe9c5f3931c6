"""Minutes of mixed load on a server: nobody gets another's answer, and memory stays flat.

Every question is asked alone first. Then users ask all kinds by chance, whole and as streams, in
three protocols, with tools and schemas, wrong ones too, and some leave in the middle; each answer
must be the one that the question had alone. Linux only, for memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

NUM_TOKENS = 24
SAMPLE_S = 2.0
TALK = [f"{number} {word}: tell me more" for number, word in enumerate("abcdefgh")]
LONG = [" ".join(f"{number + place % 7}" for place in range(40 * number)) for number in (3, 5, 8)]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo", "Lima"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


@dataclass(frozen=True)
class Question:
    """A request, how the text that its answer says is read, and whether it comes as a stream."""

    kind: str
    path: str
    body: Any
    read: Callable[[Any], str]
    is_stream: bool = False
    is_wrong: bool = False


def _openai(content: Any) -> str:
    choice = content["choices"][0]
    said = choice.get("delta") or choice.get("message") or {}
    calls = said.get("tool_calls") or []
    return (said.get("content") or "") + "".join(each["function"]["arguments"] for each in calls)


def _ollama(content: Any) -> str:
    return str(content["message"]["content"])


def _anthropic(content: Any) -> str:
    if "content" in content:
        return "".join(block.get("text", "") for block in content["content"])
    return str(content.get("delta", {}).get("text", ""))


def _vector(content: Any) -> str:
    return " ".join(f"{number:.2e}" for number in content["data"][0]["embedding"][:8])


def _whole(content: Any) -> str:
    return json.dumps(content)


def questions() -> list[Question]:
    """All kinds, each a few times."""
    greedy: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    found = []
    for text in (*TALK, *LONG):
        asked = {"messages": [{"role": "user", "content": text}]}
        chat = {**asked, **greedy}
        for is_stream in (False, True):
            body = {**chat, "stream": is_stream}
            found.append(Question("chat", "/v1/chat/completions", body, _openai, is_stream))
            found.append(Question("messages", "/v1/messages", body, _anthropic, is_stream))
            options = {"num_predict": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
            ollama = {**asked, "model": "", "options": options, "stream": is_stream}
            found.append(Question("ollama", "/api/chat", ollama, _ollama, is_stream))
            called = {**asked, "tools": [TOOL], "tool_choice": "required", "temperature": 0}
            called |= {"parallel_tool_calls": False, "stream": is_stream}
            found.append(Question("tools", "/v1/chat/completions", called, _openai, is_stream))
            form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": CITY}}
            formed = {**asked, "response_format": form, "temperature": 0, "stream": is_stream}
            found.append(Question("schema", "/v1/chat/completions", formed, _openai, is_stream))
        found.append(Question("embedding", "/v1/embeddings", {"input": text}, _vector))
        found.append(Question("tokens", "/tokenize", {"content": text}, _whole))
    wrong: tuple[tuple[str, Any], ...] = (
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x " * 9000}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}),
        ("/api/chat", {"model": "../x", "messages": []}),
        ("/v1/embeddings", {"input": [1, 2, 3]}),
        ("/v1/nothing", {}),
    )
    return found + [Question("wrong", path, body, _whole, is_wrong=True) for path, body in wrong]


async def ask(client: httpx.AsyncClient, question: Question, leave_after: int | None = None) -> str:
    """What a question is answered; a user who leaves reads a stream's first pieces alone."""
    if not question.is_stream:
        answer = await client.post(question.path, json=question.body)
        if (answer.status_code != 200) != question.is_wrong:
            return f"status {answer.status_code}: {answer.text}"
        return question.read(answer.json())
    pieces: list[str] = []
    async with client.stream("POST", question.path, json=question.body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith(("data: {", "{")):
                pieces.append(question.read(json.loads(line.removeprefix("data: "))))
            if leave_after is not None and len(pieces) > leave_after:
                break
    return "".join(pieces)


@dataclass
class Load:
    """What users have seen so far."""

    expected: dict[int, str]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def note(self, question: Question, number: int, found: str, has_left: bool) -> None:
        """Compare an answer with that which the question had alone."""
        alone = self.expected[number]
        is_right = alone.startswith(found) if has_left else found == alone
        self.counts["left" if has_left else question.kind] += 1
        if not is_right:
            self.counts["WRONG"] += 1
            self.wrong.append(f"{question.kind}: {found[:200]!r} instead of {alone[:200]!r}")


async def mixed_load(client: httpx.AsyncClient, pid: int, minutes: float, num_users: int) -> Load:
    """Users for so many minutes, after each question was asked alone."""
    asked = questions()
    load = Load({number: await ask(client, each) for number, each in enumerate(asked)})
    until = time.monotonic() + 60 * minutes

    async def user(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until:
            number = chance.randrange(len(asked))
            question = asked[number]
            leaves = question.is_stream and chance.random() < 0.25
            found = await ask(client, question, chance.randrange(8) if leaves else None)
            load.note(question, number, found, leaves)

    async def watch() -> None:
        while time.monotonic() < until:
            load.memory_mb.append(resident_mb(pid))
            await asyncio.sleep(SAMPLE_S)

    await asyncio.gather(watch(), *(user(seed) for seed in range(num_users)))
    return load


def report(load: Load) -> dict[str, Any]:
    """Counts, and the medians of memory in the second and in the last quarter of the time."""
    quarter = max(1, len(load.memory_mb) // 4)
    before, after = (
        _middle(load.memory_mb[quarter:][:quarter]),
        _middle(load.memory_mb[-quarter:]),
    )
    return {
        **load.counts,
        "WRONG": load.counts["WRONG"],
        "memory_mb": (round(before, 1), round(after, 1)),
        "most_mb": round(max(load.memory_mb), 1),
        "examples": load.wrong[:3],
    }


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def _middle(numbers: Sequence[float]) -> float:
    return median(numbers) if numbers else 0.0
