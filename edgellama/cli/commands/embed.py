"""``edgellama embed``: texts as vectors, in lines of JSON or as a NumPy array.

``generation.judging.embedding`` computes the vectors, ``text_lines`` reads the texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from edgellama.cli.background import run_interruptible
from edgellama.cli.inputs.text_lines import STANDARD_STREAM, TextLines, lines_option
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.options.completion import MODEL, PATH
from edgellama.cli.options.engine_options import reading_options, take_engine_arguments, type_option
from edgellama.cli.options.options import given_options

if TYPE_CHECKING:
    from edgellama.generation.judging.embedding import Embedding

PATIENCE_S = 2.0
"""How long Ctrl-C waits for a step to end, where it may be a pipe that is waited for."""
ARRAY_SUFFIX = ".npy"
EXACT_DIGITS = 9
"""So many decimal digits tell every f32 from its neighbours."""


@click.command("embed", short_help="Turn texts into vectors.")
@click.argument("model", type=MODEL)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@lines_option("text")
@click.option(
    *("-o", "--output"),
    type=PATH,
    metavar="FILE",
    default=STANDARD_STREAM,
    help="Write an array to FILE.npy, or JSON lines to any other file.  [default: stdout]",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "last", "first"]),
    help="Which tokens the vector is made from.  [default: what the model says, else mean]",
)
@click.option(
    "--normalize/--raw",
    default=None,
    help="Scale each vector to length 1, or not.  [default: normalize]",
)
@click.option(
    "--truncate", is_flag=True, default=None, help="Drop the end of texts that are too long."
)
@type_option
@adapter_option()
@reading_options
def command(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    output: str,
    type_name: str | None,
    adapters: Sequence[AdapterPath],
    **options: Any,
) -> None:
    """Turn texts into vectors, several at once: for search, clusters and retrieval.

    Texts are arguments, or lines of FILE or of standard input. Empty lines are skipped. A
    line that begins with { may be an object with "text" and "id". Each line of the output
    has "id" (by default the text's number, from 0), "num_tokens" and "embedding".

    \b
    Examples:
      edgellama embed smollm2 "Why is the sky blue?" "Rayleigh scattering"
      edgellama embed smollm2 -f sentences.txt -o vectors.npy
      jq -c '{id, text: .title}' books.jsonl | edgellama embed smollm2 > v.jsonl
    """
    from edgellama.cli.inputs.model_argument import find_runnable, open_model
    from edgellama.cli.output.terminal import step_progress
    from edgellama.generation.concurrency.in_order import with_progress
    from edgellama.quant.replaced_file import replaced_file

    lines = TextLines(texts, file)
    engine = take_engine_arguments(options)
    with ExitStack() as opened:
        llama = opened.enter_context(open_model(find_runnable(model, type_name), **engine))
        loaded = load_adapters(llama.load_adapter, adapters)
        found = llama.embed_each(lines.read(), adapters=loaded, **given_options(options))
        if output == STANDARD_STREAM:
            write = partial(_write_lines, sys.stdout.buffer, found, lines)
        else:
            target = opened.enter_context(replaced_file(Path(output)))
            report = opened.enter_context(step_progress("embedding texts"))
            seen = with_progress(found, lines.total, report)
            write = partial(_write_lines, target, seen, lines)
            if output.endswith(ARRAY_SUFFIX):
                write = partial(_write_array, target, seen, llama.config.embedding_length)
        run_interruptible(write, found.cancel, patience_s=PATIENCE_S)


def _write_lines(target: BinaryIO, found: Iterable[Embedding], lines: TextLines) -> None:
    for index, embedding in enumerate(found):
        line = {
            "id": lines.id_of(index),
            "num_tokens": embedding.num_tokens,
            **({"num_dropped": embedding.num_dropped} if embedding.num_dropped else {}),
            "embedding": [float(f"{number:.{EXACT_DIGITS}g}") for number in embedding.vector],
        }
        target.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        target.flush()


def _write_array(target: BinaryIO, found: Iterable[Embedding], width: int) -> None:
    import numpy as np

    rows = [embedding.vector for embedding in found]
    np.save(target, np.stack(rows) if rows else np.empty((0, width), np.float32))
