"""Texts that wait for their turn, time limits, and progress of prompts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.concurrency import waiting_line
from edgellama.generation.concurrency.waiting_line import Turn, WaitingLine
from edgellama.llama import Llama
from edgellama.quant.errors import EdgellamaError, InvalidOptionError

TIMEOUT_S = 60.0
PROMPT = list(b"once upon a time")
LONG_PROMPT = [65 + number % 20 for number in range(1500)]
GREEDY: Any = {"temperature": 0, "max_tokens": 4}


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Llama]:
    """A tiny model with room for a long prompt."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=2048))
    with Llama(path, num_threads=2) as llama:
        yield llama


def slow_down(llama: Llama, seconds: float = 0.001) -> None:
    """Let every layer take this much longer."""
    llama.add_hook(lambda *_: time.sleep(seconds))


def test_first_come_first_served() -> None:
    """So many run as may; who leaves, in whatever way, lets the one run that came first."""
    line = WaitingLine(2)
    turns = [Turn(line) for _ in range(5)]
    for turn in turns:
        line.enter(turn)
    positions = [line.position(turn) for turn in turns]
    assert positions == [0, 0, 1, 2, 3]
    turns[1].leave()
    turns[1].leave()
    assert [line.position(turn) for turn in turns[2:]] == [0, 1, 2]
    del turns[0], turn
    assert [line.position(turn) for turn in turns[1:]] == [0, 0, 1]
    line.max_running = None
    assert line.position(turns[-1]) == 0


def test_who_waits_for_a_turn_can_be_cancelled() -> None:
    """A cancelled one returns without its turn, and those behind it move up."""
    line, cancel = WaitingLine(1), CancelToken()
    first, second, third = Turn(line), Turn(line), Turn(line)
    first.wait(CancelToken())
    waiter = threading.Thread(target=second.wait, args=(cancel,))
    waiter.start()
    while second.position != 1:
        pass
    line.enter(third)
    assert line.position(third) == 2
    cancel.cancel()
    waiter.join(TIMEOUT_S)
    second.leave()
    assert line.position(third) == 1
    first.leave()
    assert line.position(third) == 0


