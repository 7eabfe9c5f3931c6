"""The server: a burst, streams together, what HTTP adds, rest, and minutes of mixed load.

``python benchmarks/serve.py MODEL [--peer-python INTERPRETER]``. The peer is the server of
llama-cpp-python, in whose environment INTERPRETER must be. Rounds alternate between what is
compared, and medians are shown. Linux only, for memory and processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import mixed_load
from servers import CONTEXT, client, our_server, peer_server

from edgellama.models.pulling import pull
from edgellama.models.well_known import STARTER_MODEL

CHAT = "/v1/chat/completions"
IDLE_S = 10.0
WORDS = ("red", "green", "blue", "yellow", "black", "white", "grey", "pink", "brown", "violet")


def prompt(number: int, num_words: int) -> str:
    """A text that no other begins like, so that no cache knows it."""
    words = [
        WORDS[(number * 7 + place * 5 + place * place) % len(WORDS)] for place in range(num_words)
    ]
    return f"{number} " + " ".join(words)


def body(text: str, num_tokens: int, *, is_ours: bool, stream: bool) -> dict[str, Any]:
    """A request for a text of that many tokens."""
    messages = [{"role": "user", "content": text}]
    fields: dict[str, Any] = {"messages": messages, "max_tokens": num_tokens, "temperature": 0}
    return {**fields, "stream": stream, **({"ignore_eos": True} if is_ours else {})}


async def burst(url: str, num_clients: int) -> Counter[str]:
    """How the requests of clients that come all at once end."""

    async def one(number: int, connection: httpx.AsyncClient) -> str:
        asked = body(prompt(number, 10), 8, is_ours=True, stream=number % 2 == 0)
        try:
            answer = await connection.post(CHAT, json=asked)
        except httpx.TransportError as error:
            return f"lost ({type(error).__name__})"
        if answer.status_code == 429:
            return "told to come again" if "retry-after" in answer.headers else "lost (429)"
        is_whole = answer.status_code == 200 and (
            answer.text.endswith("data: [DONE]\n\n") or '"choices"' in answer.text
        )
        return "answered" if is_whole else f"lost ({answer.status_code})"

    async with client(url) as connection:
        return Counter(await asyncio.gather(*(one(n, connection) for n in range(num_clients))))


async def streams(
    url: str, num_streams: int, num_tokens: int, first: int, *, is_ours: bool
) -> float:
    """Tokens per second of several streams together."""

    async def one(number: int, connection: httpx.AsyncClient) -> int:
        asked = body(prompt(number, 30), num_tokens, is_ours=is_ours, stream=True)
        count = 0
        async with connection.stream("POST", CHAT, json=asked) as answer:
            async for line in answer.aiter_lines():
                count += '"content":' in line and '"content":""' not in line
        return count

    async with client(url) as connection:
        started = time.perf_counter()
        counts = await asyncio.gather(*(one(first + n, connection) for n in range(num_streams)))
        return sum(counts) / (time.perf_counter() - started)


@dataclass(frozen=True)
class TokenTimes:
    """Seconds to the first token of a text, of each further one, and of the client's own work.

    ``own_s`` is the processor time that the client takes for each further token: on a machine whose
    cores all compute the next one, the text waits for it, whatever the server does.
    """

    first_s: float
    each_s: float
    own_s: float


class TokenClock:
    """Notes when tokens come."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._times: list[float] = []
        self._processor_s: list[float] = []

    def tick(self, num_tokens: int = 1) -> None:
        """Some tokens have come now."""
        self._times += [time.perf_counter()] * num_tokens
        self._processor_s += [time.thread_time()] * num_tokens

    def times(self) -> TokenTimes:
        """What was seen."""
        count, times, own = len(self._times) - 1, self._times, self._processor_s
        first_s = times[0] - self._started
        return TokenTimes(first_s, (times[-1] - times[0]) / count, (own[-1] - own[0]) / count)


def httpx_times(url: str, text: str, num_tokens: int) -> TokenTimes:
    """Times of a stream as a program sees it that reads lines with httpx."""
    asked = body(text, num_tokens, is_ours=True, stream=True)
    with httpx.Client(base_url=url, headers={"authorization": "Bearer k"}, timeout=60) as client:
        client.get("/health")  # The connection is there.
        clock = TokenClock()
        with client.stream("POST", CHAT, json=asked) as answer:
            for line in answer.iter_lines():
                if '"content":' in line and '"content":""' not in line:
                    clock.tick()
    return clock.times()


