"""``transformers``' way to call a model, so that examples work with a changed import.

Input and output are those of its text-generation pipeline; its options become ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from os import PathLike
from types import GeneratorType
from typing import Any, TypeAlias

from edgellama.generation.arguments import given_strings
from edgellama.generation.results import Generation
from edgellama.llama import Llama
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError
from edgellama.quant.given_values import is_true, is_whole, whole_number, whole_or_none
from edgellama.quant.records import dataclass
from edgellama.sampling.options import check_option_names

TASK = "text-generation"
Message: TypeAlias = "Mapping[str, Any]"
Record: TypeAlias = "dict[str, Any]"
DEFAULTS: Mapping[str, Any] = {
    "max_tokens": 256,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": -1,
    "dry_multiplier": 0.0,
}
"""What that pipeline does where neither the call nor the model's file says anything."""
OUR_NAMES = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "min_new_tokens": "min_tokens",
    "max_time": "timeout",
    "seed": "seed",
}
"""Options of generate() that mean the same here, by their names there."""
WITHOUT_EFFECT = (
    *("device", "device_map", "dtype", "torch_dtype", "framework", "trust_remote_code"),
    *("use_fast", "use_cache", "pad_token_id", "padding", "num_workers", "token"),
)
"""They say where and how something is computed that is computed here in one way."""
OWN_OPTIONS = (
    *("return_full_text", "return_text", "return_tensors", "do_sample", "num_return_sequences"),
    *("max_length", "stop_sequence", "stop_strings", "eos_token_id", "batch_size", "prefix"),
    *("add_special_tokens", "continue_final_message"),
)
ALLOWED = (*OUR_NAMES, *OWN_OPTIONS, *WITHOUT_EFFECT)


def pipeline(
    task: str = TASK, model: str | PathLike[str] | Llama | None = None, **options: Any
) -> TextGenerationPipeline:
    """Make a pipeline that works like ``transformers.pipeline("text-generation", ...)``.

    Arguments:
        task: "text-generation" (the default).
        model: A Llama, a path, or a name such as "smollm2". A repository such as
            "meta-llama/Llama-3.2-1B-Instruct" must have been pulled from the hub. None (the
            default) is "smollm2".
        options: Options for every call, see TextGenerationPipeline; ``model_kwargs`` go to Llama.
            ``device_map``, ``torch_dtype`` and similar ones are accepted and ignored.

    Returns:
        The pipeline; call it with a text, a chat, or a list of either.

    Raises:
        InvalidOptionError: Another task, or an option that there is not.
        ModelNotFoundError: The model is not there.

    Example:
        >>> import edgellama
        >>> pipe = edgellama.pipeline("text-generation", model="smollm2", do_sample=False)
        >>> pipe("The capital of France is", max_new_tokens=2)
        [{'generated_text': 'The capital of France is Paris.'}]
    """
    if task != TASK:
        raise InvalidOptionError(f"the task is {shown(task)}; allowed: {TASK!r}")
    given = options.pop("model_kwargs", None)
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"model_kwargs is {shown(given)}; allowed: arguments by name")
    arguments = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
    tokenizer = options.pop("tokenizer", None)
    is_path = isinstance(tokenizer, (str, PathLike))
    if tokenizer is not None and not (is_path and tokenizer == model):
        raise InvalidOptionError("tokenizer is given; allowed: the model's own, which its file has")
    check_option_names(options, (*ALLOWED, "model_kwargs", "tokenizer"))
    if not isinstance(model, Llama):
        model = _loaded("smollm2" if model is None else model, arguments)
    return TextGenerationPipeline(model, options)


