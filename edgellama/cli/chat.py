"""``edgellama chat``: a conversation on a terminal or through a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.chat_commands import COMMANDS, run_command
from edgellama.cli.chat_input import MessageReader, PlainReader, TerminalReader, history_path
from edgellama.cli.options import engine_options, given, sampling_options, type_option
from edgellama.cli.streaming import run_stream, speed_line
from edgellama.cli.terminal import dim, printable
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.conversation import Conversation
    from edgellama.generation import Generation
    from edgellama.stream import Stream


@click.command("chat")
@click.argument("model", required=False)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop a reply after this many tokens.",
)
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
    the replies go to standard output. MODEL may be a folder with a checkpoint, which is
    converted first.

    \b
    Examples:
      edgellama chat
      edgellama chat model.gguf --system "Answer in French." --temperature 0
      edgellama chat Llama-3.2-1B-Instruct --type q4_0
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


class Chat:
    """One conversation and its last reply; shows replies as they come."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.last_reply: Generation | None = None

    def answer(self, message: str) -> None:
        """Streams the reply to ``message``; Ctrl-C stops it and goes on as KeyboardInterrupt."""
        self._show(self.conversation.stream(message))

    def regenerate(self) -> None:
        """Streams another reply to the last message."""
        self._show(self.conversation.regenerate())

    def _show(self, stream: Stream) -> None:
        try:
            run_stream(stream, _write)
        finally:
            _write("\n")
        self.last_reply = stream.result
        show_dim(speed_line(stream.result))


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
            show_dim(f"error: {error}")


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


def show_dim(text: str) -> None:
    """A line that is not part of the conversation, on stderr."""
    print(dim(printable(text), sys.stderr), file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