def socket_times(url: str, text: str, num_tokens: int) -> TokenTimes:
    """The same of a client that does next to nothing: what comes over the socket."""
    asked = json.dumps(body(text, num_tokens, is_ours=True, stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        connection.settimeout(60)
        clock, end = TokenClock(), b""
        connection.sendall(f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked)
        while b"[DONE]" not in end:
            told = connection.recv(65536)
            if not told:
                raise SystemExit("the server ended a stream early")
            end = (end + told)[-32:]
            clock.tick(told.count(b'"content":') - told.count(b'"content":""'))
    return clock.times()


def library_times(llama: Any, text: str, num_tokens: int) -> TokenTimes:
    """The same of the library alone, in this process."""
    clock = TokenClock()
    options: dict[str, Any] = {"max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    with llama.chat(**options) as chat:
        for chunk in chat.stream(text):
            if chunk.text:
                clock.tick()
    return clock.times()


def added_by_http(model: Path, rounds: int, num_tokens: int) -> dict[str, float]:
    """Milliseconds that the server adds to a first token, and to each: medians of differences.

    On the socket, and as httpx sees it, with httpx's own processor time beside that.
    """
    from edgellama import Llama

    seen: list[dict[str, float]] = []
    with our_server(model) as (url, _), Llama(model, context_length=CONTEXT) as llama:
        for number in range(rounds + 1):
            text = prompt(1000 + number, 20)
            by_httpx = httpx_times(url, text, num_tokens)
            alone = library_times(llama, text, num_tokens)
            plain = socket_times(url, "again: " + text, num_tokens)
            seen.append(
                {
                    "first_token_ms": 1e3 * (by_httpx.first_s - alone.first_s),
                    "each_token_ms": 1e3 * (plain.each_s - alone.each_s),
                    "each_token_httpx_ms": 1e3 * (by_httpx.each_s - alone.each_s),
                    "httpx_itself_ms": 1e3 * by_httpx.own_s,
                }
            )
    measured = seen[1:]  # The first round warms both up.
    return {name: median(figures[name] for figures in measured) for name in measured[0]}


def at_rest(model: Path) -> dict[str, float]:
    """Processor time of an idle server, and its memory beside that of the library alone."""
    asked = body(prompt(1, 30), 16, is_ours=True, stream=False)
    program = (
        "import sys; from edgellama import Llama\n"
        f"llama = Llama(sys.argv[1], context_length={CONTEXT})\n"
        f"llama.chat(max_tokens=16, temperature=0, ignore_eos=True).send({prompt(1, 30)!r})\n"
        "print(open('/proc/self/status').read())"
    )
    alone = subprocess.run(
        [sys.executable, "-c", program, str(model)], capture_output=True, text=True, check=True
    )
    with our_server(model) as (url, pid):
        httpx.post(f"{url}{CHAT}", json=asked, headers={"authorization": "Bearer k"}, timeout=600)
        time.sleep(1)
        before = _processor_s(pid)
        time.sleep(IDLE_S)
        idle = (_processor_s(pid) - before) / IDLE_S
        mine = mixed_load.resident_mb(pid)
    alone_mb = int(alone.stdout.partition("VmRSS:")[2].split()[0]) / 1000
    return {"idle_cpu_percent": 100 * idle, "memory_beside_mb": mine - alone_mb}


def soak(model: Path, minutes: float, num_users: int) -> dict[str, Any]:
    """Mixed load for so long: answers as alone, and the server's memory at both ends."""

    async def run(url: str, pid: int) -> dict[str, Any]:
        async with client(url) as connection:
            load = await mixed_load.mixed_load(connection, pid, minutes, num_users)
            left = (await connection.get("/health")).json()
        return {**mixed_load.report(load), "still_running": left["running"] + left["waiting"]}

    with our_server(model, "--exact", "--prompt-cache", "50MB") as (url, pid):
        return asyncio.run(run(url, pid))


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def together(arguments: argparse.Namespace, model: Path) -> dict[str, float]:
    """Tokens per second of streams together, ours and the peer's, and their ratio."""
    count = arguments.streams
    ours: list[float] = []
    peers: list[float] = []
    from edgellama.kernels_cpu.machine.cpu import default_num_threads

    for number in range(arguments.rounds):
        first = 100 * (number + 1)
        with our_server(model, "--parallel", str(count)) as (url, _):
            asyncio.run(streams(url, 1, 4, 9000 + number, is_ours=True))
            ours.append(asyncio.run(streams(url, count, arguments.tokens, first, is_ours=True)))
        if arguments.peer_python:
            with peer_server(arguments.peer_python, model, default_num_threads()) as url:
                asyncio.run(streams(url, 1, 4, 9000 + number, is_ours=False))
                peers.append(
                    asyncio.run(streams(url, count, arguments.tokens, first, is_ours=False))
                )
    found = {"ours_tokens_per_s": median(ours)}
    if peers:
        ratios = [mine / other for mine, other in zip(ours, peers, strict=True)]
        found |= {"peer_tokens_per_s": median(peers), "ratio": median(ratios)}
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a GGUF file; the starter model by default")
    parser.add_argument("--peer-python", help="interpreter with llama_cpp.server")
    parser.add_argument("--clients", type=int, default=200, help="of the burst")
    parser.add_argument("--streams", type=int, default=8, help="together")
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["burst", "streams", "http", "rest", "soak"])
    parser.add_argument("--minutes", type=float, default=10, help="of the mixed load")
    arguments = parser.parse_args(words)
    model = Path(arguments.model) if arguments.model else pull(STARTER_MODEL)

    def is_wanted(name: str) -> bool:
        return arguments.only in (None, name)

    if is_wanted("burst"):
        with our_server(model, "--queue", "150") as (url, _):
            print("burst:", dict(asyncio.run(burst(url, arguments.clients))), flush=True)
    if is_wanted("http"):
        print(
            "added by HTTP:", added_by_http(model, arguments.rounds, arguments.tokens), flush=True
        )
    if is_wanted("rest"):
        print("at rest:", at_rest(model), flush=True)
    if is_wanted("soak"):
        print("mixed load:", soak(model, arguments.minutes, 12), flush=True)
    if is_wanted("streams"):
        print("streams together:", together(arguments, model), flush=True)


if __name__ == "__main__":
    main()