class TextGenerationPipeline:
    """Generates texts with the arguments and results of ``transformers``.

    For a text it returns ``[{"generated_text": ...}]``; for a chat the same, with all messages; for
    a list of either, a list of such lists; for a generator, an iterator.

    Options, there and here: ``max_new_tokens`` (256), ``max_length``, ``min_new_tokens``,
    ``do_sample`` (True), ``temperature`` (0.7), ``top_k`` (50), ``top_p``, ``min_p``,
    ``typical_p``, ``repetition_penalty``, ``num_return_sequences``, ``stop_sequence``,
    ``stop_strings``, ``eos_token_id``, ``max_time``, ``batch_size``, ``return_full_text``,
    ``return_text``, ``return_tensors``, ``prefix``, ``add_special_tokens`` and
    ``continue_final_message``; ``seed`` besides. What the model's file recommends is the default.
    ``return_tensors`` gives lists of token ids.

    Example:
        >>> from edgellama import pipeline
        >>> pipe = pipeline(model="smollm2", do_sample=False)
        >>> chat = [{"role": "user", "content": "What is the capital of Italy?"}]
        >>> pipe(chat, max_new_tokens=8)[0]["generated_text"][-1]["role"]
        'assistant'
    """

    def __init__(self, model: Llama, options: Mapping[str, Any]) -> None:
        """``options`` are the defaults of every call."""
        self.model = model
        self.tokenizer = model.tokenizer
        self._options = dict(options)
        self._request(options)

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """The texts that follow; see the class for what is taken and given."""
        request = self._request(options)
        if isinstance(text_inputs, GeneratorType):
            return self._each(text_inputs, request)
        if isinstance(text_inputs, str) or _is_chat(text_inputs):
            return self._records([text_inputs], request)[0]
        if isinstance(text_inputs, Sequence) and not isinstance(text_inputs, (bytes, Mapping)):
            return self._records(text_inputs, request)
        raise InvalidOptionError(
            f"the input is {text_inputs!r:.80}; allowed: a text, a chat, or a list of either"
        )

    def _each(self, inputs: Iterator[Any], request: _Request) -> Iterator[list[Record]]:
        first = next(inputs, None)
        if isinstance(first, Mapping):
            yield from self._records([[first, *inputs]], request)
        elif first is not None:
            yield self._records([first], request)[0]
            yield from (self._records([item], request)[0] for item in inputs)

    def _request(self, options: Mapping[str, Any]) -> _Request:
        check_option_names(options, ALLOWED)
        return _Request.of({**self._options, **options}, dict(self.model.sampling_defaults))

    def _records(self, inputs: Sequence[Any], request: _Request) -> list[list[Record]]:
        num_each = request.num_return_sequences
        prompts: list[dict[str, Any]] = []
        for item in inputs:
            prompt = self._prompt(item, request)
            prompts += [prompt | request.seeded(number) for number in range(num_each)]
        results = sorted(
            self.model.generate_batch(prompts, width=request.width), key=lambda r: r.index
        )
        return [
            [
                self._record(item, prompts[index * num_each], result, request)
                for result in results[index * num_each : (index + 1) * num_each]
            ]
            for index, item in enumerate(inputs)
        ]

    def _prompt(self, item: Any, request: _Request) -> dict[str, Any]:
        """A prompt of a batch; the tokens of texts, since they are asked for again."""
        if _is_chat(item):
            if request.max_length is not None or request.gives == "tokens":
                raise InvalidOptionError(
                    "max_length or return_tensors is given with a chat; allowed: with texts"
                )
            continues = request.continues(item)
            return {"messages": item, "continue_final_message": continues, **request.options}
        if not isinstance(item, str):
            raise InvalidOptionError(f"an input is {item!r:.80}; allowed: a text or a chat")
        wants_bos = self.tokenizer.special.add_bos and request.add_special_tokens
        tokens = self.tokenizer.encode(request.prefix + item, add_bos=wants_bos, parse_special=True)
        options = dict(request.options)
        if request.max_length is not None:
            options["max_tokens"] = max(0, request.max_length - len(tokens))
        return {"prompt": tokens, **options}

    def _record(
        self, item: Any, prompt: Mapping[str, Any], result: Generation, request: _Request
    ) -> Record:
        text, stop = result.text, result.matched_stop
        ending = [stop] if isinstance(stop, int) else []
        if request.gives == "tokens":
            return {"generated_token_ids": [*prompt["prompt"], *result.tokens, *ending]}
        # transformers counts the stop that ended a text as a part of it.
        decode = self.tokenizer.decode
        text += stop if isinstance(stop, str) else decode(ending, continuation=True)
        if request.gives == "new text":
            return {"generated_text": text}
        if isinstance(item, str):
            return {"generated_text": item + text}
        messages = list(item)
        last = messages.pop() if request.continues(item) else {"role": "assistant", "content": ""}
        reasoning = (last.get("reasoning") or "") + result.reasoning
        thought = {"reasoning": reasoning} if reasoning else {}
        messages.append({"role": last["role"], "content": last["content"] + text, **thought})
        return {"generated_text": messages}


