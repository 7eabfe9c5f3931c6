"""Options of a text: each is written, checked and explained here, and only here.

Every call that generates takes them by name. ``text_request`` makes a ``Request`` of them, with a
field of the same name for each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import edgellama
from edgellama.constraints.form_options import FORM_OPTIONS, Schema
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.arguments import given_strings, stop_tokens
from edgellama.generation.speculation.speculation import SpeculationMode, speculation_mode
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import check_function, is_number, is_true, whole_or_none
from edgellama.sampling.options import SamplingArguments
from edgellama.sampling.presets import merged_options
from edgellama.sampling.user_functions import Processor, TokenChoice


class TextOptions(SamplingArguments, total=False):
    """Options of a text, as keyword arguments of every call that generates.

    The fields of SamplingOptions are options, too. An option that is left out, or None, has its
    default.

    Arguments:
        max_tokens: Generate at most this many tokens. 0 only computes the prompt, so that a later
            text with the same beginning starts at once. None (the default) is no limit but the
            context's.
        stop: End the text before this string, or before one of several. None (the default) is none.
        stop_tokens: Ids of tokens that end the text and are no part of it. None (the default) means
            only the model's own end tokens.
        banned: A string, or several, that the text must not contain. If one appears, the text goes
            back to the token where it began and takes another. None (the default) is none.
        processors: Functions called as ``processor(logits, tokens)`` before every choice, with the
            model's f32 logits (vocab_size,) and the tokens of prompt and text so far. They may
            change the logits in place, or return others. None (the default) is none.
        sampler: A function called as ``sampler(logits, tokens)`` that returns the next token. It
            replaces all sampling options except those for single tokens; forbidden tokens have a
            logit of minus infinity. None (the default) samples by the options.
        logprobs: Return the model's log-probability of every token, and of this many of the
            likeliest tokens at its place, from 0. None (the default) returns none.
        prompt_logprobs: The same for the tokens of the prompt, which is computed again for this.
            GenerationCancelled if ``timeout`` or ``cancel`` comes before all are known. None (the
            default) returns none.
        adapters: Loaded adapters, or their names, with scales, for this text alone, such as
            ``{"french": 0.5}``; {} means none. None (the default) takes those of the session.
        timeout: End the text this many seconds after the call, finished or not, with "timeout" as
            its ``finish_reason``. In a batch, the time starts when the text does. None (the
            default) is no limit.
        on_prefill: Called as ``on_prefill(done, total)`` with numbers of tokens after every step of
            the prompt, on the thread that waits. None (the default) calls nothing.
        speculation: Guess the next tokens and check several in a step: "auto", True or False, as
            for ``Llama``. None (the default) does what the model was loaded with.
        prediction: A text that this one will probably resemble, such as a file that it edits. Where
            both are the same, tokens come faster. None (the default) is none.
        schema: Make the text JSON that follows this JSON Schema: a dict, JSON text, or True for any
            JSON. Or a class, such as a dataclass, a TypedDict, a pydantic model or a msgspec
            Struct; ``Generation.parsed`` is then an object of it. None (the default) is none.
        json: Make the text a JSON object. False by default.
        regex: Make the whole text match this regular expression. None (the default) is none.
        grammar: Make the text follow this grammar, in the syntax of Lark or GBNF. None (the
            default) is none.
        choices: Make the text one of these. None (the default) allows any.
        show_schema: In chats, show the model the schema or the choices in the system prompt. True
            by default. Calls that continue a prompt never show them.

    Give at most one of ``schema``, ``json``, ``regex``, ``grammar`` and ``choices``. They need the
    package llguidance, which the extra ``grammar`` installs: in a checkout, with
    ``python -m pip install '.[grammar]'``.

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
    """TextOptions and the options of a chat's reply, for calls that answer messages.

    Arguments:
        tools: The tools that the model may call: functions with type hints and docstrings, Tool
            objects, or mappings as OpenAI's clients write them. None (the default) is none. They
            need the package llguidance, which keeps every call well formed.
        tool_choice: "auto" (the default) lets the model decide; "none" hides the tools, so that it
            calls none; "required" makes it call at least one; a tool's name makes it call that one.
        parallel_tool_calls: Allow several calls in one reply, up to 16. True by default.
        template_variables: Further variables for the chat template, such as ``documents``,
            ``date_string``, ``builtin_tools`` or ``tools_in_user_message``. None (the default) is
            none.
        reasoning: For models that think before they answer, between marks such as <think>. "auto"
            (the default) leaves it to the model, and separates its thinking as ``reasoning`` of
            chunks and of the result. True asks it to think, False not to. "raw" leaves the thinking
            in the text. "split" is like "auto", but also looks for <think> in replies of models
            whose template and vocabulary have no such marks, in case a system prompt asks for it.
        max_reasoning_tokens: End the thinking after this many tokens, from 0, so that the model
            answers. None (the default) is no limit.

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
    reasoning: bool | Literal["auto", "split", "raw"] | None
    max_reasoning_tokens: int | None


class PromptOptions(TextOptions, total=False):
    """TextOptions and the options of a prompt, for calls that continue a text as it stands.

    Arguments:
        parse_special: Read control tokens such as "<|im_end|>" in a text. False (the default)
            keeps them as text.
        suffix: Fill the gap between the prompt, which must be a text, and this one. For models that
            were trained to fill gaps. None (the default) just continues the prompt.
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
CHAT_ONLY = (
    *("tools", "tool_choice", "parallel_tool_calls", "template_variables"),
    *("reasoning", "max_reasoning_tokens"),
)
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
