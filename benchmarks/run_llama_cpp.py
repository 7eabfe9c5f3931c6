"""Worker: runs the workload on llama.cpp and prints its speeds as one line of JSON.

Its defaults hold but for threads, context and batch. With ``--first-token PROMPT`` it prints
the first token's text instead, as small a script as llama-cpp-python allows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import llama_cpp
from workload import Workload, measure, read_workload, report

BATCH_TOKENS = 512


def open_model(path: Path, num_threads: int, context_length: int) -> llama_cpp.Llama:
    """The model with llama.cpp's defaults otherwise."""
    return llama_cpp.Llama(
        model_path=str(path),
        n_ctx=context_length,
        n_batch=BATCH_TOKENS,
        n_threads=num_threads,
        n_threads_batch=num_threads,
        verbose=False,
    )


def run(work: Workload) -> None:
    """Load the model and measure, through the C functions themselves."""
    started = perf_counter()
    model = open_model(work.model, work.num_threads, work.context_length)
    load_s = perf_counter() - started
    context = model.ctx
    memory = llama_cpp.llama_get_memory(context)

    def forward(tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[start : start + BATCH_TOKENS]
            ids = (llama_cpp.llama_token * len(chunk))(*chunk)  # the batch only points to it
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(chunk))):
                raise RuntimeError(f"llama_decode failed on {len(chunk)} tokens")
        llama_cpp.llama_synchronize(context)
        if not llama_cpp.llama_get_logits_ith(context, -1):
            raise RuntimeError("llama.cpp gave no logits")

    def forget() -> None:
        llama_cpp.llama_memory_clear(memory, True)

    speeds = measure(work, model.n_vocab(), load_s, forget, forward)
    description = {
        "engine": f"llama-cpp-python {llama_cpp.__version__}",
        "build": llama_cpp.llama_print_system_info().decode().strip(" |"),
    }
    report(speeds, description)


def first_token(path: Path, prompt: str, num_threads: int, context_length: int) -> None:
    """Print the text of the most likely token after ``prompt``."""
    model = open_model(path, num_threads, context_length)
    model.eval(model.tokenize(prompt.encode(), add_bos=True))
    text = model.detokenize([model.sample(temp=0.0)], special=True)
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    if "--first-token" in sys.argv:
        _, model_path, _, prompt_text, threads, context = sys.argv
        first_token(Path(model_path), prompt_text, int(threads), int(context))
    else:
        run(read_workload())
