"""What models take, predicted and measured: the table of docs/memory.md.

``python benchmarks/footprints.py MODEL...`` fills contexts of several lengths with keys and values
of several types, each in a process of its own, and compares its peak with what ``edgellama
footprint`` predicts. Options that follow ``--`` go to each run, such as ``-- --draft small.gguf``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="names or files")
    parser.add_argument("--kv", default="f16", help="types of keys and values, with commas between")
    parser.add_argument("--context", default="512,2048", help="tokens, with commas between")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options, more = parser.parse_args(given[:cut]), given[cut + 1 :]
    print("| model | KV | context | predicted | measured peak | difference |")
    print("|---|---|---:|---:|---:|---:|")
    for model in options.models:
        for kv_type in options.kv.split(","):
            for length in options.context.split(","):
                row = measured(model, "--kv", kv_type, "-c", length, *more)
                predicted, peak = row["predicted_total_bytes"], row["measured_rss_bytes"]
                print(
                    f"| {Path(row['model']).stem} {row['type']} | {kv_type} | "
                    f"{row['context_length']:,} | {predicted / 1e6:,.1f} MB | "
                    f"{peak / 1e6:,.1f} MB | {peak / predicted - 1:+.1%} |",
                    flush=True,
                )


def measured(model: str, *options: str) -> dict[str, Any]:
    """The row of one measurement."""
    command = [sys.executable, "-m", "edgellama", "footprint", model, "--measure", "--json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True, text=True)
    (row,) = json.loads(done.stdout)
    found: dict[str, Any] = row
    return found


if __name__ == "__main__":
    main()
