"""What callers may give as one of a batch's prompts, and the request that it becomes.

A prompt is a text, token ids, or a mapping with ``prompt`` or with a chat's ``messages``, whose
other keys are options for it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from edgellama.generation.arguments import TEXT_OPTIONS, prompt_tokens, stop_strings
from edgellama.generation.decoding import Request
from edgellama.generation.messages import checked_messages
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import SamplingArguments, SamplingOptions, check_option_names
from edgellama.text.chat_template import ChatTemplate, encode_chat

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

BatchPrompt: TypeAlias = "str | Sequence[int] | Mapping[str, Any]"
"""A text, token ids, or ``{"prompt": ..., "max_tokens": 8}``, ``{"messages": [...]}``."""
PROMPT_KEYS = ("prompt", "messages")
OPTION_KEYS = (*TEXT_OPTIONS, *SamplingArguments.__annotations__)


class BatchPrompts:
    """Makes the request of each prompt of a batch.

    ``options`` by the names of OPTION_KEYS hold for all that do not say otherwise; what chats
    leave out they have from ``chat_sampling``. ``template`` is asked for once a chat comes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Callable[[], ChatTemplate],
        chat_sampling: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._chat_sampling = chat_sampling
        self._options = options
        check_option_names(options, OPTION_KEYS)
        self._request([0], options)

    def request(self, prompt: BatchPrompt) -> Request:
        """The request of a prompt; InvalidOptionError or TemplateError for what cannot run."""
        given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {"prompt": prompt}
        _check_keys(given)
        own = {key: value for key, value in given.items() if key not in PROMPT_KEYS}
        if "messages" in given:
            return self._chat_request(given["messages"], own)
        options = {**self._options, **own}
        parse_special = options.get("parse_special", False)
        if not isinstance(parse_special, bool):
            raise InvalidOptionError(
                f"parse_special is {shown(parse_special)}; allowed: True or False"
            )
        tokens = prompt_tokens(self._tokenizer, given["prompt"], parse_special=parse_special)
        return self._request(tokens, options)

    def _chat_request(self, messages: Any, own: Mapping[str, Any]) -> Request:
        checked = checked_messages(messages)
        if not checked:
            raise InvalidOptionError("messages is empty; allowed: at least one message")
        template = self._template()
        tokens = encode_chat(self._tokenizer, template, checked)
        options = {**self._chat_sampling, **self._options, **own}
        return self._request(tokens, options, template.stop, continuation=False)

    def _request(
        self,
        tokens: Sequence[int],
        options: Mapping[str, Any],
        stop: Sequence[str] = (),
        *,
        continuation: bool = True,
    ) -> Request:
        sampling = {
            name: value
            for name, value in options.items()
            if name in SamplingArguments.__annotations__
        }
        return Request(
            prompt=tokens,
            sampling=SamplingOptions(**sampling),
            max_tokens=options.get("max_tokens"),
            stop=(*stop_strings(options.get("stop")), *stop),
            continuation=continuation,
            adapters=options.get("adapters"),
        )


def _check_keys(given: Mapping[str, Any]) -> None:
    named = [key for key in PROMPT_KEYS if key in given]
    if len(named) != 1:
        found = " and ".join(named) or "neither"
        raise InvalidOptionError(f"a prompt has {found}; allowed: one of {', '.join(PROMPT_KEYS)}")
    try:
        check_option_names([key for key in given if key not in PROMPT_KEYS], OPTION_KEYS)
    except InvalidOptionError as error:
        raise error.within("a prompt") from None
