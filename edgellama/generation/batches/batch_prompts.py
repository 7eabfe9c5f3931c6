"""What callers may give as one of a batch's prompts, and the request that it becomes.

A prompt is a text, token ids, or a mapping with ``prompt`` or with a chat's ``messages``, whose
other keys are options for it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from edgellama.generation.argument_types import BatchPrompt
from edgellama.generation.arguments import check_may_fit
from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.messages import checked_messages
from edgellama.generation.text_options import (
    CHAT_ONLY,
    PROMPT_OPTION_NAMES,
    layered_options,
)
from edgellama.generation.text_request import Request, prompt_request
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import check_option_names
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.tokenizer import Tokenizer

PROMPT_KEYS = ("prompt", "messages")
CONTINUE_KEY = "continue_final_message"
"""Of a chat: whether the text carries on its last message, instead of answering it."""
BATCH_OPTION_NAMES = (*PROMPT_OPTION_NAMES, *CHAT_ONLY)


class BatchPrompts:
    """Makes the request of each prompt of a batch.

    ``options``, which are BatchOptions, hold for all that do not say otherwise; what chats
    leave out they have from ``chat_sampling``. ``template`` is asked for once a chat comes.
    Giant texts that cannot fit in ``context_length`` are refused before they become tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Callable[[], ChatTemplate],
        chat_sampling: Mapping[str, Any],
        options: Mapping[str, Any],
        context_length: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._chat_sampling = chat_sampling
        self._options = options
        self._context_length = context_length
        check_option_names(options, BATCH_OPTION_NAMES)
        prompt_request(tokenizer, [0], _of_prompts(options))

    def request(self, prompt: BatchPrompt) -> Request:
        """The request of a prompt; InvalidOptionError or TemplateError for what cannot run."""
        given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {"prompt": prompt}
        _check_keys(given)
        own = {key: value for key, value in given.items() if key not in PROMPT_KEYS}
        if "messages" in given:
            return self._chat_request(given["messages"], own)
        check_may_fit(self._tokenizer, given["prompt"], self._context_length)
        return prompt_request(
            self._tokenizer, given["prompt"], layered_options(_of_prompts(self._options), own)
        )

    @cached_property
    def _chat_format(self) -> ChatFormat:
        return ChatFormat(self._tokenizer, self._template())

    def _chat_request(self, messages: Any, own: Mapping[str, Any]) -> Request:
        checked = checked_messages(messages)
        if not checked:
            raise InvalidOptionError("messages is empty; allowed: at least one message")
        for message in checked:
            if message["role"] != "assistant":  # Of a reply, templates leave parts out.
                check_may_fit(self._tokenizer, message["content"].strip(), self._context_length)
        continues = own.get(CONTINUE_KEY, False)
        if not isinstance(continues, bool):
            raise InvalidOptionError(
                f"{CONTINUE_KEY} is {shown(continues)}; allowed: True or False"
            )
        own = {key: value for key, value in own.items() if key != CONTINUE_KEY}
        options = layered_options(self._chat_sampling, self._options, own)
        options.pop("parse_special", None)  # templates know what is a control token
        chat_format = self._chat_format
        asked = chat_format.reply_request(options, continues=continues)
        return chat_format.request(asked, checked)


def _of_prompts(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in CHAT_ONLY}


def _check_keys(given: Mapping[str, Any]) -> None:
    named = [key for key in PROMPT_KEYS if key in given]
    if len(named) != 1:
        found = " and ".join(named) or "neither"
        raise InvalidOptionError(f"a prompt has {found}; allowed: one of {', '.join(PROMPT_KEYS)}")
    known = (*PROMPT_OPTION_NAMES, CONTINUE_KEY, *CHAT_ONLY)
    names = known if "messages" in given else PROMPT_OPTION_NAMES
    check_option_names([key for key in given if key not in PROMPT_KEYS], names)
