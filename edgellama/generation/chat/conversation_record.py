"""The messages of a conversation, as its user reads, edits, saves and loads them.

``conversation_prompts`` turns them into prompts, and ``conversation`` handles replies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from edgellama.generation.chat.messages import Message
from edgellama.generation.chat.transcript import Transcript
from edgellama.generation.sessions.session import Session
from edgellama.generation.sessions.stream import Stream
from edgellama.quant.error_text import shown
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.given_values import given_path
from edgellama.quant.process_bound import ProcessBound
from edgellama.quant.typing_backports import Self
from edgellama.text.tokenizer import Tokenizer


class ConversationRecord(ProcessBound):
    """The messages of a conversation, and the session that they are computed in."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        *,
        system: str | None,
        messages: Sequence[Mapping[str, object]] | None,
    ) -> None:
        """InvalidOptionError for malformed messages, and for two system prompts."""
        self._session = session
        self._tokenizer = tokenizer
        self._preload: Stream | None = None
        self._transcript = Transcript(() if messages is None else messages)
        if system is not None:
            if self.system is not None:
                raise InvalidOptionError(
                    "system is given, and messages begin with a system message; allowed: one"
                )
            self.system = system

    @property
    def system(self) -> str | None:
        """The system prompt, None for none; a new one holds from the next reply on."""
        return self._transcript.system

    @system.setter
    def system(self, text: str | None) -> None:
        self._check_idle()
        self._transcript.system = text

    @property
    def messages(self) -> list[Message]:
        """All messages, each with ``role`` and ``content``, the system's first.

        You may change this list between replies (append, pop, write another ``content``), or assign
        another. The next reply checks it, and computes only what differs from the last one.
        InvalidOptionError for malformed messages.
        """
        return self._transcript.messages

    @messages.setter
    def messages(self, messages: Sequence[Mapping[str, object]]) -> None:
        self._check_idle()
        self._transcript.replace(messages)

    @property
    def dropped_messages(self) -> int:
        """How many of the oldest messages the model no longer sees, because the context is full."""
        return self._transcript.dropped_messages

    @property
    def session(self) -> Session:
        """The session that holds the conversation's tokens."""
        return self._session

    def undo(self) -> list[Message]:
        """Remove the user's last message and everything after it, and return them.

        Raises:
            EdgellamaError: There is no message of the user, or a reply runs.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=512) as llama, llama.chat() as chat:
            ...     reply = chat.send("Say hello.", max_tokens=2)
            ...     len(chat.undo()), len(chat.messages)
            (2, 0)
        """
        self._check_idle()
        return self._transcript.undo()

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        self._check_idle()
        self._transcript.clear()

    def save(self, path: str | os.PathLike[str], *, model: str | None = None) -> None:
        """Write all messages to a JSON file in one step, so that it is always complete.

        To continue at once later, also call ``session.save`` with a second file, and load both.
        With this file alone, the conversation is computed again from its messages.

        Arguments:
            path: The file, replaced if it is there.
            model: A note about the model in the file, such as its path, for readers. None (the
                default) is none.

        Raises:
            OSError: It cannot be written.
            InvalidOptionError: An argument of another type, or the messages were edited into
                something else.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from edgellama import Llama
            >>> file = Path(tempfile.mkdtemp()) / "talk.json"
            >>> said = [{"role": "user", "content": "Hello"}]
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     llama.chat(messages=said).save(file)
            ...     chat = llama.chat()
            ...     chat.load(file)
            >>> chat.messages == said
            True
        """
        if model is not None and not isinstance(model, str):
            raise InvalidOptionError(f"model is {shown(model)}; allowed: a text or None")
        self._transcript.save(given_path("path", path), model)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Load all messages, including the system prompt, from a file that ``save`` wrote.

        Arguments:
            path: The file.

        Raises:
            InvalidOptionError: It is no such file; then nothing changes.
            OSError: It cannot be read.
            EdgellamaError: A reply runs.

        Example: see ``save``.
        """
        self._check_idle()
        self._transcript.load(given_path("path", path), self._tokenizer.vocab_size)

    def close(self) -> None:
        """End a running reply and close the session."""
        self._session.close()

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_idle(self) -> None:
        preload, self._preload = self._preload, None
        if preload is not None:
            preload.end()
        self._session._end_cancelled()
        if self._session.busy:
            raise EdgellamaError("a reply is still running; end or close its stream first")
