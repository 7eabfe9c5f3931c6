"""``edgellama chat``: a conversation on a terminal or through a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.chat_commands import COMMANDS, run_command
from edgellama.cli.chat_input import MessageReader, PlainReader, TerminalReader, history_path
from edgellama.cli.options import engine_options, given, sampling_options
from edgellama.cli.streaming import run_stream, speed_line
from edgellama.cli.terminal import dim, printable
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.llama import Conversation, Generation, Llama, Stream


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
@sampling_options
@engine_options
def command(
    model: str | None,
    system: str | None,
    context_length: int | None,
    num_threads: int | None,
    **options: Any,
) -> None:
    """Chat with MODEL (default: the starter model, downloaded first if need be).

    On a terminal, /help lists the commands. From a pipe, every line is a message and only
    the replies go to standard output.

    \b
    Examples:
      edgellama chat
      edgellama chat model.gguf --system "Answer in French." --temperature 0
      echo "Why is the sky blue?" | edgellama chat smollm2
    """
    from edgellama.cli.model_argument import find_model

    path = find_model(model)
    from edgellama.llama import Llama

    with Llama(path, context_length=context_length, num_threads=num_threads) as llama:
        chat = Chat(llama, system, given(options))
        if sys.stdin.isatty() and sys.stdout.isatty():
            show_dim(f"{path.stem}; /help lists the commands")
            talk(chat, TerminalReader(list(COMMANDS), history_path()))
        else:
            transcribe(chat, PlainReader(sys.stdin))


class Chat:
    """One conversation and the model it is held with; shows replies as they come."""

    def __init__(self, llama: Llama, system: str | None, options: dict[str, Any]) -> None:
        self._llama = llama
        self._options = options
        self.system = system
        self.last_reply: Generation | None = None
        self.conversation: Conversation = self._start()

    def restart(self, system: str | None) -> None:
        """A new, empty conversation with this system prompt."""
        self.conversation.close()
        self.system = system
        self.last_reply = None
        self.conversation = self._start()

    def answer(self, message: str) -> None:
        """Streams the reply to ``message``; Ctrl-C stops it and goes on as KeyboardInterrupt."""
        self._show(self.conversation.stream(message, **self._options))

    def regenerate(self) -> None:
        """Streams another reply to the last message."""
        self._show(self.conversation.regenerate(**self._options))

    def _start(self) -> Conversation:
        return self._llama.chat(self.system)

    def _show(self, stream: Stream) -> None:
        try:
            run_stream(stream, _write)
        finally:
            _write("\n")
        self.last_reply = stream.result
        show_dim(_reply_line(stream.result))


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
            show_dim("stopped; Ctrl-C again leaves")
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


def _reply_line(reply: Generation) -> str:
    if reply.finish_reason == "length":
        return f"{speed_line(reply)}; cut off: no room left, /clear starts anew"
    return speed_line(reply)
