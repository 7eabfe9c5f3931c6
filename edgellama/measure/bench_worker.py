"""The process of one benchmark test: start, warm-up, repetitions, and a plain read beside each.

``bench`` chooses the tests, and uses the figures.
"""

from __future__ import annotations

from contextlib import ExitStack
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.kernels_cpu.machine.cpu import cpu_name
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.measure.child_process import STARTED, serve
from edgellama.measure.drafted_runs import DraftedRuns
from edgellama.measure.model_outline import ModelOutline
from edgellama.measure.op_work import Step, Work, total_work
from edgellama.measure.plain_read import PlainRead
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.progress import Progress
from edgellama.text.tokenizer import load_tokenizer

Tokens = npt.NDArray[np.int32]


def _run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    with GGUFFile(request["path"]) as file:
        tokenizer = load_tokenizer(file.metadata)
        with Engine(
            file,
            num_threads=request["num_threads"],
            tier=request["tier"],
            attention=AttentionChoice(**request["attention"]),
        ) as engine:
            length = request["depth"] + request["num_prompt"] + request["num_generated"]
            types = KVTypes(**request["kv_types"])
            shelf = engine.adapters
            loaded = {shelf.load(path, path): scale for path, scale in request["adapters"]}
            adapters = shelf.adapter_set(loaded)
            cache = engine.new_cache(max(1, length), kv_type=types.pair, adapters=adapters)
            first = tokenizer.special.bos_id or 0
            int(engine.forward([first], cache)[0].argmax())
            start_seconds = monotonic() - request[STARTED]
            with ExitStack() as opened:
                runs: _Runs | DraftedRuns = _Runs(engine, cache, request)
                if request["draft"] and request["num_generated"]:
                    runs = opened.enter_context(
                        DraftedRuns(engine, tokenizer, file.metadata, request)
                    )
                result = _measure(runs, request["repetitions"], progress)
            card = engine.card_use
            return result | {
                "card_bytes": card.used_bytes if card else 0,
                "start_seconds": start_seconds,
                "num_compiled": engine.num_compiled,
                "num_threads": engine.num_threads,
                "tier": engine.tier.name,
                "kv_bytes": cache.layout.used_bytes(
                    cache.context_length, engine.config.sliding_window
                ),
                "cpu": cpu_name(),
                **_described(file),
            }


class _Runs:
    """The timed part of a test, which can be run again and again, and how much work it is."""

    num_drafted = num_accepted = 0

    def __init__(self, engine: Engine, cache: KVCache, request: dict[str, Any]) -> None:
        self.engine, self._cache = engine, cache
        self._depth: int = request["depth"]
        self._batch: int = request["batch_tokens"]
        rng = np.random.default_rng(0)
        vocab_size = engine.config.vocab_size
        tokens = rng.integers(0, vocab_size, cache.context_length, dtype=np.int32)
        end = self._depth + request["num_prompt"]
        self._past, self._prompt = tokens[: self._depth], tokens[self._depth : end]
        self._generated = tokens[end : end + request["num_generated"]]

    def warm_up(self) -> None:
        """Fill the context to the depth and take a step of each kind."""
        self._cache.truncate(0)
        self._prefill(self._past)
        self._prefill(self._prompt[: self._batch])
        if len(self._generated):
            self.engine.forward(self._generated[:1], self._cache)

    def seconds(self) -> float:
        """One timed run from the depth on."""
        self._cache.truncate(self._depth)
        started = perf_counter()
        self._prefill(self._prompt)
        for index in range(len(self._generated)):
            self.engine.forward(self._generated[index : index + 1], self._cache)
        return perf_counter() - started

    def work(self) -> Work:
        """Of the whole run; logits after the prompt and after each token."""
        total, position = Work(0, 0), self._depth
        for start in range(0, len(self._prompt), self._batch):
            size = min(self._batch, len(self._prompt) - start)
            total += self._step_work(size, position)
            position += size
        # Work grows in proportion to the position, so the middle step stands for all.
        count = len(self._generated)
        middle = self._step_work(1, position + count // 2)
        return total + Work(count * middle.num_bytes, count * middle.num_macs)

    def _step_work(self, num_tokens: int, position: int) -> Work:
        ops = self.engine.step_ops(num_tokens, str(self._cache.layout.types))
        return total_work(ops, Step.of(num_tokens, position, self._cache))

    def _prefill(self, tokens: Tokens) -> None:
        for start in range(0, len(tokens), self._batch):
            self.engine.forward(tokens[start : start + self._batch], self._cache)


def _measure(runs: _Runs | DraftedRuns, repetitions: int, progress: Progress) -> dict[str, Any]:
    runs.warm_up()
    plain = PlainRead(runs.engine)
    plain.seconds()
    seconds, plain_seconds = [], []
    for index in range(repetitions):
        seconds.append(runs.seconds())
        plain_seconds.append(plain.seconds())
        progress(index + 1, repetitions)
    work = runs.work()
    return {
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "plain_bytes": plain.num_bytes,
        "num_bytes": work.num_bytes,
        "num_macs": work.num_macs,
        "drafted_tokens": runs.num_drafted,
        "accepted_tokens": runs.num_accepted,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _described(file: GGUFFile) -> dict[str, Any]:
    """Type and size of a model."""
    outline = ModelOutline.from_gguf(file)
    return {
        "type": outline.type,
        "model_bytes": outline.file_bytes,
        "parameters": outline.num_parameters,
    }


if __name__ == "__main__":
    serve(_run)
