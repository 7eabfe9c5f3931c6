"""Sorts a request's fields: those of its protocol, those of the text, and those that are refused.

A field that no text could obey gives an error that names it. Only fields without influence on a
text are ignored, and those are listed here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from edgellama.generation.text_options import TEXT_OPTION_NAMES
from edgellama.quant.error_text import did_you_mean, nearest, shown
from edgellama.server.errors import RequestError, refused

Fields = TypeVar("Fields", bound=msgspec.Struct)

KEPT_FROM_REQUESTS = frozenset(
    {*("adapters", "on_prefill", "processors", "sampler"), *("logprobs", "prompt_logprobs")}
)
"""Options of a text that are Python's alone, or that each protocol has its own words for."""
TEXT_FIELDS = frozenset(TEXT_OPTION_NAMES) - KEPT_FROM_REQUESTS
"""Options of a text that a request may give by name."""
OF_LINES = frozenset({"t_max_predict_ms", "n_indent"})
"""llama.cpp's fields that end a text of code by its lines; other texts have none."""
LOAD_OPTIONS = frozenset(
    {
        *("numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep"),
        *("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock"),
        *("embedding_only", "penalize_newline", "draft_num_predict"),
    }
)
"""Ollama's options about loading, which the server decides; a context is always as long as it can
be. Programs with one form for the options of all servers send them in every protocol."""
WITHOUT_INFLUENCE = LOAD_OPTIONS | frozenset(
    {
        *(*OF_LINES, "t_max_prompt_ms"),
        *("user", "metadata", "client_metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "max_tool_calls"),
        *("cache_prompt", "id_slot", "slot_id", "n_cache_reuse", "n_keep", "n_discard"),
        *("timings_per_token", "return_progress", "backend_sampling"),
    }
)
"""Fields of OpenAI's protocol that say something about the caller, a cache, or calls that a server
would make itself, and those of llama.cpp's about its slots, its cache and its figures: none of them
is about the text."""
THINKING_LIMITS = (
    *("max_reasoning_tokens", "thinking_budget_tokens", "thinking_token_budget"),
    "reasoning_budget",
)
"""How long a model may think at most, as we, llama.cpp and vLLM call it."""
THINKING_FIELDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "reasoning_format": (str,),
        **dict.fromkeys(THINKING_LIMITS, (int,)),
        "reasoning_effort": (str,),
        "reasoning": (dict,),
        "thinking": (dict,),
        "include_reasoning": (bool,),
        "enable_thinking": (bool,),
        "think": (bool, str),
        "verbosity": (str,),
    }
)
"""How much a model may think before its reply, in each protocol's words, and say in it: what comes
of it is known to ``thinking``. Agents give it to every model, whether it thinks or not."""
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "dry_penalty_last_n": "dry_last_n",
        "dry_sequence_breakers": "dry_breakers",
        **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "max_tokens"),
        **dict.fromkeys(("max_output_tokens", "max_completion_tokens"), "max_tokens"),
        "repetition_penalty": "repeat_penalty",
    }
)
"""What other servers, and other endpoints, call some options."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "modalities": (["text"],),
    "best_of": (1,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "web_search_options": (),
    "conversation": (),
    "context_management": ([],),
    "images": ([],),
    "truncation": ("disabled", "auto"),
    "background": (False,),
    "mcp_servers": ([],),
    "template": ("",),
    "tfs_z": (1,),
    "typical_p": (1,),
    "mirostat": (0,),
    "n_probs": (0,),
    "min_keep": (0,),
    "lora": ([],),
    "post_sampling_probs": (False,),
    "return_tokens": (False,),
}
"""Values that ask for nothing, so that they need no support; others of these fields are refused.
Leave to cut a prompt (truncation) is not made use of: one that is too long is an error anyway."""
_MEANS_NOTHING: Mapping[str, object] = MappingProxyType(
    {"seed": -1, "max_tokens": -1, "stop": [], "grammar": ""}
)
"""What clients of llama.cpp send for "not given"."""
_IN_OUR_RANGE: Mapping[str, Callable[[int | float], int | float]] = MappingProxyType(
    {
        "seed": lambda seed: seed % 2**64,
        "top_k": lambda number: max(0, number),
        "top_p": lambda share: share or sys.float_info.min,
    }
)
"""Numbers that are right elsewhere: seeds below zero, -1 for all tokens, 0 for the likeliest."""
_SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc")
_SAMPLER_LETTERS = dict(zip("edskypmxti", (*_SAMPLERS, "temperature", "infill"), strict=True))
_INFILL_SAMPLER = "infill"
"""A sampler of llama.cpp's that ends texts early; ours end by the model's own tokens."""
_JSON_WORDS: Mapping[type, str] = {
    str: "a word",
    dict: "an object",
    bool: "true or false",
    int: "a whole number",
}
MAX_WHOLE = 2**53
"""Up to here a float says a whole number exactly."""
MAX_ITEMS = 1 << 18
"""What an option may list: more than a vocabulary has tokens, and what is looked at in a second."""
_TOKEN_ID = re.compile(r"[0-9]{1,18}")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_PLACE = re.compile(r" - at `\$\.?(.*)`$")


def take_fields(
    body: Mapping[str, Any],
    kind: type[Fields],
    *,
    ignored: Collection[str] = WITHOUT_INFLUENCE,
    with_options: bool = True,
) -> tuple[Fields, dict[str, Any]]:
    """A request's own fields, and the options of its text; RequestError names what is wrong."""
    known = {field.encode_name for field in _fields_of(kind)}
    own: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in body.items():
        name = name if name in known else OTHER_NAMES.get(name, name)
        value = as_number(value)
        if value is None or name in ignored or value == _MEANS_NOTHING.get(name, NotImplemented):
            continue
        if name in known:
            own[name] = value
        elif name in TEXT_FIELDS and with_options:
            options[name] = option_value(name, value)
        elif name in THINKING_FIELDS and with_options:
            check_thinking_field(name, value)
        elif not is_neutral(name, value):
            raise _unknown(name, {*known, *(TEXT_FIELDS if with_options else ())})
    return convert(own, kind), options


