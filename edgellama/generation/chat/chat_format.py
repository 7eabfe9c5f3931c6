"""Turns a chat's messages into a request: the prompt, the options and the tools of a reply.

``edgellama.tools`` knows how a template shows tools, and how calls are written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from edgellama.generation.chat.chat_reasoning import ChatReasoning, begun_reply
from edgellama.generation.chat.instruction import encode_instructed, instruction
from edgellama.generation.chat.messages import Message, is_role
from edgellama.generation.reasoned_request import reasoned_request
from edgellama.generation.text_options import (
    CHAT_ONLY,
    CHAT_OPTION_NAMES,
)
from edgellama.generation.text_request import Request, text_request
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import MAX_DEPTH, is_shallow, is_true, whole_or_none
from edgellama.quant.records import dataclass
from edgellama.sampling.options import check_option_names
from edgellama.text.chat_template import THINKING_VARIABLES, ChatTemplate
from edgellama.text.reasoning.expected import ReasoningWish, checked_wish
from edgellama.tools.built_in import VARIABLE, built_in_tools
from edgellama.tools.call_splitter import ExpectedCalls
from edgellama.tools.presentation import Presentation
from edgellama.tools.reading import PYTHON_TAG
from edgellama.tools.tool import Tool, checked_tools

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

AUTO, NO_CALL, SOME_CALL = "auto", "none", "required"
"""Whether a reply may, may not or must call a tool."""

_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt", "continue_final_message")


@dataclass(frozen=True)
class ReplyRequest:
    """A request whose prompt is still to be made, with what the template is given for it.

    ``reasoning``: whether the reply is to begin with thinking, ``max_reasoning_tokens`` long.
    """

    request: Request
    tools: Sequence[Tool]
    variables: Mapping[str, object]
    reasoning: ReasoningWish = "auto"
    max_reasoning_tokens: int | None = None


class ChatFormat:
    """A tokenizer and a template, which together make prompts of messages."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._reasoning = ChatReasoning(tokenizer, template)

    def reply_request(self, options: Mapping[str, Any], *, continues: bool = False) -> ReplyRequest:
        """The request that ChatOptions make.

        ``continues``: the text carries on the last message, instead of answering it.
        InvalidOptionError for what is no such option, or has no such value, ConstraintError for a
        tool whose schema cannot be kept to.
        """
        check_option_names(options, CHAT_OPTION_NAMES)
        own = {name: value for name, value in options.items() if name not in CHAT_ONLY}
        request = text_request((0,), own, stop=self.template.stop, continuation=continues)
        tools = checked_tools(options.get("tools"))
        variables = _checked_variables(options.get("template_variables"))
        wish = _wish(options.get("reasoning"), variables)
        limit = _thinking_limit(options, wish)
        variables = self._reasoning.variables(wish, variables)
        built_in = self._built_in_tools(variables, tools)
        names = {tool.name for tool in built_in}
        shown_tools = [tool for tool in tools if tool.name not in names]
        callable_tools = [*shown_tools, *built_in]
        choice = _checked_choice(options.get("tool_choice"), callable_tools)
        parallel = options.get("parallel_tool_calls")
        parallel = parallel is None or is_true("parallel_tool_calls", parallel)
        if choice == NO_CALL or not callable_tools:
            return ReplyRequest(request, (), variables, wish, limit)
        calling = self._calling(request, callable_tools, names, choice, parallel)
        return ReplyRequest(calling, shown_tools, variables, wish, limit)

    def prompt(self, asked: ReplyRequest, messages: Sequence[Message]) -> list[int]:
        """The tokens of the prompt; TemplateError if the template refuses the messages."""
        marks = self._reasoning.marks(asked.reasoning)
        goes_on = asked.request.continuation
        *before, last = messages
        if marks is not None and before and goes_on and is_role(last, "assistant"):
            begun = begun_reply(marks, last)
            if begun is not None:
                prompt = self._written(asked, before, goes_on=False)
                return self._reasoning.carried_on(prompt, marks, begun)
        tokens = self._written(asked, messages, goes_on=goes_on)
        return tokens if goes_on else self._reasoning.ended(tokens, marks, asked.reasoning)

    def _written(
        self, asked: ReplyRequest, messages: Sequence[Message], *, goes_on: bool
    ) -> list[int]:
        """The prompt as the template writes it; ``goes_on``: up to the end of the last message."""
        words = instruction(asked.request)
        uses_tools = asked.tools or any(_is_about_tools(message) for message in messages)
        variables: dict[str, Any] = dict(asked.variables)
        template = self.template
        messages = self._reasoning.for_template(messages)
        if uses_tools:
            presentation = self._presentation(asked.tools)
            template = presentation.template
            given, of_tools = presentation.messages(messages, asked.tools)
            messages, variables = cast("list[Message]", given), variables | of_tools
        return encode_instructed(
            self.tokenizer,
            template,
            messages,
            words,
            continue_final_message=goes_on,
            **variables,
        )

    def request(self, asked: ReplyRequest, messages: Sequence[Message]) -> Request:
        """The request of a reply to the messages; TemplateError if they are refused."""
        return self.completed(asked, messages, self.prompt(asked, messages))

    def completed(
        self, asked: ReplyRequest, messages: Sequence[Message], prompt: Sequence[int]
    ) -> Request:
        """The request with its prompt, and what follows from both."""
        goes_on = asked.request.continuation
        expected = self._reasoning.expected(messages, prompt, asked.reasoning, goes_on=goes_on)
        own = self.own_tokens(asked, messages)
        request = replace(asked.request, prompt=prompt, own_tokens=own)
        if expected is None:
            return request
        expected = replace(expected, max_tokens=asked.max_reasoning_tokens)
        return reasoned_request(request, expected)

    def own_tokens(self, asked: ReplyRequest, messages: Sequence[Message]) -> Sequence[int]:
        """What the assistant has said in the messages; nothing where penalties do not ask for it.

        An end token stands behind each, so that no sequence of DRY goes from one into another.
        """
        if asked.request.sampling.penalize_prompt:
            return ()
        tokens: list[int] = []
        for message in messages:
            if message["role"] == "assistant":
                tokens += self.tokenizer.encode(message["content"], add_bos=False)
                tokens += sorted(self.tokenizer.special.end_of_generation)[:1]
        is_begun = asked.request.continuation and messages and messages[-1]["role"] == "assistant"
        return tokens[:-1] if is_begun and tokens else tokens

    def _presentation(self, tools: Sequence[Tool]) -> Presentation:
        """How tools are shown, by the template that the model has for them."""
        if tools and self._of_tool_use is not None and self._of_tool_use.is_native:
            return self._of_tool_use
        return self._of_template

    @cached_property
    def _of_template(self) -> Presentation:
        return Presentation.of(self.template)

    @cached_property
    def _of_tool_use(self) -> Presentation | None:
        own = self.template.tool_use
        return None if own is None else Presentation.of(own)

    def _built_in_tools(
        self, variables: Mapping[str, object], tools: Sequence[Tool]
    ) -> Sequence[Tool]:
        """Tools that the template shows by name; InvalidOptionError if none can be called."""
        if VARIABLE not in variables:
            return ()
        form = self._presentation(tools).form
        if form.mark != PYTHON_TAG:
            return ()
        found = built_in_tools(variables, tools)
        if found and not ExpectedCalls(form, frozenset()).marks(self.tokenizer):
            raise InvalidOptionError(
                f"{VARIABLE} has {found[0].name}, but the vocabulary lacks {PYTHON_TAG}, behind "
                "which built-in tools are called; allowed: with Llama 3.1 and later"
            )
        return found

    def _calling(
        self,
        request: Request,
        tools: Sequence[Tool],
        built_in: Collection[str],
        choice: str,
        parallel: bool,
    ) -> Request:
        """The request of a reply that may call these tools, or one of them by name."""
        from edgellama.tools.call_grammar import calls_form

        presentation = self._presentation([t for t in tools if t.name not in built_in])
        form = presentation.form
        allowed = tools if choice in (AUTO, SOME_CALL) else [t for t in tools if t.name == choice]
        expected = ExpectedCalls(form, frozenset(tool.name for tool in allowed))
        answer = calls_form(
            form,
            allowed,
            marks=expected.marks(self.tokenizer),
            must_call=choice != AUTO,
            parallel=parallel and choice in (AUTO, SOME_CALL),
            answer=request.answer,
            built_in=built_in,
            reserved=self._reasoning.reserved,
        )
        return replace(
            request,
            answer=answer,
            calls=expected,
            stop=(*request.stop, *presentation.stop),
            banned=(*request.banned, *presentation.banned),
        )


