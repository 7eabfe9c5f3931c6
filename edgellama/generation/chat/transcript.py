"""The messages of a conversation as they are kept, edited and saved; nothing is computed here.

``conversation_file`` has the file, and ``conversation`` the replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgellama.generation.chat.conversation_file import SavedMessages, read_messages, write_messages
from edgellama.generation.chat.messages import Message, checked_messages, content_text, is_role
from edgellama.generation.chat.turns import Turn, turn_as_json, turn_from_json
from edgellama.quant.errors import EdgellamaError, InvalidOptionError


class Transcript:
    """All messages, the system's first; how many the model no longer sees; the last turn's tokens.

    ``messages`` is one list for ever, which its user may change, into malformed ones, too.
    """

    def __init__(self, messages: Sequence[Mapping[str, object]] = ()) -> None:
        self.messages: list[Message] = checked_messages(messages)
        self.last_turn: Turn | None = None
        self._dropped_messages = 0

    @property
    def num_system(self) -> int:
        """How many messages at the start are the system's: one or none."""
        return int(bool(self.messages) and is_role(self.messages[0], "system"))

    @property
    def system(self) -> str | None:
        """The system prompt, None for none."""
        return content_text(self.messages[0]["content"]) if self.num_system else None

    @system.setter
    def system(self, text: str | None) -> None:
        given: list[Message] = []
        if text is not None:
            try:
                given = [{"role": "system", "content": content_text(text)}]
            except InvalidOptionError as error:
                raise error.within("system") from None
        self.messages[: self.num_system] = given

    @property
    def dropped_messages(self) -> int:
        """How many of the oldest messages, without the system's, went out of the prompt."""
        return min(self._dropped_messages, len(self.messages) - self.num_system)

    def replace(self, messages: Sequence[Mapping[str, object]]) -> None:
        """Other messages, of which the model sees all."""
        self.messages[:] = checked_messages(messages)
        self._dropped_messages = 0

    def add(
        self, num_kept: int, said: Sequence[Message], *, dropped_messages: int, turn: Turn
    ) -> None:
        """Go on from the first ``num_kept`` messages with a reply and what was asked for it."""
        self.messages[num_kept:] = said
        self._dropped_messages = dropped_messages
        self.last_turn = turn

    def num_asked(self) -> int:
        """How many messages there are up to the last that is no reply.

        EdgellamaError if there is nothing to answer.
        """
        count = len(self.messages)
        while count > self.num_system and is_role(self.messages[count - 1], "assistant"):
            count -= 1
        if count == self.num_system:
            raise EdgellamaError("there is no message to answer again")
        return count

    def undo(self) -> list[Message]:
        """Take back the last message of the user and all that followed."""
        users = [n for n, message in enumerate(self.messages) if is_role(message, "user")]
        if not users:
            raise EdgellamaError("there is no message to take back")
        taken = self.messages[users[-1] :]
        del self.messages[users[-1] :]
        return taken

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        del self.messages[self.num_system :]
        self._dropped_messages = 0
        self.last_turn = None

    def save(self, path: Path, model: str | None) -> None:
        """Write everything to a JSON file."""
        last = None if self.last_turn is None else turn_as_json(self.last_turn)
        messages = checked_messages(self.messages)
        write_messages(path, SavedMessages(messages, self.dropped_messages, last, model))

    def load(self, path: Path, vocab_size: int) -> None:
        """Take everything from such a file; nothing changes where that fails."""
        saved = read_messages(path)
        self.messages[:] = saved.messages
        self._dropped_messages = saved.dropped_messages
        self.last_turn = turn_from_json(saved.last_turn, vocab_size)

    def copy(self) -> Transcript:
        """A copy that changes independently."""
        copied = Transcript(self.messages)
        copied._dropped_messages = self._dropped_messages
        copied.last_turn = self.last_turn
        return copied
