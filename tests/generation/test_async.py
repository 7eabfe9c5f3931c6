"""Calls for event loops: the texts of their twins, loops that never wait, cancelled steps that end.

A hook holds the model in the middle of a step where a test must act there; what was computed is
counted in calls of that hook, one a layer.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.interrupts import accept_interrupts
from harness.patience import until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.concurrency.async_items import AsyncItems
from edgellama.generation.results import Generation
from edgellama.generation.sessions.session import Session
from edgellama.llama import Llama
from edgellama.quant.errors import EdgellamaError, InvalidOptionError

LAYERS = 4
TIMEOUT_S = 60.0
PROMPT = list(b"once upon a time")
LONG_PROMPT = [65 + number % 20 for number in range(1500)]
GREEDY: Any = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of some layers, with room for a long prompt."""
    folder = tmp_path_factory.mktemp("async")
    return write_tiny_llama(folder / "tiny.gguf", TinyLlama(layers=LAYERS, context_length=2048))


@pytest.fixture
def llama(path: Path) -> Iterator[Llama]:
    """The model, which leaves no thread behind."""
    with Llama(path, num_threads=2) as llama:
        yield llama
    assert not asking_threads()


class Held:
    """A hook that holds the model at its call of this number, until it is let go."""

    def __init__(self, llama: Llama, call: int) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        self.num_calls = 0
        self._call = call
        llama.add_hook(self._see)

    def _see(self, *_: object) -> None:
        self.num_calls += 1
        if self.num_calls == self._call:
            self.reached.set()
            assert self._go.wait(TIMEOUT_S)

    def let_go(self) -> None:
        """Let the model go on."""
        self._go.set()

    async def is_reached(self) -> None:
        """Wait until the model is held, without holding the loop."""
        assert await asyncio.to_thread(self.reached.wait, TIMEOUT_S)


