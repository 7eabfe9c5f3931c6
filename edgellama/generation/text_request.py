"""A request: everything that a text is made from, out of a prompt and options.

The readers of a field obey the option, and ``text_options`` checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgellama.constraints.form_options import FORM_OPTIONS
from edgellama.generation.arguments import prompt_tokens
from edgellama.generation.speculation.speculation import SpeculationMode
from edgellama.generation.text_options import (
    CHAT_ONLY,
    CHECKS,
    PROMPT_ONLY,
    PROMPT_OPTION_NAMES,
    TEXT_OPTION_NAMES,
)
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.given_values import is_true
from edgellama.quant.records import dataclass
from edgellama.sampling.options import SamplingOptions, check_option_names
from edgellama.sampling.presets import merged_options
from edgellama.sampling.user_functions import Processor, TokenChoice

if TYPE_CHECKING:
    from edgellama.constraints.answer_form import AnswerForm
    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.engine.weights.adapter_set import AdapterSet
    from edgellama.engine.weights.adapter_shelf import AdapterScales
    from edgellama.generation.speculation.drafter import Drafter
    from edgellama.generation.speculation.speculation import Speculation
    from edgellama.text.reasoning.expected import ExpectedReasoning
    from edgellama.text.tokenizer import Tokenizer
    from edgellama.tools.call_splitter import ExpectedCalls

LIKELY_TEXT_TOKENS = 4096
"""How long most texts are at most, beside what repeats their prompts."""


@dataclass(frozen=True)
class Request:
    """What to generate from; InvalidOptionError for impossible values.

    Fields that an option of a text has are explained there. ``continuation``: the text carries
    on the prompt's, so a leading space is kept. ``dropped_messages`` is handed on to the result.
    ``adapters`` None are those of the session, if there is one, else none. ``answer``: the form
    that the text must have. ``calls``: those of tools that it may have. ``end_tokens`` end the text
    beside those of the model. ``prompt_logprobs`` begin at the prompt's token ``first_logprob``.
    ``own_tokens``: what the model has said in the prompt, which penalties may count alone.
    ``reasoning``: the thinking that the text may begin with; None: it is text like any other.
    """

    prompt: Sequence[int]
    sampling: SamplingOptions
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    stop_tokens: frozenset[int] = frozenset()
    banned: Sequence[str] = ()
    processors: Sequence[Processor] = ()
    sampler: TokenChoice | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    first_logprob: int = 0
    continuation: bool = True
    dropped_messages: int = 0
    adapters: AdapterScales | AdapterSet | None = None
    timeout: float | None = None
    on_prefill: Callable[[int, int], None] | None = None
    speculation: SpeculationMode | None = None
    prediction: str | None = None
    answer: AnswerForm | None = None
    show_schema: bool = True
    calls: ExpectedCalls | None = None
    end_tokens: frozenset[int] = frozenset()
    own_tokens: Sequence[int] = ()
    reasoning: ExpectedReasoning | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidOptionError("the prompt is empty; allowed: at least one token")


def prompt_request(
    tokenizer: Tokenizer, prompt: str | Sequence[int], options: Mapping[str, Any]
) -> Request:
    """The request of a text or of token ids, with PromptOptions."""
    for name in CHAT_ONLY:
        if name in options:
            raise InvalidOptionError(f"{name} is given with a prompt; allowed: in chats")
    check_option_names(options, PROMPT_OPTION_NAMES)
    own = {name: value for name, value in options.items() if name not in PROMPT_ONLY}
    parse_special, suffix_first = (
        is_true(name, options.get(name, False)) for name in ("parse_special", "suffix_first")
    )
    if options.get("suffix") is None:
        return text_request(prompt_tokens(tokenizer, prompt, parse_special=parse_special), own)
    if parse_special:
        raise InvalidOptionError(
            "parse_special is True and suffix is given; allowed: one of them, since what stands "
            "around a gap stays text"
        )
    from edgellama.text.infill import infill_prompt

    tokens = infill_prompt(tokenizer, prompt, options["suffix"], suffix_first=suffix_first)
    return replace(text_request(tokens, own), end_tokens=frozenset(tokenizer.infill_ids.values()))


def text_request(
    prompt: Sequence[int],
    options: Mapping[str, Any],
    *,
    stop: Collection[str] = (),
    continuation: bool = True,
) -> Request:
    """The request of a prompt's tokens, with TextOptions.

    InvalidOptionError for what is no such option, or has no such value. ``stop``: strings that
    end the text beside those of the options.
    """
    check_option_names(options, TEXT_OPTION_NAMES)
    own = {name: check(options[name]) for name, check in CHECKS.items() if name in options}
    own["stop"] = (*own.get("stop", ()), *stop)
    own["answer"] = _answer_form(options)
    sampling = {
        name: value
        for name, value in options.items()
        if name not in CHECKS and name not in FORM_OPTIONS
    }
    return Request(
        prompt, SamplingOptions(**merged_options(sampling)), continuation=continuation, **own
    )


def _answer_form(options: Mapping[str, Any]) -> AnswerForm | None:
    if options.keys().isdisjoint(FORM_OPTIONS):
        return None
    from edgellama.constraints.answer_form import answer_form

    return answer_form(options)


def drafter_of(
    speculation: Speculation | None,
    tokenizer: Tokenizer,
    request: Request,
    context_length: int,
    cancel: CancelToken,
) -> Drafter | None:
    """What guesses ahead for a request's text."""
    if speculation is None:
        return None
    likely_length = min(2 * len(request.prompt) + LIKELY_TEXT_TOKENS, context_length)
    expected = tokenizer.encode(request.prediction) if request.prediction else ()
    return speculation.drafter(request.speculation, likely_length, context_length, cancel, expected)
