"""One conversation as the chat shows it: replies as they come, remarks dim and apart."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edgellama.cli.streaming import run_stream, speed_line
from edgellama.cli.terminal import dim, printable

if TYPE_CHECKING:
    from edgellama.generation.conversation import Conversation
    from edgellama.generation.results import Generation
    from edgellama.generation.stream import Stream


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


def show_dim(text: str) -> None:
    """A line that is not part of the conversation, on stderr."""
    print(dim(printable(text), sys.stderr), file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
