"""What texts that run at once take, predicted and measured. POSIX only.

``python benchmarks/texts_memory.py [MODEL] --texts 1,4,16`` lets a process of its own for each
number fill so many contexts together, with texts that share nothing, and compares its peak with
what ``edgellama footprint --parallel`` predicts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from processes import run_child

from edgellama import predict_footprint
from edgellama.models.pulling import pull
from edgellama.models.well_known import STARTER_MODEL

RUN = """
import random
from edgellama import Llama

path, num_texts, length = {arguments!r}
numbers = random.Random(1)
with Llama(path, context_length=length, cache_limit=0) as llama:
    most = llama.tokenizer.vocab_size - 500
    prompts = [[numbers.randrange(500, most) for _ in range(length - 40)] for _ in range(num_texts)]
    list(llama.generate_batch(prompts, max_tokens=39, width=num_texts, ignore_eos=True))
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="the starter model by default")
    parser.add_argument("--texts", default="1,4,16", help="how many at once, with commas")
    parser.add_argument("--context", type=int, default=512, help="tokens of each")
    options = parser.parse_args()
    model = (options.model or pull(STARTER_MODEL)).resolve()
    print("| model | texts | predicted | measured peak | difference |")
    print("|---|---:|---:|---:|---:|")
    for num_texts in map(int, options.texts.split(",")):
        predicted = predict_footprint(
            model, context_length=options.context, num_texts=num_texts
        ).total_bytes
        arguments = (str(model), num_texts, options.context)
        peak = run_child([sys.executable, "-c", RUN.format(arguments=arguments)]).peak_memory_bytes
        print(
            f"| {model.stem} | {num_texts} | {predicted / 1e6:,.1f} MB | {peak / 1e6:,.1f} MB | "
            f"{peak / predicted - 1:+.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
