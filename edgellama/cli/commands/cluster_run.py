"""``edgellama cluster run``: a text by a model whose layers lie on several machines.

``inputs.cluster_stages`` opens the stages.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from edgellama.cli.inputs.cluster_stages import spread_model
from edgellama.cli.inputs.prompt_text import read_prompt
from edgellama.cli.options.answer_options import answer_arguments, answer_options
from edgellama.cli.options.completion import KV_TYPE, MODEL
from edgellama.cli.options.machines_options import address_option, machines_option
from edgellama.cli.options.options import (
    given_options,
    limit_options,
    max_tokens_option,
    text_file_option,
)
from edgellama.cli.options.sampling_options import sampling_options
from edgellama.cli.options.token_count import TokenCount
from edgellama.cli.output.shown_text import ShownText
from edgellama.cli.output.streaming import run_stream, speed_line
from edgellama.cli.output.terminal import dim


@click.command("run", short_help="Answer a prompt with a model on several machines.")
@click.argument("model", type=MODEL)
@machines_option(required=True)
@click.option("-p", "--prompt", metavar="TEXT", help="The prompt.")
@text_file_option("Read the prompt from FILE")
@max_tokens_option
@sampling_options(chat=False)
@limit_options
@answer_options
@click.option("--chat/--raw", default=False, help="Ask in the model's chat format.  [default: raw]")
@click.option("--system", metavar="TEXT", help="System prompt, with --chat.")
@click.option("--kv", "kv_type", type=KV_TYPE, default="f16", show_default=True,
              help="Type of keys and values.")  # fmt: skip
@click.option("-c", "--context", "context_length", type=TokenCount(min=1), metavar="N",
              help="Tokens of context.  [default: 4096, or the model's own if less]")  # fmt: skip
@click.option(
    "--exact", is_flag=True, help="Give the same bits as one process, even after a stage was lost."
)
@address_option
def command(
    model: str,
    machines_text: str,
    prompt: str | None,
    file: str | None,
    chat: bool,
    system: str | None,
    kv_type: str,
    context_length: int | None,
    exact: bool,
    address: str | None,
    **options: Any,
) -> None:
    """Answer a prompt with MODEL, divided as `edgellama cluster plan` says.

    The first machine is this one. The others belong to a Ray cluster, where each needs a
    resource with its name (`ray start --resources`), and the model's file at the same path
    or pulled under the same name.

    \b
    Examples:
      edgellama cluster run /models/70b.gguf --machines laptop:24GB:60,desk:32GB:80 \\
        --chat -p "Why is the sky blue?"
    """
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat")
    text = read_prompt(prompt, file, False)
    sampling = given_options(answer_arguments(options))
    spread = spread_model(
        model, machines_text, context_length=context_length, kv_type=kv_type, exact=exact
    )
    spread.connect(address)
    with spread.open() as llama:
        talk = partial(llama.chat(system).stream, text) if chat else partial(llama.stream, text)
        stream = talk(**sampling)
        shown = ShownText()
        run_stream(stream, shown.write, think=shown.think)
        shown.end_thinking()
        if sys.stdout.isatty() or not sys.stderr.isatty():
            print(flush=True)
        print(dim(speed_line(stream.result), sys.stderr), file=sys.stderr)
