"""``edgellama imatrix``: which columns of a model matter for a text, as a file for ``convert``.

``measure.importance`` measures, ``convert.imatrix`` writes the file.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.inputs.prompt_text import read_prompt
from edgellama.cli.options.completion import MODEL, PATH
from edgellama.cli.options.options import (
    chunks_option,
    count_option,
    overwrite_option,
    text_file_option,
    threads_option,
)
from edgellama.cli.options.token_count import TokenCount

OUTPUT_HELP = "Include the output matrix, which is usually better left out."


@click.command("imatrix", short_help="Measure which weights matter most, for convert.")
@click.argument("model", type=MODEL)
@text_file_option("The text, a UTF-8 file", required=True, metavar="TEXT")
@click.option(
    "-o",
    "--output",
    required=True,
    type=PATH,
    metavar="FILE",
    help="Where to write the importance matrix.",
)
@count_option(
    *("-c", "--context", "chunk_tokens"),
    text="Tokens that are read together.  [default: 512]",
    kind=TokenCount,
)
@chunks_option
@threads_option
@click.option("--process-output", "with_output", is_flag=True, help=OUTPUT_HELP)
@overwrite_option("FILE")
def command(
    model: str,
    file: str,
    output: str,
    chunk_tokens: int | None,
    max_chunks: int | None,
    num_threads: int | None,
    with_output: bool,
    overwrite: bool,
) -> None:
    """Measure how much each column of MODEL's matrices matters for a text.

    The result improves conversions to few bits: edgellama convert --imatrix FILE. Use a
    model of 8 bits or more, and some 50,000 tokens of varied text. The file has llama.cpp's
    format.

    \b
    Examples:
      edgellama imatrix model-f16.gguf -f wiki.txt -o imatrix.gguf
      edgellama imatrix model-q8_0.gguf -f wiki.txt -o imatrix.gguf --chunks 100
    """
    from edgellama.cli.background import run_cancellable
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.output.terminal import kernel_progress, step_progress
    from edgellama.convert.imatrix import write_imatrix
    from edgellama.convert.output.whole_file import check_output
    from edgellama.measure.importance import measure_importance

    path = find_model(model)
    check_output(Path(output), overwrite=overwrite)
    text = read_prompt(None, file, from_stdin=False)
    with kernel_progress() as compiled, step_progress("reading the text") as progress:
        importance = run_cancellable(
            lambda cancelled: measure_importance(
                path,
                text,
                chunk_tokens=chunk_tokens,
                max_chunks=max_chunks,
                with_output=with_output,
                num_threads=num_threads,
                cancelled=cancelled,
                progress=progress,
                kernel_progress=compiled,
            )
        )
    write_imatrix(
        output,
        importance.sums,
        num_tokens=importance.num_tokens,
        chunk_tokens=importance.chunk_tokens,
        datasets=[file],
        overwrite=overwrite,
    )
    num_chunks = importance.num_tokens // importance.chunk_tokens
    click.echo(
        f"{output}: {len(importance.sums)} matrices, measured over {importance.num_tokens} tokens "
        f"in {num_chunks} chunks"
    )
