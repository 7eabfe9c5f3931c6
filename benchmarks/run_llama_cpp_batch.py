"""Worker: many prompts on llama.cpp, up to a width at a time, and its seconds as one line of JSON.

A step has the next token of every running sequence and whole prompts of those that begin, as far
as a batch goes, as llama.cpp's server does it. Tokens are given, not sampled, which spares it work.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import llama_cpp
from run_llama_cpp import SILENT

BATCH_TOKENS = 2048
SEQUENCE_PADDING = 256
"""llama.cpp rounds a sequence's context up to so many tokens."""


@dataclass
class Running:
    """A sequence: its number, the tokens that it holds, and those that are left to generate."""

    sequence: int
    length: int
    num_left: int


class Batcher:
    """A model with a context for ``width`` sequences of up to ``length`` tokens."""

    def __init__(self, path: Path, num_threads: int, width: int, length: int) -> None:
        llama_cpp.llama_log_set(SILENT, None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        padded = -(-length // SEQUENCE_PADDING) * SEQUENCE_PADDING
        parameters.n_ctx, parameters.n_seq_max = width * padded, width
        parameters.n_batch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = num_threads
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._free = list(range(width))

    def run(self, prompts: list[list[int]], num_tokens: int) -> float:
        """Seconds until all prompts have been followed by so many tokens."""
        waiting, running = deque(prompts), list[Running]()
        started = perf_counter()
        while waiting or running:
            self._batch.n_tokens = 0
            for text in running:
                self._add(1, text.length, text.sequence, is_wanted=True)
                text.length, text.num_left = text.length + 1, text.num_left - 1
            while waiting and self._free and self._fits(waiting[0]):
                prompt, sequence = waiting.popleft(), self._free.pop()
                for position, token in enumerate(prompt):
                    self._add(token, position, sequence, is_wanted=position == len(prompt) - 1)
                # The prompt's own step gives the first token.
                running.append(Running(sequence, len(prompt), num_tokens - 1))
            if llama_cpp.llama_decode(self._context, self._batch):
                raise RuntimeError(f"llama_decode failed on {self._batch.n_tokens} tokens")
            if not llama_cpp.llama_get_logits_ith(self._context, -1):
                raise RuntimeError("llama.cpp gave no logits")
            for text in [text for text in running if text.num_left == 0]:
                running.remove(text)
                llama_cpp.llama_memory_seq_rm(self._memory, text.sequence, -1, -1)
                self._free.append(text.sequence)
        return perf_counter() - started

    def _fits(self, prompt: list[int]) -> bool:
        return bool(self._batch.n_tokens + len(prompt) <= BATCH_TOKENS)

    def _add(self, token: int, position: int, sequence: int, *, is_wanted: bool) -> None:
        row = self._batch.n_tokens
        self._batch.token[row] = token
        self._batch.pos[row] = position
        self._batch.n_seq_id[row] = 1
        self._batch.seq_id[row][0] = sequence
        self._batch.logits[row] = is_wanted
        self._batch.n_tokens = row + 1


if __name__ == "__main__":
    task = json.load(sys.stdin)
    longest = max(map(len, task["prompts"])) + task["num_tokens"]
    batcher = Batcher(Path(task["model"]), task["num_threads"], task["width"], longest)
    batcher.run([prompt[:16] for prompt in task["prompts"][:2]], 2)
    print(json.dumps({"seconds": batcher.run(task["prompts"], task["num_tokens"])}))
