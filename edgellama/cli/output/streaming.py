"""Runs a reply so that Ctrl-C can end it at any moment, and puts its statistics into words.

A second thread makes the reply, while the main thread waits and can be interrupted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellama.cli.process_usage import seconds_since_start

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk, Generation
    from edgellama.generation.sessions.stream import Stream

WAIT_SECONDS = 0.1
CUT_OFF = {
    "length": "cut off by --max-tokens",
    "context": "cut off, the context is full",
    "timeout": "cut off, its time is over",
    "constraint": "cut off, what it must match has no way on",
}
"""What is said of a text that did not end by itself, by its finish reason."""
TOLD_SHARE = 0.2
"""Guesses by tokens of a text from which on they are told: a few have changed no speed."""


def run_stream(
    stream: Stream,
    show: Callable[[str], None],
    idle: Callable[[], None] = lambda: None,
    think: Callable[[str], None] = lambda text: None,
) -> float:
    """Take every chunk of ``stream`` and show its text, in order.

    ``think`` is called with what the model thinks before it says anything, ``idle`` several times a
    second while nothing comes. Returns the process's age in seconds when the first token was shown
    (when the reply ended, if it has none). Ctrl-C cancels the stream, waits until it has stopped,
    and goes on as KeyboardInterrupt.
    """
    items: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
    worker = threading.Thread(target=_produce, args=(stream, items), daemon=True)
    first_token_s = None
    worker.start()
    try:
        while (item := _next_item(items, idle)) is not None:
            if isinstance(item, BaseException):
                raise item
            if item.reasoning:
                think(item.reasoning)
            show(item.text)
            if first_token_s is None:
                first_token_s = seconds_since_start()
    except BaseException:
        stream.cancel()
        worker.join()
        raise
    worker.join()
    return seconds_since_start() if first_token_s is None else first_token_s


def _produce(stream: Stream, items: queue.SimpleQueue[Chunk | BaseException | None]) -> None:
    try:
        for chunk in stream:
            items.put(chunk)
    except BaseException as error:
        items.put(error)
    else:
        items.put(None)


def _next_item(
    items: queue.SimpleQueue[Chunk | BaseException | None], idle: Callable[[], None]
) -> Chunk | BaseException | None:
    """The next item, waited for in slices because on Windows no signal ends a long wait."""
    while True:
        try:
            return items.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            idle()


def speed_line(result: Generation) -> str:
    """Counts and speeds of a reply on one line, for people."""
    statistics = result.statistics
    count = len(result.tokens)
    line = "1 token" if count == 1 else f"{count} tokens"
    if statistics.decoded_tokens:
        line += f" at {statistics.decode_tokens_per_second:.1f} tokens/s"
    reused = result.prompt_tokens - statistics.prefilled_tokens
    line += f"; prompt: {statistics.prefilled_tokens}"
    line += f" new of {result.prompt_tokens}" if reused else " tokens"
    line += f" at {statistics.prefill_tokens_per_second:.1f} tokens/s"
    if statistics.drafted_tokens and statistics.drafted_tokens >= TOLD_SHARE * count:
        line += f"; {statistics.accepted_tokens} of {statistics.drafted_tokens} guesses right"
    cut_off = CUT_OFF.get(result.finish_reason)
    return f"{line}; {cut_off}" if cut_off else line