def _is_about_tools(message: Message) -> bool:
    return message["role"] == "tool" or "tool_calls" in message


def _wish(given: object, variables: Mapping[str, object]) -> ReasoningWish:
    """Whether a reply is to begin with thinking, by the option or in the template's own words."""
    wish = checked_wish(given)
    told = [variables.get(name) for name in THINKING_VARIABLES]
    own = next((value for value in told if isinstance(value, bool)), None)
    return own if wish == "auto" and own is not None else wish


def _thinking_limit(options: Mapping[str, Any], wish: ReasoningWish) -> int | None:
    """The limit of thinking, which requires that thinking is separated from the answer."""
    limit = whole_or_none("max_reasoning_tokens", options.get("max_reasoning_tokens"), 0)
    if limit is not None and wish == "raw":
        raise InvalidOptionError(
            "max_reasoning_tokens is given, and reasoning is 'raw'; allowed: one of them"
        )
    return limit


def _checked_choice(given: object, tools: Sequence[Tool]) -> str:
    """What a reply may call: AUTO, NO_CALL, SOME_CALL, or the name of a tool.

    A tool may also be named as clients of OpenAI's API do it.
    """
    choice = given
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else None
    names = [tool.name for tool in tools]
    if choice is None and given is None:
        return AUTO
    if choice in names or choice in (AUTO, NO_CALL) or (choice == SOME_CALL and tools):
        return str(choice)
    allowed = ", ".join([AUTO, NO_CALL, *([SOME_CALL, *names] if tools else [])])
    raise InvalidOptionError(f"tool_choice is {given!r:.80}; allowed: {allowed}")


def _checked_variables(given: object) -> Mapping[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidOptionError(
            f"template_variables is {shown(given)}; allowed: a mapping of names to values"
        )
    if not is_shallow(given):
        raise InvalidOptionError(
            f"template_variables is nested too deeply; allowed: {MAX_DEPTH} levels"
        )
    own = [name for name in _OWN_VARIABLES if name in given]
    if own:
        raise InvalidOptionError(
            f"template_variables has {own[0]!r}; allowed: what the call has no option for"
        )
    return dict(given)
