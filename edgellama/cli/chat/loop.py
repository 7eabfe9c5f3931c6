"""The loops of the chat: one for a person at a terminal, one for lines that come through a pipe.

``chat`` and ``commands`` know what a line does.
"""

from __future__ import annotations

from edgellama.cli.chat.chat import Chat, show_dim
from edgellama.cli.chat.commands import run_command
from edgellama.cli.chat.input import MessageReader, UserMessage
from edgellama.quant.error_text import system_error_text
from edgellama.quant.errors import EdgellamaError


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
            show_dim("press Ctrl-C again to leave")
        except (EdgellamaError, OSError) as error:
            if isinstance(error, EdgellamaError):
                show_dim(f"error: {error.in_terminal}")
            else:
                show_dim(f"error: {system_error_text(error)}")


def transcribe(chat: Chat, reader: MessageReader) -> None:
    """The loop for a pipe, until its end; an error ends it. No text is a command here."""
    while True:
        try:
            message = reader.read()
        except EOFError:
            return
        if message.text.strip():
            chat.answer(message.text)
            stops = chat.settings.when_full == "stop"
            if stops and chat.last_reply is not None and chat.last_reply.context_full:
                return


def respond(chat: Chat, message: UserMessage) -> None:
    """Obey a slash command or answer a message; an empty one is passed over."""
    shown = None if message.is_quoted else run_command(chat, message.text)
    if shown is not None:
        chat.keep()
    if shown:
        show_dim(shown)
    elif shown is None and message.text.strip():
        chat.answer(message.text)
