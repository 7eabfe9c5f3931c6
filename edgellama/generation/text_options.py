"""Options of a text: what may be said about it, each written, checked and explained here alone.

Every call that generates takes them by name; text_request makes a ``Request`` of them, with a field
of the same name for each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import edgellama
from edgellama.constraints.form_options import FORM_OPTIONS, Schema
from edgellama.engine.adapter_shelf import AdapterScales
from edgellama.generation.arguments import given_strings, stop_tokens
from edgellama.generation.speculation.speculation import SpeculationMode, speculation_mode
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import check_function, is_number, is_true, whole_or_none
from edgellama.sampling.options import SamplingArguments
from edgellama.sampling.presets import merged_options
from edgellama.sampling.user_functions import Processor, TokenChoice


class TextOptions(SamplingArguments, total=False):
    """What may be said about a text, as keyword arguments of every call that generates.

    The fields of SamplingOptions belong to them. What is left out, or None, has its default.

    Arguments:
        max_tokens: Tokens to generate at most. 0 computes the prompt alone, so that a text that
            begins like it starts at once. None (the default) is no limit but the context's.
        stop: A string, or several, before which the text ends. None (the default) is none.
        stop_tokens: Ids of tokens that end the text, and are no part of it. None (the default)
            are the model's end tokens alone.
        banned: A string, or several, that the text must not contain. Where one comes about, the
            text goes back to the token at which it began and takes another. None (the default)
            is none.
        processors: Functions called as ``processor(logits, tokens)`` before every choice, with
            f32 logits (vocab_size,) of the model, which they may change or give others for, and
            the tokens of prompt and text so far. None (the default) is none.
        sampler: A function called as ``sampler(logits, tokens)`` that gives the next token, in
            place of all sampling options but those of single tokens; what is forbidden has minus
            infinity. None (the default) is the sampling of the options.
        logprobs: Give the log-probability of every token, and so many of the likeliest tokens
            at its place, from 0, as the model itself finds them. None (the default) gives none.
        prompt_logprobs: The same for the tokens of the prompt, which is computed anew for it.
            None (the default) gives none.
        adapters: Loaded adapters, or their names, with scales, for this text alone, such as
            ``{"french": 0.5}``; {} is none. None (the default) are those of the session.
        timeout: Seconds, from the call on, after which the text ends as it is, with "timeout"
            as its ``finish_reason``; in a batch from its own beginning. None (the default) is no
            limit.
        on_prefill: Called as ``on_prefill(done, total)`` with tokens of the prompt after every
            step of it, on the thread that waits. None (the default) tells nobody.
        speculation: Guess tokens ahead and check several in a step: "auto", True or False, as
            for ``Llama``. None (the default) is what the model was loaded with.
        prediction: A text that this one is likely to resemble, such as the file that it edits:
            where it is the same, it comes faster. None (the default) is none.
        schema: The text is JSON that follows this JSON Schema: a dict, JSON text, True for any
            JSON, or a class such as a dataclass, a TypedDict, a pydantic model or a msgspec
            Struct, of which ``Generation.parsed`` then is an object. None (the default) is none.
        json: True: the text is a JSON object. False by default.
        regex: The text matches this regular expression as a whole. None (the default) is none.
        grammar: The text follows this grammar, in the syntax of Lark or GBNF. None (the
            default) is none.
        choices: The text is one of these. None (the default) is any.
        show_schema: Chats tell the model of the schema or the choices, in the system prompt.
            True by default. What goes on with a prompt tells it nothing.

    A text has one of ``schema``, ``json``, ``regex``, ``grammar`` and ``choices`` at most; they
    need the package llguidance: ``pip install "edgellama[grammar]"``.

    Example:
        >>> from edgellama import Llama, TextOptions
        >>> options: TextOptions = {"max_tokens": 2, "temperature": 0, "stop": ["."]}
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     llama.generate("One, two,", **options).text
        ' or three'
    """

    max_tokens: int | None
    stop: str | Sequence[str] | None
    stop_tokens: Collection[int] | None
    banned: str | Sequence[str] | None
    processors: Sequence[Processor] | None
    sampler: TokenChoice | None
    logprobs: int | None
    prompt_logprobs: int | None
    adapters: AdapterScales | None
    timeout: float | None
    on_prefill: Callable[[int, int], None] | None
    speculation: SpeculationMode | None
    prediction: str | None
    schema: Schema
    json: bool | None
    regex: str | None
    grammar: str | None
    choices: Sequence[str] | None
    show_schema: bool | None


class ChatOptions(TextOptions, total=False):
    """TextOptions, and what a chat's reply may call; for calls that answer messages.

    Arguments:
        tools: What the model may call: functions with type hints and docstrings, Tool objects,
            or mappings as OpenAI's clients write them. None (the default) is nothing. Needs the
            package llguidance, so that every call is well formed.
        tool_choice: "auto" (the default): the model decides; "none": it calls nothing and is not
            shown the tools; "required": it calls at least one; or a tool's name: it calls that.
        parallel_tool_calls: Whether a reply may have several calls, up to 16. True by default.
        template_variables: What else the chat template gets by name, such as ``documents``,
            ``date_string``, ``builtin_tools`` or ``tools_in_user_message``. None (the default) is
            nothing.
        reasoning: Of models that think before they answer, between marks such as <think>: "auto"
            (the default) leaves it to the model and tells its thinking apart, as ``reasoning``
            of chunks and of the result; True asks it to think, False not to; "raw" leaves the
            thinking in the text as the model writes it. Other models' replies stay as they are.

    Example:
        >>> from edgellama import Llama
        >>> def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> with Llama("smollm2", context_length=1024) as llama, llama.chat(tools=[add]) as chat:
        ...     reply = chat.send("What is 2 + 3?", tool_choice="add", temperature=0)
        >>> reply.finish_reason, reply.tool_calls[0].name
        ('tool_calls', 'add')
    """

    tools: Sequence[edgellama.Tool | Callable[..., Any] | Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    template_variables: Mapping[str, object] | None
    reasoning: bool | Literal["auto", "raw"] | None


class PromptOptions(TextOptions, total=False):
    """TextOptions, and how the prompt is read; for calls that go on with a prompt as it stands.

    Arguments:
        parse_special: Read control tokens such as "<|im_end|>" in a text. False (the default)
            keeps them as text.
        suffix: What is to stand behind the text; the prompt, a text, is what stands before it.
            For models that were trained to fill gaps. None (the default) is nothing.
        suffix_first: Show such a model the suffix before the prefix. False by default.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     result = llama.generate("<|im_start|>", parse_special=True, max_tokens=1)
        >>> result.prompt_tokens
        1
    """

    parse_special: bool
    suffix: str | None
    suffix_first: bool


class BatchOptions(PromptOptions, ChatOptions, total=False):
    """PromptOptions for prompts and ChatOptions for chats, for calls that take both.

    Example:
        >>> from edgellama import BatchOptions, Llama
        >>> options: BatchOptions = {"max_tokens": 2, "parse_special": True}
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     len(list(llama.generate_batch(["One,", "A,"], **options)))
        2
    """


def _count(name: str) -> Callable[[Any], int | None]:
    return lambda value: whole_or_none(name, value, 0)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if is_number(value) and value > 0:
        return float(min(value, threading.TIMEOUT_MAX))  # Whole numbers have no greatest one.
    raise InvalidOptionError(f"timeout is {value!r:.80}; allowed: None or seconds above 0")


def _prediction(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidOptionError(f"prediction is {shown(value)}; allowed: None or a text")


def _prefill_listener(value: Any) -> Any:
    check_function("on_prefill", value, "two numbers")
    return value


def _processors(value: Any) -> tuple[Processor, ...]:
    functions = () if value is None else value
    if not isinstance(functions, (list, tuple)) or not all(map(callable, functions)):
        raise InvalidOptionError(
            f"processors is {shown(value)}; allowed: None or a list of functions of logits and "
            "tokens"
        )
    return tuple(functions)


def _token_choice(value: Any) -> Any:
    check_function("sampler", value, "logits and tokens")
    return value


def _as_given(value: Any) -> Any:
    """For options that are checked where they are used, before the first step."""
    return value


def _shows_schema(value: Any) -> bool:
    return value is None or is_true("show_schema", value)


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "max_tokens": _count("max_tokens"),
    "stop": partial(given_strings, "stop"),
    "stop_tokens": stop_tokens,
    "banned": partial(given_strings, "banned"),
    "processors": _processors,
    "sampler": _token_choice,
    "logprobs": _count("logprobs"),
    "prompt_logprobs": _count("prompt_logprobs"),
    "adapters": _as_given,
    "timeout": _seconds,
    "on_prefill": _prefill_listener,
    "speculation": speculation_mode,
    "prediction": _prediction,
    "show_schema": _shows_schema,
}
"""By the name of an option and of its field in Request: what is given, checked, as the field."""
TEXT_OPTION_NAMES = (*CHECKS, *FORM_OPTIONS, *SamplingArguments.__annotations__)
PROMPT_ONLY = ("parse_special", "suffix", "suffix_first")
PROMPT_OPTION_NAMES = (*TEXT_OPTION_NAMES, *PROMPT_ONLY)
CHAT_ONLY = ("tools", "tool_choice", "parallel_tool_calls", "template_variables", "reasoning")
CHAT_OPTION_NAMES = (*TEXT_OPTION_NAMES, *CHAT_ONLY)


def layered_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, of which later layers win; what an answer must look like is one of them."""
    last = max((n for n, layer in enumerate(layers) if layer.keys() & FORM_OPTIONS), default=0)
    return merged_options(
        *(
            {name: value for name, value in layer.items() if name not in FORM_OPTIONS}
            if number < last
            else layer
            for number, layer in enumerate(layers)
        )
    )