@dataclass(frozen=True)
class _Request:
    """A call's options: ours for the text, and what is left of theirs."""

    options: Mapping[str, Any]
    gives: str = "full text"
    num_return_sequences: int = 1
    width: int | None = None
    max_length: int | None = None
    prefix: str = ""
    add_special_tokens: bool = True
    continue_final_message: bool | None = None
    _seed: int | None = field(default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str):
            raise InvalidOptionError(f"prefix is {shown(self.prefix)}; allowed: a text")
        for name, number in (("max_length", self.max_length), ("seed", self._seed)):
            whole_or_none(name, number, 0)
        for name in ("add_special_tokens", "continue_final_message"):
            if (truth := getattr(self, name)) is not None:
                is_true(name, truth)

    @classmethod
    def of(cls, given: Mapping[str, Any], recommended: Mapping[str, Any]) -> _Request:
        """InvalidOptionError for what contradicts itself; None is as if nothing were said."""
        said = {name: value for name, value in given.items() if value is not None}
        ours = {OUR_NAMES[name]: said[name] for name in OUR_NAMES if name in said}
        seed = ours.pop("seed", None)
        count = whole_number("num_return_sequences", said.get("num_return_sequences", 1), 1)
        if not is_true("do_sample", said.get("do_sample", True)):
            ours["temperature"] = 0
            if count > 1:
                raise InvalidOptionError(
                    f"num_return_sequences is {count} and do_sample False; allowed: 1, since all "
                    "would be the same"
                )
        for name in ("stop_sequence", "stop_strings"):
            ours["stop"] = (*ours.get("stop", ()), *given_strings(name, said.get(name)))
        if (end := said.get("eos_token_id")) is not None:
            ours["stop_tokens"] = [end] if is_whole(end, 0) else end
        known = ("prefix", "add_special_tokens", "continue_final_message", "max_length")
        return cls(
            options={**DEFAULTS, **recommended, **ours},
            gives=_output_kind(said),
            num_return_sequences=count,
            width=said.get("batch_size"),
            _seed=seed,
            **{name: said[name] for name in known if name in said},
        )

    def seeded(self, number: int) -> dict[str, Any]:
        """The seed of one of several texts of a prompt."""
        return {} if self._seed is None else {"seed": self._seed + number}

    def continues(self, chat: Sequence[Message]) -> bool:
        """Whether the text carries on a chat's last message."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        return bool(chat[-1].get("role") == "assistant")


def _output_kind(said: Mapping[str, Any]) -> str:
    names = [name for name in ("return_full_text", "return_text", "return_tensors") if name in said]
    if len(names) > 1:
        raise InvalidOptionError(f"{' and '.join(names)} are given; allowed: one of them")
    for name in names:
        is_true(name, said[name])
    if said.get("return_tensors"):
        return "tokens"
    return "full text" if said.get("return_full_text", True) else "new text"


def _is_chat(item: object) -> bool:
    return isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], Mapping)


def _loaded(model: str | PathLike[str], arguments: Mapping[str, Any]) -> Llama:
    try:
        return Llama(model, **arguments)
    except ModelNotFoundError:
        # transformers takes the name of a repository on the hub without a prefix.
        if isinstance(model, str) and model.count("/") == 1 and ":" not in model:
            return Llama(f"hf:{model}", **arguments)
        raise