def asking_threads() -> list[threading.Thread]:
    """Threads of streams that still run after a moment."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if thread.name == "edgellama-async"]
    for thread in threads:
        thread.join(TIMEOUT_S / len(threads))
    return [thread for thread in threads if thread.is_alive()]


async def texts(stream: AsyncIterator[Any]) -> list[str]:
    """The texts of all items."""
    return [item.text async for item in stream]


def test_twins_give_the_same(llama: Llama) -> None:
    """Every call for event loops gives the text of its twin."""
    expected = llama.generate(PROMPT, **GREEDY)
    with llama.chat(**GREEDY) as chat:
        first, again = chat.send("hello").text, chat.regenerate().wait().text
    batch = [result.text for result in llama.generate_batch([PROMPT, [65]], width=1, **GREEDY)]

    async def main() -> None:
        assert (await llama.generate_async(PROMPT, **GREEDY)).tokens == expected.tokens
        stream = llama.stream_async(PROMPT, **GREEDY)
        assert "".join(await texts(stream)) == expected.text == stream.result.text
        assert stream.ended and stream.prefill_progress[1] == stream.prefill_progress[0]
        with llama.session() as session:
            assert (await session.generate_async(PROMPT, **GREEDY)).text == expected.text
            assert "".join(await texts(session.stream_async(PROMPT, **GREEDY))) == expected.text
        with llama.chat(**GREEDY) as chat:
            assert (await chat.send_async("hello")).text == first
            assert (await chat.regenerate_async().wait()).text == again
            assert [message["role"] for message in chat.messages] == ["user", "assistant"]
            assert "".join(await texts(chat.stream_async("more")))
        results = llama.generate_batch_async([PROMPT, [65]], width=1, **GREEDY)
        assert await texts(results) == batch

    asyncio.run(main())


def test_the_loop_runs_while_the_model_computes(llama: Llama) -> None:
    """A model that is held in a step, which only the loop can end, holds nothing else."""
    held = Held(llama, call=1)

    async def main() -> None:
        text = asyncio.create_task(llama.generate_async(PROMPT, **GREEDY))
        await held.is_reached()
        held.let_go()
        assert (await text).tokens

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


@pytest.mark.parametrize("call", [2, LAYERS + 2], ids=["in prefill", "in decoding"])
def test_a_cancelled_task_ends_the_step(llama: Llama, call: int) -> None:
    """Not one layer more is computed after the task was cancelled, and the session is free."""
    held = Held(llama, call)

    async def main() -> None:
        with llama.session() as session:
            prompt = LONG_PROMPT if call < LAYERS else PROMPT
            text = asyncio.create_task(session.generate_async(prompt, max_tokens=100))
            await held.is_reached()
            text.cancel()
            await asyncio.sleep(0)
            held.let_go()
            with pytest.raises(asyncio.CancelledError):
                await text
            assert held.num_calls == call
            assert not session.busy
            assert session.generate(PROMPT, max_tokens=1).tokens

    asyncio.run(main())


def test_a_cancelled_reply_is_kept_as_far_as_it_came(llama: Llama) -> None:
    """A conversation whose task was cancelled has the text that had come, as with ``close``."""
    held = Held(llama, call=3 * LAYERS)

    async def main() -> None:
        with llama.chat() as chat:
            reply = asyncio.create_task(chat.send_async("hello", max_tokens=50, temperature=0))
            await held.is_reached()
            reply.cancel()
            held.let_go()
            with pytest.raises(asyncio.CancelledError):
                await reply
            assert [message["role"] for message in chat.messages] == ["user", "assistant"]
            assert (await chat.send_async("again", max_tokens=2)).tokens

    asyncio.run(main())


def leave_the_loop(stream: AsyncItems[Any, Any]) -> Awaitable[None]:
    """Leave ``async for`` early; nothing else holds the stream."""

    async def leave() -> None:
        async for _ in stream:
            break

    return leave()


async def leave_the_block(stream: AsyncItems[Any, Any]) -> None:
    """Leave ``async with`` early."""
    async with stream:
        await stream.__anext__()
    assert stream.ended


async def close_twice(stream: AsyncItems[Any, Any]) -> None:
    """Close a stream that has begun, and again."""
    await stream.__anext__()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


async def never_begin(stream: AsyncItems[Any, Any]) -> None:
    """Close a stream that has not begun."""
    await stream.aclose()


async def cancel_first(stream: AsyncItems[Any, Any]) -> None:
    """Cancel before the first chunk is asked for; no token comes."""
    stream.cancel()
    assert await texts(stream) == []


@pytest.mark.parametrize(
    "leave", [leave_the_loop, leave_the_block, close_twice, never_begin, cancel_first]
)
def test_leaving_early_ends_the_text(
    llama: Llama, leave: Callable[[AsyncItems[Any, Any]], Awaitable[None]]
) -> None:
    """However a stream is left, its session is free, its memory back and its thread gone."""
    steps: list[object] = []

    async def main() -> None:
        with llama.session() as session:
            await leave(session.stream_async(PROMPT, temperature=0))
            assert not await asyncio.to_thread(asking_threads)
            assert not session.busy
            llama.add_hook(lambda rows, step: steps.append(step), "logits")
            assert len((await session.generate_async(PROMPT, **GREEDY)).tokens) == len(steps)

    asyncio.run(main())


def test_a_deadline_of_asyncio(llama: Llama) -> None:
    """``asyncio.wait_for`` and ``asyncio.timeout`` end a text, which leaves nothing in use."""
    llama.add_hook(lambda *_: time.sleep(0.02))

    def endless(session: Session) -> Coroutine[Any, Any, Generation]:
        return session.generate_async(PROMPT, temperature=0, ignore_eos=True)

    async def main() -> None:
        with llama.session() as session:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(endless(session), 0.01)
            assert not session.busy
            if sys.version_info >= (3, 11):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await endless(session)
                assert not session.busy

    asyncio.run(main())


def test_two_loops_share_a_model(llama: Llama) -> None:
    """Loops of two threads get their own texts, and a stream may go on in another loop."""
    expected = {name: llama.generate(name, **GREEDY).text for name in ("one", "two")}
    found: dict[str, list[str]] = {}

    def run(name: str) -> None:
        async def main() -> list[str]:
            calls = (llama.generate_async(name, **GREEDY) for _ in range(4))
            return [result.text for result in await asyncio.gather(*calls)]

        found[name] = asyncio.run(main())

    threads = [threading.Thread(target=run, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert {name: set(given) for name, given in found.items()} == {
        name: {text} for name, text in expected.items()
    }
    stream = llama.stream_async("one", **GREEDY)

    async def first() -> str:
        return (await stream.__anext__()).text

    assert asyncio.run(first()) + "".join(asyncio.run(texts(stream))) == expected["one"]


def test_errors_reach_who_awaits(llama: Llama) -> None:
    """A wrong call and an exception in a callback are raised by await, and end the stream."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in a hook")

    async def main() -> None:
        with llama.session() as session:
            stream = session.stream_async(PROMPT, max_token=1)  # type: ignore[call-arg]
            with pytest.raises(InvalidOptionError, match="max_tokens"):
                await stream.wait()
            with pytest.raises(EdgellamaError, match="not begun"):
                _ = stream.result
            hook = llama.add_hook(fail)
            with pytest.raises(ZeroDivisionError, match="in a hook"):
                await session.generate_async(PROMPT, **GREEDY)
            llama.remove_hook(hook)
            assert (await session.generate_async(PROMPT, **GREEDY)).tokens

    asyncio.run(main())


