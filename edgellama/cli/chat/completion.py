"""Completion at the chat's prompt: commands, names of options, models and files.

``command`` knows the commands, and the values of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

Words = Callable[[str], Iterable[str]]
"""From a word that is not finished to all that it could become."""


def chat_completer(
    commands: Sequence[str], arguments: Mapping[str, Words], file_commands: Sequence[str]
) -> Completer:
    """Complete the first word of a message that starts with a slash, and what follows it."""
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document as TextSoFar

    paths = PathCompleter(expanduser=True)

    class ChatCompleter(Completer):
        """Commands, then their arguments."""

        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterable[Completion]:
            typed = document.text
            # In the middle of a text nothing is completed.
            if not typed.startswith("/") or not document.is_cursor_at_the_end:
                return
            command, space, argument = typed.partition(" ")
            if command in file_commands and space:
                path = TextSoFar(argument)
                yield from paths.get_completions(path, complete_event)
                return
            words: Iterable[str] = commands
            if space:
                words = arguments[command](argument) if command in arguments else ()
            unfinished = argument if space else command
            for word in words:
                if word.startswith(unfinished) and word != unfinished:
                    yield Completion(word, start_position=-len(unfinished))

    return ChatCompleter()
