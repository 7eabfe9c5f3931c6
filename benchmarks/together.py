"""How fast one text is decoded, and several together, with exact results and without.

``python benchmarks/together.py MODEL --texts 8`` opens the model both ways, and measures them by
turns: medians are shown, and the median of each round's own ratio to one text that is not exact.
Prompts are random tokens, nothing ends a text early, and no tokens are guessed.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from statistics import median
from time import perf_counter

from workload import pseudo_random_tokens

from edgellama import Llama

PROMPT_TOKENS = 16
MARKS = {False: "", True: ", exact"}


def tokens_per_second(llama: Llama, num_texts: int, num_tokens: int) -> float:
    """Decoded tokens per second of all texts together; their prompts are read before."""
    vocab_size = llama.tokenizer.vocab_size
    tokens = pseudo_random_tokens(num_texts * PROMPT_TOKENS, vocab_size)
    prompts = [tokens[text::num_texts] for text in range(num_texts)]
    seconds = []
    for length in (1, 1 + num_tokens):
        started = perf_counter()
        list(
            llama.generate_batch(
                prompts, max_tokens=length, width=num_texts, temperature=0, ignore_eos=True
            )
        )
        seconds.append(perf_counter() - started)
    return num_texts * num_tokens / (seconds[1] - seconds[0])


def main() -> None:
    """Measure in rounds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a name or a file")
    parser.add_argument("--texts", type=int, default=8, help="decoded together")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cases = [(texts, exact) for texts in (1, options.texts) for exact in MARKS]
    with ExitStack() as stack:
        models = {
            exact: stack.enter_context(
                Llama(
                    options.model,
                    exact=exact,
                    num_threads=options.threads,
                    context_length=PROMPT_TOKENS + options.tokens + 1,
                    cache_limit=0,
                    speculation=False,
                )
            )
            for exact in MARKS
        }
        rounds = [
            {
                (texts, exact): tokens_per_second(models[exact], texts, options.tokens)
                for texts, exact in cases
            }
            for _ in range(1 + options.rounds)
        ][1:]  # The first one compiles, and warms the file up.
    print("| texts | tokens/s | ratio |\n|---|---:|---:|")
    for texts, exact in cases:
        speeds = [found[texts, exact] for found in rounds]
        ratios = [found[texts, exact] / found[1, False] for found in rounds]
        print(
            f"| {texts}{MARKS[exact]} | {median(speeds):.1f} | "
            f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