def take_own_fields(
    body: Mapping[str, Any], kind: type[Fields], *, ignored: Collection[str] = WITHOUT_INFLUENCE
) -> Fields:
    """The fields of a request that makes no text, to which options of texts say nothing."""
    return take_fields(body, kind, ignored=ignored, with_options=False)[0]


def _fields_of(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def convert(value: object, kind: type[Fields]) -> Fields:
    """JSON values as the fields of ``kind``; RequestError names the field that is wrong."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        what = text[: place.start()] if place else text
        param = place[1] if place else None
        missing = _MISSING.fullmatch(what)
        if missing is not None:
            param, what = f"{param}.{missing[1]}" if param else missing[1], "missing"
        where = f"{param}: " if param else ""
        raise refused(param, f"{where}{what}") from None


def as_number(value: object) -> object:
    """3.0 as 3: some languages have no other numbers."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_WHOLE:
        return int(value)
    return value


def option_value(name: str, value: object) -> object:
    """The value of an option of a text as the library takes it, where JSON or others say it so."""
    if isinstance(value, (list, dict)) and len(value) > MAX_ITEMS:
        raise refused(name, f"{name} has {len(value)} items; allowed: up to {MAX_ITEMS}")
    if name == "stop":
        return without_empty(value)
    if name == "logit_bias":
        return _bias(value)
    if name == "samplers":
        return _samplers(value)
    value = as_number(value)
    in_our_range = _IN_OUR_RANGE.get(name)
    if in_our_range is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    # NaN is no number of any range.
    return in_our_range(value) if value == value else value


def without_empty(value: object) -> object:
    """Texts to end at, without the empty ones that clients send for none."""
    texts = [value] if isinstance(value, str) else value
    return [text for text in texts if text != ""] if isinstance(texts, list) else value


def _samplers(value: object) -> object:
    """Names of samplers; llama.cpp takes letters for them, too."""
    if isinstance(value, str):
        value = [_SAMPLER_LETTERS.get(letter, letter) for letter in value]
    return [each for each in value if each != _INFILL_SAMPLER] if isinstance(value, list) else value


def _bias(value: object) -> object:
    """Biases of tokens, whose ids are texts in JSON."""
    if not isinstance(value, dict):
        return value
    return {int(key) if _TOKEN_ID.fullmatch(key) else key: each for key, each in value.items()}


def check_thinking_field(name: str, value: object) -> None:
    """RequestError for such a field whose value is of another kind than its protocol says."""
    kinds = THINKING_FIELDS[name]
    if not isinstance(value, kinds):
        allowed = " or ".join(_JSON_WORDS[kind] for kind in kinds)
        raise refused(name, f"{name} is {shown(value)}; allowed: {allowed}")


def is_neutral(name: str, value: object) -> bool:
    """Whether a field, or an option, asks for nothing."""
    return any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral in _NEUTRAL.get(name, ())
    )


def _unknown(name: str, allowed: set[str]) -> RequestError:
    if name in _NEUTRAL:
        text = f"{name} is not supported here"
    else:
        fields = sorted(allowed)
        guess = did_you_mean(nearest(name, fields))
        text = f"there is no field {shown(name)}; {guess}allowed: {', '.join(fields)}"
    return RequestError(400, text, param=name[:80], code="unsupported_parameter")
