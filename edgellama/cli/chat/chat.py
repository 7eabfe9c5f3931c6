"""One chat: a model, its conversation, and replies as they are shown.

``loop`` knows what a user typed, and ``commands`` what slash commands are.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgellama.cli.chat.keyboard import silent_keyboard
from edgellama.cli.options.adapter_option import AdapterPath, load_adapters
from edgellama.cli.output.streaming import run_stream, speed_line
from edgellama.cli.output.terminal import dim, printable
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.records import dataclass
from edgellama.sampling.presets import chat_sampling, merged_options

if TYPE_CHECKING:
    from edgellama.cli.chat.reply_view import ReplyView
    from edgellama.cli.inputs.kept import KeptConversation
    from edgellama.generation.argument_types import WhenFull
    from edgellama.generation.chat.conversation import Conversation
    from edgellama.generation.chat.messages import Message
    from edgellama.generation.results import Generation
    from edgellama.generation.sessions.stream import Stream
    from edgellama.generation.text_options import ChatOptions
    from edgellama.llama import Llama


@dataclass(frozen=True)
class ChatSettings:
    """What the command line said: ``engine`` are options of ``Llama``, ``reply`` of replies.

    ``adapters`` are files with scales, of every model of the chat. ``open_model`` opens a file
    otherwise than in this process alone, with the options of its own. ``hides_thinking``: what the
    model thinks is not shown.
    """

    system: str | None = None
    template: str | None = None
    when_full: WhenFull = "drop"
    engine: Mapping[str, Any] = field(default_factory=dict)
    reply: Mapping[str, Any] = field(default_factory=dict)
    adapters: Sequence[AdapterPath] = ()
    open_model: Callable[[Path], Llama] | None = None
    hides_thinking: bool = False


class Chat:
    """A model's conversation and its last reply. A context manager; closes the model.

    ``kept``: the name under which the conversation is kept, and continued if it exists.
    """

    def __init__(
        self,
        path: Path,
        settings: ChatSettings,
        make_view: Callable[[], ReplyView],
        kept: KeptConversation | None = None,
    ) -> None:
        self._holding = ExitStack()
        self._computed: tuple[int, ...] = ()
        self.kept: KeptConversation | None = None
        if kept is not None:
            self._hold(kept)
        self.settings = settings
        self.given: dict[str, Any] = dict(settings.reply)
        self.last_reply: Generation | None = None
        self._make_view = make_view
        self.hides_thinking = settings.hides_thinking
        self.path = path
        try:
            self.llama, self.conversation = self._open(path)
        except BaseException:
            self._holding.close()
            raise

    def answer(self, message: str) -> None:
        """Stream the reply to ``message``; Ctrl-C stops it and goes on as KeyboardInterrupt."""
        self._show(self.conversation.stream(message))

    def regenerate(self) -> None:
        """Stream another reply to the last message."""
        self._show(self.conversation.regenerate())

    def use_model(self, path: Path) -> None:
        """Continue with another model, which reads the conversation so far at the next reply."""
        llama, conversation = self._open(path)
        try:
            conversation.messages = list(self.conversation.messages)
        except BaseException:
            llama.close()
            raise
        self.llama.close()
        self.path, self.llama, self.conversation = path, llama, conversation

    def set_options(self, given: Mapping[str, Any]) -> None:
        """Options of replies from now on, in place of those given so far; the rest is default."""
        defaults = chat_sampling(self.llama.metadata)
        self.conversation.options = cast("ChatOptions", merged_options(defaults, given))
        self.given = dict(given)

    def resume(self) -> None:
        """Continue the kept conversation, if there is one, and show where it was."""
        if self.kept is None:
            return
        if not self.kept.exists:
            show_dim(f"a new conversation, kept as {self.kept.name}")
            return
        why = self.kept.load(self.conversation)
        if self.settings.system is not None:
            self.conversation.system = self.settings.system
        self._computed = self.conversation.session.tokens
        messages = self.conversation.messages
        show_dim(f"continuing {self.kept.name}, {len(messages)} messages")
        if why is not None:
            show_dim(f"the next reply computes them again: {why}")
        if sys.stdout.isatty():
            self._show_last(messages)

    def keep(self) -> None:
        """Write the messages, if the conversation is kept and has any or had some before."""
        if self.kept is not None and (self.is_begun or self.kept.exists):
            self.kept.save_messages(self.conversation, self.path)

    def keep_as(self, kept: KeptConversation) -> None:
        """Keep the conversation under this name from now on."""
        self._hold(kept)
        self._computed = ()
        self.keep()

    def close(self) -> None:
        """Close the model; what a kept conversation has computed is written before."""
        try:
            self._keep_session()
        except (EdgellamaError, OSError) as error:
            show_dim(f"the computed part could not be kept: {error}")
        finally:
            self.llama.close()
            self._holding.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hold(self, kept: KeptConversation) -> None:
        if self.kept is not None and self.kept.name == kept.name:
            return
        with ExitStack() as holding:
            holding.enter_context(kept.locked())
            self._holding.close()
            self._holding = holding.pop_all()
        self.kept = kept

    @property
    def is_begun(self) -> bool:
        """Whether the user has said anything."""
        return any(message["role"] == "user" for message in self.conversation.messages)

    def _keep_session(self) -> None:
        tokens = self.conversation.session.tokens
        if self.kept is None or tokens == self._computed:
            return
        if self.is_begun and tokens:
            self.kept.save_session(self.conversation)
        else:
            self.kept.remove_session()

    def _show_last(self, messages: Sequence[Message]) -> None:
        """The last message of the user and what was answered."""
        users = [n for n, message in enumerate(messages) if message["role"] == "user"]
        if not users:
            return
        asked, *replies = messages[users[-1] :]
        show_dim(f">>> {asked['content']}")
        for reply in replies:
            view = self._make_view()
            thought = reply.get("reasoning")
            if thought and not self.hides_thinking:
                view.think(thought)
            view.add(reply["content"])
            view.end()

    def _open(self, path: Path) -> tuple[Llama, Conversation]:
        from edgellama.cli.inputs.model_argument import open_model

        opens = self.settings.open_model
        llama = opens(path) if opens else open_model(path, **self.settings.engine)
        try:
            conversation = llama.chat(
                self.settings.system,
                template=self.settings.template,
                when_full=self.settings.when_full,
                adapters=load_adapters(llama.load_adapter, self.settings.adapters),
                **self.given,
            )
        except BaseException:
            llama.close()
            raise
        return llama, conversation

    def _show(self, stream: Stream) -> None:
        view = self._make_view()
        interrupted = False
        with silent_keyboard():
            try:
                think = view.wait if self.hides_thinking else view.think
                run_stream(stream, view.add, lambda: view.idle(*stream.prefill_progress), think)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                view.end()
        result = self.last_reply = stream.result
        self.keep()
        if interrupted:
            kept = "what it said so far is kept" if result.tokens else "it had said nothing yet"
            show_dim(f"stopped; {kept}")
            raise KeyboardInterrupt
        if result.dropped_messages:
            show_dim(
                f"the context of {self.llama.context_length:,} tokens is full; the oldest "
                f"{self.conversation.dropped_messages} messages are no longer seen"
            )
        if result.context_full and not result.tokens:
            show_dim(
                f"the context of {self.llama.context_length:,} tokens is full, and this chat stops "
                "there; /undo or /clear makes room, /save FILE keeps it"
            )
        else:
            show_dim(speed_line(result))


def show_dim(text: str) -> None:
    """A line that is not part of the conversation, on stderr; a terminal's is wrapped by words."""
    text = printable(text)
    if sys.stderr.isatty():
        text = "\n".join(_wrapped(line) for line in text.split("\n"))
    print(dim(text, sys.stderr), file=sys.stderr, flush=True)


def _wrapped(line: str) -> str:
    """A line by words, later rows below the second column of a table with two."""
    import re
    import shutil

    width = max(20, shutil.get_terminal_size().columns - 1)
    table = re.match(r"\S.*?  +(?=\S)", line)
    label = table[0] if table and len(table[0]) < width // 2 else ""
    rows = textwrap.wrap(
        line[len(label) :],
        width - len(label),
        break_on_hyphens=False,
        # What the terminal cuts, such as a path, is still one word when it is copied.
        break_long_words=False,
    )
    return label + f"\n{' ' * len(label)}".join(rows)