def test_who_would_wait_for_itself_is_refused(
    llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread or a task that holds all places and asks for one more gets an error, no wait.

    Another thread's wait for it is no error, nor is one for a text that it has handed on.
    """
    monkeypatch.setattr(waiting_line, "OWN_WAIT_S", 0.2)
    llama.max_concurrent = 1
    with llama.stream(PROMPT) as held:
        next(held)
        assert not raised(lambda: llama.generate(PROMPT, timeout=0.4))
        for ask in (
            lambda: llama.generate(PROMPT),
            lambda: list(llama.generate_batch([PROMPT])),
            lambda: llama.embed([PROMPT]),
        ):
            with pytest.raises(EdgellamaError, match="max_concurrent is 1, and so many"):
                ask()
        monkeypatch.setattr(waiting_line, "OWN_WAIT_S", TIMEOUT_S)  # A busy machine hands on late.
        handed_on = threading.Timer(0.05, held.wait)
        handed_on.start()
        assert llama.generate(PROMPT, **GREEDY).tokens
        handed_on.join(TIMEOUT_S)
    monkeypatch.setattr(waiting_line, "OWN_WAIT_S", 0.2)

    async def main() -> None:
        async with llama.stream_async(PROMPT) as held:
            await anext(held)
            other = asyncio.create_task(llama.generate_async(PROMPT, **GREEDY))
            with pytest.raises(EdgellamaError, match="max_concurrent is 1, and so many"):
                await llama.generate_async(PROMPT)
            await held.wait()
            assert (await other).tokens

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))


def raised(call: Callable[[], object]) -> list[BaseException]:
    """What a call raises on a thread of its own."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT_S)
    return errors


def test_vectors_ranks_and_judgements_take_turns(llama: Llama) -> None:
    """With one text at a time, whatever computes waits for it, and runs when it has ended."""
    llama.max_concurrent = 1
    calls: list[Callable[[], object]] = [
        lambda: llama.embed([PROMPT]),
        lambda: llama.rerank("a", ["b", "c"], chat=False),
        lambda: llama.classify(PROMPT, ["a", "b"]),
        lambda: llama.score(PROMPT),
    ]
    with llama.stream(PROMPT) as held:
        next(held)
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        threads[0].join(0.1)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("most", [0, -1, True, 1.5, "2"])
def test_impossible_limits(most: Any) -> None:
    """A limit that is no number from 1 is refused."""
    with pytest.raises(InvalidOptionError, match="max_concurrent is "):
        WaitingLine(most)


def test_texts_wait_in_the_order_in_which_they_came(llama: Llama) -> None:
    """With one text at a time, others tell their place, and begin in the order of their coming."""
    llama.max_concurrent = 1
    ended: list[int] = []

    async def main() -> None:
        running = llama.stream(PROMPT, temperature=0)
        next(running)
        streams = [llama.stream_async(PROMPT, **GREEDY) for _ in range(3)]
        streams.append(llama.generate_batch_async([PROMPT], **GREEDY))  # type: ignore[arg-type]
        tasks = []
        for number, stream in enumerate(streams):

            async def drain(number: int = number, stream: Any = stream) -> None:
                assert [item async for item in stream]
                ended.append(number)

            tasks.append(asyncio.create_task(drain()))
            while getattr(stream._source, "queue_position", 0) != number + 1:
                await asyncio.sleep(0.001)
        assert [stream.queue_position for stream in streams[:3]] == [1, 2, 3]
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert streams[2].queue_position == 2
        running.close()
        await asyncio.gather(tasks[0], *tasks[2:])
        assert streams[0].queue_position == 0

    asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    assert ended == [0, 2, 3]


def test_a_text_ends_at_its_time_limit(llama: Llama) -> None:
    """A text is cut off as it is, in its prompt, in its decoding and while it waits in line."""
    slow_down(llama)
    with llama.session() as session:
        result = session.generate(PROMPT, timeout=0.05, temperature=0)
        assert result.finish_reason == "timeout"
        assert len(result.tokens) < 2000
        assert session.generate(PROMPT, timeout=100, **GREEDY).finish_reason == "length"
    slow_down(llama, 0.2)
    result = llama.generate(LONG_PROMPT, timeout=0.05)
    assert (result.finish_reason, result.tokens) == ("timeout", ())
    llama.max_concurrent = 1
    with llama.stream(PROMPT) as running:
        next(running)
        assert llama.generate([65], timeout=0.05).finish_reason == "timeout"
    for thread in threading.enumerate():
        if thread.name == "edgellama-deadline":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_one_of_a_batch_ends_at_its_time_limit(llama: Llama) -> None:
    """The others of a batch go on to their own ends."""
    slow_down(llama)
    prompts = [{"prompt": PROMPT, "timeout": 0.05, "max_tokens": 2000}, {"prompt": PROMPT}]
    results = llama.generate_batch(prompts, temperature=0, max_tokens=200)
    assert {result.index: result.finish_reason for result in results} == {0: "timeout", 1: "length"}


def test_a_prompt_tells_how_far_it_is(llama: Llama) -> None:
    """Progress grows to the number of tokens that must be computed, and is told of no more."""
    told: list[tuple[int, int]] = []
    with llama.session() as session:
        session.generate(LONG_PROMPT, on_prefill=lambda *step: told.append(step), **GREEDY)
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        assert len(told) > 1 and told[-1] == (len(LONG_PROMPT), len(LONG_PROMPT))
        told.clear()
        session.generate(
            [*LONG_PROMPT, 66, 67], on_prefill=lambda *step: told.append(step), **GREEDY
        )
        assert told == [(2, 2)]
        told.clear()
        prompts = [{"prompt": LONG_PROMPT, "on_prefill": lambda *step: told.append(step)}]
        list(llama.generate_batch(prompts, **GREEDY))
        assert told[-1][0] == told[-1][1]


def test_an_error_of_a_listener_ends_the_text(llama: Llama) -> None:
    """What ``on_prefill`` raises reaches the caller, and the session is free."""

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError(f"{done} of {total}")

    with llama.session() as session:
        with pytest.raises(ZeroDivisionError):
            session.generate(LONG_PROMPT, on_prefill=fail)
        assert not session.busy
        assert session.generate(PROMPT, **GREEDY).tokens


def test_no_tokens_compute_the_prompt_alone(llama: Llama) -> None:
    """``max_tokens=0`` chooses nothing, and what begins like the prompt then starts at once."""
    with llama.session() as session:
        result = session.generate(LONG_PROMPT, max_tokens=0)
        assert (result.text, result.tokens, result.finish_reason) == ("", (), "length")
        assert result.statistics.prefilled_tokens == len(LONG_PROMPT)
        assert session.tokens == tuple(LONG_PROMPT)
        again = session.generate([*LONG_PROMPT, 65], **GREEDY)
        assert again.statistics.prefilled_tokens == 1
    (result,) = llama.generate_batch([PROMPT], max_tokens=0)
    assert (result.tokens, result.finish_reason) == ((), "length")
