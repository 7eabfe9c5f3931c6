"""``edgellama rerank``: orders documents by how well they answer a query.

``generation.judging.reranking`` ranks, ``text_lines`` reads the documents.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from edgellama.cli.inputs.text_lines import TextLines, lines_option
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import reading_options, take_engine_arguments, type_option
from edgellama.cli.options.options import count_option, given_options, json_option
from edgellama.cli.options.template_option import template_option
from edgellama.cli.output.terminal import printable

PROMPT_HELP = "Ask the model this about each document, with {query} and {document} filled in."
CHAT_HELP = (
    "Ask in the model's chat format, or with the bare prompt.  [default: chat, if there is one]"
)


@click.command("rerank", short_help="Order documents by how well they answer a query.")
@click.argument("model", type=MODEL)
@click.argument("query")
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@lines_option("document")
@count_option(*("-n", "--top", "top_n"), text="Print only this many of the best.  [default: all]")
@click.option("--prompt", metavar="TEXT", help=PROMPT_HELP)
@click.option(
    "--answers",
    type=(str, str),
    default=None,
    metavar="YES NO",
    help="The two words that the model chooses between.  [default: yes no]",
)
@click.option("--chat/--raw", default=None, help=CHAT_HELP)
@template_option
@click.option(
    "--truncate", is_flag=True, default=None, help="Drop the end of documents that are too long."
)
@type_option
@adapter_option()
@reading_options
@json_option("Print a line of JSON for each document.")
def command(
    model: str,
    query: str,
    documents: tuple[str, ...],
    file: str | None,
    top_n: int | None,
    type_name: str | None,
    adapters: Sequence[AdapterPath],
    as_json: bool,
    **options: Any,
) -> None:
    """Order documents by how well they answer QUERY, the best first.

    The score, from 0 to 1, is the probability that the model answers yes when it is asked
    whether the document is relevant. Use a model that follows instructions. Documents are
    arguments, or lines of FILE or of standard input; a line may be an object with "text"
    and "id".

    \b
    Examples:
      edgellama rerank llama3.2:1b "Who wrote Faust?" "Goethe did." "It rains."
      edgellama rerank model.gguf "Which animals fly?" -f passages.txt --top 3
      edgellama rerank model.gguf "tax law" --json < found.jsonl
    """
    import asyncio

    from edgellama.cli.inputs.model_argument import find_runnable, open_model
    from edgellama.cli.output.terminal import step_progress

    lines = TextLines(documents, file, "document")
    engine = take_engine_arguments(options)
    with open_model(find_runnable(model, type_name), **engine) as llama:
        loaded = load_adapters(llama.load_adapter, adapters)
        texts = list(lines.read())
        with step_progress("reading documents") as report:
            # The ranking is awaited, because Ctrl-C ends an awaited call at any moment.
            ranked = asyncio.run(
                llama.rerank_async(
                    query,
                    texts,
                    top_n=top_n,
                    progress=report,
                    adapters=loaded,
                    **given_options(options),
                )
            )
    for each in ranked:
        line = {
            "id": lines.id_of(each.index),
            "score": each.score,
            "num_tokens": each.num_tokens,
            **({"num_dropped": each.num_dropped} if each.num_dropped else {}),
            "text": each.document,
        }
        print(json.dumps(line, ensure_ascii=False) if as_json else _readable(line))


def _readable(line: dict[str, Any]) -> str:
    """The score, and the document in one line."""
    text = " ".join(line["text"].split())
    return f"{line['score']:.4f}  {printable(text) if sys.stdout.isatty() else text}"
