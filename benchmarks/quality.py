"""Compares what edgellama and llama.cpp compute: greedy continuations and perplexity.

Each engine runs in its own process and tokenizes for itself; only ids and log-probabilities
come back, so nothing but the engines can differ. ``--peer-python`` names an interpreter with
llama-cpp-python. Perplexity: chunks of 512 tokens, BOS first where the model wants one; the
second half of each chunk is scored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Logits: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

ENGLISH = Path(__file__).resolve().parent.parent / "tests" / "data" / "english.txt"
CHUNK_TOKENS = 512
GREEDY_TOKENS = 16
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "The three primary colours are",
    "1, 2, 4, 8, 16,",
    "Dear Sir or Madam,\n\nI am writing to",
    "In physics, the theory of relativity",
    "Q: What is the largest planet of the solar system?\nA:",
    "The recipe needs two eggs, a cup of flour and",
)
QUESTIONS = (
    "What is the capital of France?",
    "Explain what photosynthesis is.",
    "Who wrote Romeo and Juliet?",
    "How do I boil an egg?",
    "What is the difference between a lake and a sea?",
    "Write a short poem about the moon.",
    "Why is the sky blue?",
    "Give me three tips for learning a language.",
    "What does a compiler do?",
    "How many days are there in a year?",
)
CHAT = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
"""A turn as SmolLM2 was trained on; questions are asked in it, prompts continued as text."""
GREEDY_PROMPTS = (*PROMPTS, *(CHAT.format(question=question) for question in QUESTIONS))
GREEDY_TARGET = 8
PERPLEXITY_TARGET = 0.005


@dataclass(frozen=True)
class Model:
    """One engine behind the same two functions; ``bos`` is None if the model wants none."""

    encode: Callable[[str], list[int]]
    forward: Callable[[Sequence[int], bool], Logits]
    """Logits [n, vocabulary] of a fresh context's tokens, or [1, vocabulary] when appending."""
    bos: int | None


@contextmanager
def open_edgellama(path: Path, num_threads: int) -> Iterator[Model]:
    """edgellama's engine and tokenizer."""
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile
    from edgellama.text.tokenizer import load_tokenizer

    with ExitStack() as stack:
        file = stack.enter_context(GGUFFile(path))
        tokenizer = load_tokenizer(file.metadata)
        engine = stack.enter_context(Engine(file, num_threads=num_threads))
        cache = engine.new_cache(CHUNK_TOKENS)

        def forward(tokens: Sequence[int], append: bool) -> Logits:
            if not append:
                cache.truncate(0)
            return engine.forward(tokens, cache, logits="last" if append else "all")

        special = tokenizer.special
        yield Model(
            encode=lambda text: tokenizer.encode(text, add_bos=False, parse_special=True),
            forward=forward,
            bos=special.bos_id if special.add_bos else None,
        )


@contextmanager
def open_llama_cpp(
    path: Path, num_threads: int, *, flash_attention: bool = False
) -> Iterator[Model]:
    """llama.cpp with its defaults but for the attention's algorithm, if wanted."""
    import llama_cpp

    model = llama_cpp.Llama(
        model_path=str(path),
        n_ctx=CHUNK_TOKENS,
        n_threads=num_threads,
        n_threads_batch=num_threads,
        logits_all=True,
        flash_attn=flash_attention,
        verbose=False,
    )

    def forward(tokens: Sequence[int], append: bool) -> Logits:
        if not append:
            model.reset()
        model.eval(list(tokens))
        first = model.n_tokens - len(tokens)
        rows: Logits = model.scores[first : model.n_tokens]
        return rows

    wants_bos = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(model.model))
    yield Model(
        encode=lambda text: model.tokenize(text.encode(), add_bos=False, special=True),
        forward=forward,
        bos=model.token_bos() if wants_bos else None,
    )
    model.close()


OPEN: dict[str, Callable[[Path, int], Any]] = {
    "edgellama": open_edgellama,
    "llama.cpp": open_llama_cpp,
    "llama.cpp with flash attention": partial(open_llama_cpp, flash_attention=True),
}


def greedy(model: Model, prompt: str) -> dict[str, Any]:
    """The most likely tokens after ``prompt``, and how far each was ahead of the second."""
    first = [] if model.bos is None else [model.bos]
    rows = model.forward(first + model.encode(prompt), False)
    tokens: list[int] = []
    leads: list[float] = []
    while len(tokens) < GREEDY_TOKENS:
        second, best = sorted(rows[-1].argpartition(-2)[-2:], key=lambda token: rows[-1][token])
        tokens.append(int(best))
        leads.append(float(rows[-1][best] - rows[-1][second]))
        rows = model.forward([int(best)], True)
    return {"tokens": tokens, "leads": leads}


