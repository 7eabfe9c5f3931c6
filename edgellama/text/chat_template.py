"""A model's chat template: messages to text.

It knows where a template comes from, what it can show, and what a message must have.
``chat_tokens`` turns the text into tokens, ``template_sandbox`` runs the template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from edgellama.quant.errors import TemplateError
from edgellama.text.named_templates import (
    NAMED_TEMPLATES,
    find_template,
    template_source,
    unknown_template,
)
from edgellama.text.surrogates import well_formed
from edgellama.text.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from edgellama.text.template_sandbox import CompiledTemplate

TEMPLATE_KEY = "tokenizer.chat_template"
TOOL_USE_KEY = f"{TEMPLATE_KEY}.tool_use"
THINKING_VARIABLES = ("enable_thinking", "thinking")
"""What templates call the choice whether their model thinks."""
# Matches templates that look at a type, which may be that of a part of a message.
_TYPE = r"""["']type["']|\.type\b"""
_PROBE = "edgellama asks"


class ChatTemplate:
    """A chat format: the Jinja2 source of a template, and the texts of the model's BOS and EOS.

    ``stop`` are strings that end a reply in this format if no token does. ``tool_use`` is another
    template of the same model, for chats with tools.

    Example:
        >>> from edgellama import ChatTemplate
        >>> template = ChatTemplate("{{ bos_token }}...", bos_token="<s>", eos_token="</s>")
        >>> template.render([])
        '<s>...'
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        stop: Sequence[str] = (),
        tool_use: ChatTemplate | None = None,
    ) -> None:
        self.source = source
        self.tool_use = tool_use
        self.stop = tuple(stop)
        self.bos_token = bos_token
        self.eos_token = eos_token

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """The prompt as text.

        Arguments:
            messages: Each with at least the strings ``role`` and ``content``; one with
                ``tool_calls`` needs no content.
            add_generation_prompt: End with the text that opens the model's reply. True by default.
            variables: Variables for the template, such as ``tools``, ``documents``,
                ``builtin_tools``, ``tools_in_user_message`` and ``date_string``.

        Returns:
            What the template writes, BOS included if it writes one.

        Raises:
            TemplateError: Malformed messages, and anything that goes wrong in the template.

        Example:
            >>> from edgellama import ChatTemplate
            >>> template = ChatTemplate("{{ messages[0].content }}!", bos_token="", eos_token="")
            >>> template.render([{"role": "user", "content": "Hello"}])
            'Hello!'
        """
        checked = checked_messages(messages)
        if self._wants_parts:
            checked = list(map(_as_parts, checked))
        return self._rendered(checked, {"add_generation_prompt": add_generation_prompt} | variables)

    def _rendered(self, messages: list[dict[str, object]], variables: Mapping[str, object]) -> str:
        known: dict[str, object] = {
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        return self._compiled.render(known | dict(variables) | {"messages": messages})

    @cached_property
    def shows_later_system(self) -> bool:
        """Whether a system message behind a reply is shown there: many templates raise, some move
        it or leave it out.
        """
        roles = ("system", "user", "assistant", "system", "user")
        texts = [f"{_PROBE} {number}" for number in range(len(roles))]
        said = [{"role": r, "content": text} for r, text in zip(roles, texts, strict=True)]
        try:
            # Templates for chats with tools expect a list of them.
            places = list(map(self.render(said, tools=[]).find, texts))
        except TemplateError:
            return False
        return -1 not in places and places == sorted(places)

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether a text must be given as a list of parts, as templates of models with vision want
        it, which pass over a plain text without a word.
        """
        if not re.search(_TYPE, self.source):
            return False
        message: dict[str, object] = {"role": "user", "content": _PROBE}
        shown = []
        for given in (message, _as_parts(message)):
            try:
                shown.append(_PROBE in self._rendered([given], {}))
            except TemplateError:
                shown.append(False)
        return shown == [False, True]

    @cached_property
    def thinking_variables(self) -> tuple[str, ...]:
        """The template's variables that switch thinking on and off."""
        messages = [{"role": "user", "content": _PROBE}]

        def shown(name: str, value: bool) -> str | None:
            try:
                return self.render(messages, **{name: value})
            except TemplateError:
                return None

        named = [name for name in THINKING_VARIABLES if name in self.source]
        return tuple(name for name in named if shown(name, True) != shown(name, False))

    @cached_property
    def _compiled(self) -> CompiledTemplate:
        from edgellama.text.template_sandbox import CompiledTemplate

        return CompiledTemplate(self.source)


def load_chat_template(metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a model file, or None if it has none; nothing is guessed."""
    template, tool_use = (_declared(metadata, k, tokenizer) for k in (TEMPLATE_KEY, TOOL_USE_KEY))
    if template is not None:
        template.tool_use = tool_use
    return template


def _declared(
    metadata: Mapping[str, object], key: str, tokenizer: Tokenizer
) -> ChatTemplate | None:
    source = metadata.get(key)
    if source is None:
        return None
    if not isinstance(source, str):
        raise TemplateError(f"{key} is a {type(source).__name__}; a string")
    return _for_tokenizer(source, (), tokenizer)


def given_template(text: str, tokenizer: Tokenizer) -> ChatTemplate:
    """The template that a user means: the name of a published format, or Jinja source.

    InvalidOptionError for what is neither.
    """
    name = find_template(text) if isinstance(text, str) else None
    if name is not None:
        return _for_tokenizer(template_source(name), NAMED_TEMPLATES[name].stop, tokenizer)
    if not isinstance(text, str) or "{" not in text:
        raise unknown_template(text)
    return _for_tokenizer(text, (), tokenizer)


def _for_tokenizer(source: str, stop: Sequence[str], tokenizer: Tokenizer) -> ChatTemplate:
    bos, eos = (
        "" if token is None else tokenizer.token_text(token)
        for token in (tokenizer.special.bos_id, tokenizer.special.eos_id)
    )
    return ChatTemplate(well_formed(source), bos_token=bos, eos_token=eos, stop=stop)


def checked_messages(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Copies of the messages; an error for one without a role and a text.

    Where there are calls of tools, the text may be missing; it is empty then.
    """
    if isinstance(messages, (str, Mapping)):
        raise TemplateError("messages are one value; a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TemplateError(f"message {number} is a {type(message).__name__}; a mapping")
        for key in ("role", "content"):
            if not isinstance(_with_content(message).get(key), str):
                raise TemplateError(f"message {number} has no string {key!r}")
    return [_with_content(message) for message in messages]


def _as_parts(message: dict[str, object]) -> dict[str, object]:
    """The message with its text as the only part of its content."""
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def _with_content(message: Mapping[str, object]) -> dict[str, object]:
    needs_none = message.get("content") is None and bool(message.get("tool_calls"))
    return {**message, "content": ""} if needs_none else dict(message)
