"""Worker: runs the workload on llama.cpp and prints its speeds as one line of JSON.

It calls the C functions, whose defaults hold but for threads, context and batch: llama-cpp-python's
own class turns flash attention off where llama.cpp decides by itself. With ``--first-token PROMPT``
it prints the first token's text instead, as small a script as llama-cpp-python allows.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
from workload import Context, Workload, measure, read_workload, report

BATCH_TOKENS = 512
MAX_TEXT_BYTES = 1024


def ignore(level: int, text: bytes, user_data: Any) -> None:
    """Take what llama.cpp has to say."""


SILENT = llama_cpp.llama_log_callback(ignore)


class Model:
    """A model with a context."""

    def __init__(self, path: Path, num_threads: int, context_length: int) -> None:
        llama_cpp.llama_log_set(SILENT, None)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_length
        parameters.n_batch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = num_threads
        flash = llama_cpp.llama_flash_attn_type_name(parameters.flash_attn_type)
        self.flash_attention: str = flash.decode()
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)

    def append(self, tokens: Sequence[int]) -> None:
        """Compute tokens and wait for the last one's logits."""
        for start in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[start : start + BATCH_TOKENS]
            ids = (llama_cpp.llama_token * len(chunk))(*chunk)  # the batch only points to it
            batch = llama_cpp.llama_batch_get_one(ids, len(chunk))
            if llama_cpp.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode failed on {len(chunk)} tokens")
        llama_cpp.llama_synchronize(self._context)
        if not llama_cpp.llama_get_logits_ith(self._context, -1):
            raise RuntimeError("llama.cpp gave no logits")

    def keep(self, num_tokens: int) -> None:
        """Forget all but the first tokens."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, num_tokens, -1):
            raise RuntimeError(f"llama.cpp cannot forget all but {num_tokens} tokens")

    def encode(self, text: str) -> list[int]:
        """Token ids, with BOS where the model wants it."""
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 2))()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, data, len(data), ids, len(ids), True, False
        )
        return list(ids[:count])

    def most_likely_text(self) -> bytes:
        """The text of the token with the largest logit."""
        sampler = llama_cpp.llama_sampler_init_greedy()
        token = llama_cpp.llama_sampler_sample(sampler, self._context, -1)
        text = ctypes.create_string_buffer(MAX_TEXT_BYTES)
        length = llama_cpp.llama_token_to_piece(
            self._vocabulary, token, text, MAX_TEXT_BYTES, 0, True
        )
        return text.raw[:length]


def run(work: Workload) -> None:
    """Load the model and measure."""
    model = Model(work.model, work.num_threads, work.context_length)
    speeds = measure(work, model.vocab_size, Context(model.append, model.keep))
    system = llama_cpp.llama_print_system_info().decode().strip(" |")
    description = (
        f"llama-cpp-python {llama_cpp.__version__}, {system}, "
        f"flash attention {model.flash_attention}"
    )
    report(speeds, description)


def first_token(path: Path, prompt: str, num_threads: int, context_length: int) -> None:
    """Print the text of the most likely token after ``prompt``."""
    model = Model(path, num_threads, context_length)
    model.append(model.encode(prompt))
    sys.stdout.buffer.write(model.most_likely_text())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    if "--first-token" in sys.argv:
        _, model_path, _, prompt_text, threads, context = sys.argv
        first_token(Path(model_path), prompt_text, int(threads), int(context))
    else:
        run(read_workload())
