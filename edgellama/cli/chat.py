"""``edgellama chat``: a conversation on a terminal or through a pipe."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgellama.cli.chat_commands import COMMANDS, run_command
from edgellama.cli.chat_input import MessageReader, PlainReader, TerminalReader, history_path
from edgellama.cli.chat_view import Chat, show_dim
from edgellama.cli.completion import MODEL
from edgellama.cli.options import engine_options, given, sampling_options, type_option
from edgellama.cli.template_option import template_option
from edgellama.quant.errors import EdgellamaError


@click.command("chat", short_help="Chat with a model.")
@click.argument("model", required=False, type=MODEL)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop a reply after this many tokens.",
)
@template_option
@type_option
@sampling_options
@engine_options
def command(
    model: str | None,
    system: str | None,
    type_name: str | None,
    context_length: int | None,
    num_threads: int | None,
    kv_type: str | None,
    **options: Any,
) -> None:
    """Chat with MODEL (default: the starter model, downloaded first if need be).

    On a terminal, /help lists the commands. From a pipe, every line is a message and only
    the replies go to standard output. Sampling is what the model's file recommends, unless an
    option says otherwise. MODEL may be a folder with a checkpoint, which is converted first.

    \b
    Examples:
      edgellama chat
      edgellama chat model.gguf --system "Answer in French." --temperature 0
      edgellama chat Llama-3.2-1B-Instruct --type q4_0
      edgellama chat old-vicuna.gguf --template vicuna
      echo "Why is the sky blue?" | edgellama chat smollm2
    """
    from edgellama.cli.model_argument import find_runnable, open_model

    path = find_runnable(model, type_name)
    engine = given(
        {"context_length": context_length, "num_threads": num_threads, "kv_type": kv_type}
    )
    with open_model(path, **engine) as llama:
        chat = Chat(llama.chat(system, **given(options)))
        if sys.stdin.isatty() and sys.stdout.isatty():
            show_dim(f"{path.stem}, {llama.context_length} tokens of context; /help for commands")
            talk(chat, TerminalReader(list(COMMANDS), history_path()))
        else:
            transcribe(chat, PlainReader(sys.stdin))


def talk(chat: Chat, reader: MessageReader) -> None:
    """The loop on a terminal, until the end of input or the second Ctrl-C in a row."""
    interrupted = False
    while True:
        try:
            message = reader.read()
            interrupted = False
            respond(chat, message)
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            show_dim("Ctrl-C again leaves; what was said so far is kept")
        except (EdgellamaError, OSError) as error:
            text = error.in_terminal if isinstance(error, EdgellamaError) else error
            show_dim(f"error: {text}")


def transcribe(chat: Chat, reader: MessageReader) -> None:
    """The loop for a pipe, until its end; an error ends it."""
    while True:
        try:
            respond(chat, reader.read())
        except EOFError:
            return


def respond(chat: Chat, message: str) -> None:
    """Obeys a slash command or answers a message; an empty one is passed over."""
    if message.startswith("/"):
        text = run_command(chat, message)
        if text:
            show_dim(text)
    elif message.strip():
        chat.answer(message)
