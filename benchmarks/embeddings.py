"""How many tokens a second become vectors, together and one text after another.

    python benchmarks/embeddings.py smollm2 --json results.json

Both ways alternate, and medians are printed; run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter

from edgellama import Llama

TEXT = Path(__file__).resolve().parent.parent / "tests" / "data" / "english.txt"
LENGTHS = (16, 64, 256)


def seconds(llama: Llama, texts: list[list[int]], together: bool) -> float:
    """How long all texts take."""
    started = perf_counter()
    if together:
        llama.embed(texts)
    else:
        for text in texts:
            llama.embed([text])
    return perf_counter() - started


def main() -> None:
    """Print a line for each length of texts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=4096, help="of all texts of a length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    with Llama(options.model) as llama:
        tokens = llama.tokenizer.encode(TEXT.read_text("utf-8"), add_bos=False)
        for length in LENGTHS:
            starts = [n * length % (len(tokens) - length) for n in range(options.tokens // length)]
            texts = [tokens[start : start + length] for start in starts]
            times: dict[bool, list[float]] = {True: [], False: []}
            for number in range(options.rounds):
                # What runs first finds other caches than what runs second.
                for together in (number % 2 == 0, number % 2 == 1):
                    times[together].append(seconds(llama, texts, together))
            speeds = {way: len(texts) * length / median(all_s) for way, all_s in times.items()}
            line = {
                "text_tokens": length,
                "together_tokens_per_s": round(speeds[True], 1),
                "alone_tokens_per_s": round(speeds[False], 1),
            }
            found.append(line)
            print(
                f"texts of {length:>3} tokens: {speeds[True]:,.0f} tokens/s together, "
                f"{speeds[False]:,.0f} one after another"
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
