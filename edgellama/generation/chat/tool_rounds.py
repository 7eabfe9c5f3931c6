"""A conversation that runs the tools which its replies call, round by round, up to a limit.

``edgellama.tools`` calls the functions, and the conversation makes the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from edgellama.generation.chat.messages import Message
from edgellama.generation.results import Generation
from edgellama.generation.text_options import ChatOptions
from edgellama.quant.given_values import whole_number
from edgellama.quant.typing_backports import Unpack
from edgellama.tools.running import run_call, run_call_async, runnable
from edgellama.tools.tool import ToolCall, checked_tools

if TYPE_CHECKING:
    from edgellama.generation.sessions.async_stream import AsyncStream
    from edgellama.generation.sessions.stream import Stream

DEFAULT_MAX_ROUNDS = 8
OnCall: TypeAlias = Callable[[ToolCall, str], object]
"""Called with each call and what came of it."""


class Conversing(Protocol):
    """A conversation, as far as rounds of tools need it."""

    @property
    def options(self) -> ChatOptions:
        """The options that hold for every reply."""
        ...

    @property
    def messages(self) -> list[Message]:
        """All messages, to which results are added."""
        ...

    def regenerate(self, **options: Unpack[ChatOptions]) -> Stream:
        """A reply to the last messages."""
        ...

    def regenerate_async(self, **options: Unpack[ChatOptions]) -> AsyncStream:
        """The same for event loops."""
        ...


class ToolRounds:
    """The rounds of one message: what is asked at first, and again behind results."""

    def __init__(
        self,
        conversation: Conversing,
        options: ChatOptions,
        max_rounds: int,
        on_call: OnCall | None,
        *,
        may_await: bool,
    ) -> None:
        """InvalidOptionError for tools without functions, and for a limit below 1.

        ``may_await``: functions may be asynchronous.
        """
        given: Mapping[str, Any] = {**conversation.options, **options}
        self._tools = runnable(checked_tools(given.get("tools")), may_await=may_await)
        self._conversation = conversation
        self._on_call = on_call
        self._max_rounds = whole_number("max_rounds", max_rounds, 1)
        self.first = options
        # A model that had to call once is free to answer then.
        choice = given.get("tool_choice")
        self.later = options if choice in (None, "none") else _with_choice(options)

    def run(self, result: Generation) -> Generation:
        """The reply that calls nothing, or the one that reaches the limit."""
        for _ in range(self._max_rounds):
            if result.finish_reason != "tool_calls":
                break
            for call in result.tool_calls:
                self._add(call, run_call(self._tools, call))
            result = self._conversation.regenerate(**self.later).wait()
        return result

    async def run_async(self, result: Generation) -> Generation:
        """The same for event loops."""
        for _ in range(self._max_rounds):
            if result.finish_reason != "tool_calls":
                break
            for call in result.tool_calls:
                self._add(call, await run_call_async(self._tools, call))
            result = await self._conversation.regenerate_async(**self.later).wait()
        return result

    def _add(self, call: ToolCall, content: str) -> None:
        message: Message = {
            "role": "tool",
            "name": call.name,
            "tool_call_id": call.id,
            "content": content,
        }
        self._conversation.messages.append(message)
        if self._on_call is not None:
            self._on_call(call, content)


def _with_choice(options: ChatOptions) -> ChatOptions:
    return cast("ChatOptions", {**options, "tool_choice": "auto"})