def test_closing_the_model_ends_who_awaits(llama: Llama) -> None:
    """A model that is closed while a text is awaited ends it; nobody waits for ever."""
    held = Held(llama, call=LAYERS + 1)

    async def main() -> None:
        text = asyncio.create_task(llama.generate_async(PROMPT, temperature=0))
        await held.is_reached()
        closing = asyncio.create_task(asyncio.to_thread(llama.close))
        await asyncio.to_thread(until, lambda: llama._closed)
        await asyncio.sleep(0.05)
        held.let_go()
        assert (await text).finish_reason == "cancelled"
        await closing
        with pytest.raises(EdgellamaError, match="closed"):
            await llama.generate_async(PROMPT)

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def test_a_loop_that_is_gone_leaves_no_thread(llama: Llama) -> None:
    """A loop that was closed while a text was awaited is told nothing, and the thread ends."""
    held = Held(llama, call=LAYERS + 1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(llama.generate_async(PROMPT, **GREEDY))
    loop.run_until_complete(held.is_reached())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()
    held.let_go()
    assert not asking_threads()


CHILD = """
import asyncio, sys
from edgellama import Llama
llama = Llama(sys.argv[1], num_threads=2)
async def main():
    async for chunk in llama.stream_async("once", temperature=0, max_tokens=100_000):
        print("token", flush=True)
        await asyncio.sleep(0)
try:
    while True:
        asyncio.run(main())
except KeyboardInterrupt:
    with llama.session() as session:
        print("free", len(session.generate("once", max_tokens=2, temperature=0).tokens))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one child")
def test_ctrl_c_ends_a_loop_and_its_text(path: Path) -> None:
    """Ctrl-C while a text is awaited is a KeyboardInterrupt, after which the model is usable."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=accept_interrupts,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "token\n"
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=TIMEOUT_S)[0].splitlines()
    assert (child.returncode, rest[-1]) == (0, "free 2")


@pytest.mark.parametrize("owner", [Llama, Session, Conversation])
def test_twins_take_what_their_calls_take(owner: type) -> None:
    """Names, kinds, defaults and types of the arguments are the same."""
    twins = [name for name in dir(owner) if name.endswith("_async") and not name.startswith("_")]
    assert len(twins) > 1
    for name in twins:
        call, twin = getattr(owner, name.removesuffix("_async")), getattr(owner, name)
        assert [*inspect.signature(twin).parameters.values()] == [
            *inspect.signature(call).parameters.values()
        ]