def log_probabilities(model: Model, text: str) -> dict[str, list[Any]]:
    """Scored tokens, their log-probabilities, and the token that was most likely instead."""
    first = [] if model.bos is None else [model.bos]
    tokens, step = model.encode(text), CHUNK_TOKENS - len(first)
    scored: list[int] = []
    values: list[float] = []
    best: list[int] = []
    for start in range(0, len(tokens) - step + 1, step):
        chunk = first + tokens[start : start + step]
        rows = model.forward(chunk, False)
        for position in range(CHUNK_TOKENS // 2, CHUNK_TOKENS):
            row, target = rows[position - 1].astype("float64"), chunk[position]
            top = row.max()
            scored.append(target)
            values.append(float(row[target] - top) - log_sum(row - top))
            best.append(int(row.argmax()))
    return {"tokens": scored, "values": values, "best": best}


def log_sum(row: Any) -> float:
    """log(sum(exp(row))) of values up to 0."""
    import numpy as np

    return float(np.log(np.exp(row).sum()))


def work(engine: str, model_path: Path, num_threads: int, text: Path) -> None:
    """Worker: print all of one engine's results as one line of JSON."""
    with OPEN[engine](model_path, num_threads) as model:
        result = {
            "greedy": [greedy(model, prompt) for prompt in GREEDY_PROMPTS],
            "scored": log_probabilities(model, text.read_text("utf-8")),
        }
    print(json.dumps(result))


def run_worker(python: str, engine: str, options: argparse.Namespace) -> Any:
    """One engine's results, from a process of its own."""
    command = [python, __file__, str(options.model), "--worker", engine]
    command += ["--threads", str(options.threads), "--text", str(options.text)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def perplexity(values: Sequence[float]) -> float:
    """exp of the mean negative log-probability."""
    import math

    return math.exp(-sum(values) / len(values))


def compare_greedy(name: str, ours: Any, peer: Any) -> int:
    """Both sets of prompts; how many questions get the same answer."""
    half = len(PROMPTS)
    compare_continuations(name, PROMPTS, ours[:half], peer[:half])
    return compare_continuations(name, QUESTIONS, ours[half:], peer[half:])


def compare_continuations(name: str, prompts: Sequence[str], ours: Any, peer: Any) -> int:
    """Print where each prompt's continuations part from llama.cpp's; the number that are equal."""
    equal = 0
    for prompt, own, other in zip(prompts, ours, peer, strict=True):
        if own["tokens"] == other["tokens"]:
            equal += 1
            print(f"- {prompt!r}: equal")
            continue
        pairs = zip(own["tokens"], other["tokens"], strict=True)
        index = next(number for number, pair in enumerate(pairs) if pair[0] != pair[1])
        print(
            f"- {prompt!r}: part at token {index + 1}, where {name}'s best leads by "
            f"{own['leads'][index]:.3f} and llama.cpp's by {other['leads'][index]:.3f}"
        )
    print(f"\nGreedy, {GREEDY_TOKENS} tokens: {equal} of {len(prompts)} equal.\n")
    return equal


def compare_scores(name: str, ours: Any, peer: Any) -> float:
    """Print both perplexities and how single tokens differ; the relative difference."""
    if ours["tokens"] != peer["tokens"]:
        raise RuntimeError("the two tokenizers give different tokens for the text")
    pairs = list(zip(ours["values"], peer["values"], strict=True))
    own, other = perplexity(ours["values"]), perplexity(peer["values"])
    relative = own / other - 1
    same = sum(a == b for a, b in zip(ours["best"], peer["best"], strict=True)) / len(pairs)
    error = (sum((a - b) ** 2 for a, b in pairs) / len(pairs)) ** 0.5
    print(f"Perplexity of {len(pairs)} tokens: {name} {own:.4f}, llama.cpp {other:.4f}")
    print(f"({relative:+.3%}); log-probabilities differ by {error:.4f} (root mean square),")
    print(f"the most likely token is the same at {same:.1%} of the positions.")
    return relative


def main() -> None:
    """Compare, print, and end with status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--peer-python", help="interpreter with llama-cpp-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", type=Path, default=ENGLISH)
    parser.add_argument(
        "--control",
        action="store_true",
        help="compare llama.cpp with itself too, computing attention another way: its own noise",
    )
    parser.add_argument("--worker", choices=OPEN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.model, options.threads, options.text)
        return
    if not options.peer_python:
        parser.error("--peer-python is missing: there is nothing to compare with")
    peer = run_worker(options.peer_python, "llama.cpp", options)
    if options.control:
        name = "llama.cpp with flash attention"
        control = run_worker(options.peer_python, name, options)
        print(f"### Control: {name} against llama.cpp\n")
        compare_greedy(name, control["greedy"], peer["greedy"])
        compare_scores(name, control["scored"], peer["scored"])
        print()
    ours = run_worker(sys.executable, "edgellama", options)
    print("### edgellama against llama.cpp\n")
    equal = compare_greedy("edgellama", ours["greedy"], peer["greedy"])
    relative = compare_scores("edgellama", ours["scored"], peer["scored"])
    if equal < GREEDY_TARGET or abs(relative) > PERPLEXITY_TARGET:
        sys.exit("a target is missed")


if __name__ == "__main__":
    main()
