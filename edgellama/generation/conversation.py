"""A conversation: messages in the model's own chat format over one session.

It keeps messages and prompt tokens in step, so that a new turn computes only what is new.
How a template becomes tokens is known to chat_template, generating to session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.generation.conversation_file import Message, read_messages, write_messages
from edgellama.generation.decoding import Request, shared_length
from edgellama.generation.results import Generation
from edgellama.generation.session import Session
from edgellama.quant.errors import EdgellamaError
from edgellama.sampling.options import SamplingOptions
from edgellama.text.chat_template import ChatTemplate, encode_chat

if TYPE_CHECKING:
    import os

    from edgellama.generation.stream import Stream
    from edgellama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Turn:
    """A prompt as the template writes it, as it was computed, and the reply's own tokens."""

    written: list[int]
    computed: list[int]
    reply: tuple[int, ...]
    reply_text: str


class Conversation:
    """Messages so far and the session that knows them. A context manager; closes the session.

    Options given here hold for every reply: ``max_tokens``, ``stop`` and those of
    SamplingOptions; a call may override them.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str | None = None,
        **options: Any,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._template = template
        self._system = system
        self._options = options
        self._turns: list[Message] = []
        self._last: _Turn | None = None
        # Bad options are reported here, not at the first reply.
        self._request((0,), {})

    @property
    def system(self) -> str | None:
        """The system prompt; a new one holds from the next reply on."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._check_idle()
        self._system = text

    @property
    def messages(self) -> list[Message]:
        """Copies of all messages, each with ``role`` and ``content``, the system's first."""
        return self._messages_with(())

    @property
    def session(self) -> Session:
        """The session that holds the conversation's tokens."""
        return self._session

    def send(self, text: str, **options: Any) -> Generation:
        """Add the user's message and return the reply, which is added too."""
        return self.stream(text, **options).wait()

    def stream(self, text: str, **options: Any) -> Stream:
        """The same, piece by piece.

        Both messages are added when the stream ends, however it ends, provided that some text
        came. Raises ContextLengthError when the conversation is longer than the context;
        nothing is dropped silently.
        """
        self._check_idle()
        return self._reply([*self._turns, {"role": "user", "content": text}], options)

    def regenerate(self, **options: Any) -> Stream:
        """Another reply to the last message of the user, in place of the one it had."""
        self._check_idle()
        turns = list(self._turns)
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        if not turns:
            raise EdgellamaError("there is no message to answer again")
        return self._reply(turns, options)

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        self._check_idle()
        self._turns = []
        self._last = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all messages to a JSON file, in one step."""
        write_messages(Path(path), self.messages)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take all messages, the system prompt too, from a file that ``save`` wrote.

        InvalidOptionError if it is no such file; then nothing changes.
        """
        self._check_idle()
        messages = read_messages(Path(path))
        has_system = bool(messages) and messages[0]["role"] == "system"
        self._system = messages.pop(0)["content"] if has_system else None
        self._turns = messages
        self._last = None

    def close(self) -> None:
        """End a running reply and close the session."""
        self._session.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _reply(self, turns: list[Message], options: Mapping[str, Any]) -> Stream:
        written = encode_chat(self._tokenizer, self._template, self._messages_with(turns))
        computed = self._as_computed(written)

        def end(result: Generation) -> None:
            if result.tokens:
                self._turns = [*turns, {"role": "assistant", "content": result.text}]
                self._last = _Turn(written, computed, result.tokens, result.text)

        return self._session.start(self._request(computed, options), on_end=end)

    def _as_computed(self, written: list[int]) -> list[int]:
        """The prompt with the last reply as the tokens that the model itself chose.

        Encoding a reply's text can give other tokens than were generated, and then the cache
        would not fit. It is done only where the written reply is that reply's text.
        """
        last = self._last
        if last is None or shared_length(last.written, written) < len(last.written):
            return written
        start = len(last.written)
        if len(written) == start:
            return last.computed
        ends = self._tokenizer.special.end_of_generation
        end = next((i for i in range(start, len(written)) if written[i] in ends), None)
        if end is None:
            return written
        same = [
            self._tokenizer.decode(tokens, continuation=True).strip() == last.reply_text.strip()
            for tokens in (written[start:end], last.reply)
        ]
        return [*last.computed, *last.reply, *written[end:]] if all(same) else written

    def _request(self, prompt: Sequence[int], options: Mapping[str, Any]) -> Request:
        given = {**self._options, **options}
        max_tokens = given.pop("max_tokens", None)
        stop = given.pop("stop", ())
        return Request(
            prompt=prompt,
            sampling=SamplingOptions(**given),
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            continuation=False,
        )

    def _messages_with(self, turns: Sequence[Message]) -> list[Message]:
        turns = turns or self._turns
        system: list[Message] = []
        if self._system is not None:
            system = [{"role": "system", "content": self._system}]
        return [*system, *(message.copy() for message in turns)]

    def _check_idle(self) -> None:
        if self._session.busy:
            raise EdgellamaError("a reply is still running; end or close its stream first")
