"""OpenAI's completions of plain prompts: a text, several texts, or token ids.

``usage`` has what chats share with them, ``routes`` the path.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.server.answers.events import Ended, Event, Piece
from edgellama.server.answers.streaming import StreamWriter
from edgellama.server.answers.text_openers import open_prompt
from edgellama.server.answers.wish import Wish
from edgellama.server.connections.wire import now, sse
from edgellama.server.errors import openai_error, refused
from edgellama.server.fields.constraints import openai_format
from edgellama.server.fields.durations import keep_alive_seconds
from edgellama.server.fields.fields import take_fields
from edgellama.server.fields.limits import check_num_texts, hold_limits
from edgellama.server.fields.log_probabilities import alternatives, completion_logprobs
from edgellama.server.fields.presets import preset_options
from edgellama.server.openai.usage import (
    StreamOptions,
    finish_reason,
    model_stream_end,
    usage,
    wants_usage,
)

if TYPE_CHECKING:
    from edgellama.generation.results import Chunk, Generation
    from edgellama.generation.sessions.stream import Stream
    from edgellama.llama import Llama
    from edgellama.models.made import Preset
    from edgellama.server.settings import Limits

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, where a request says nothing."""
Prompt = str | list[int]


class CompletionFields(msgspec.Struct):
    """Fields of a request that are not options of the text."""

    prompt: str | list[str | int | list[int]] = ""
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    echo: bool = False
    suffix: str | None = None
    logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class CompletionRequest:
    """A request for completions, checked. ``echoes`` are the prompts' texts, once they run."""

    def __init__(self, body: Mapping[str, Any], limits: Limits, preset: Preset) -> None:
        """RequestError for what cannot be obeyed."""
        fields, options = take_fields(body, CompletionFields)
        options = preset_options(preset, options)
        options.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
        if fields.logprobs is not None:
            options["logprobs"] = alternatives(fields.logprobs, "logprobs")
            if fields.echo:
                options["prompt_logprobs"] = options["logprobs"]
        options |= openai_format(fields.response_format, "response_format")
        hold_limits(options, limits)
        if fields.suffix is None:
            options["parse_special"] = True  # Prompts come with a chat format's tokens in them.
        else:
            options["suffix"] = fields.suffix
        self.prompts = prompts_of(fields.prompt)
        self.num_texts = len(self.prompts) * fields.n
        check_num_texts(fields.n, limits)
        if self.num_texts > limits.max_texts:
            raise refused(
                "prompt",
                f"{len(self.prompts)} prompts with {fields.n} texts each; allowed: up to "
                f"{limits.max_texts} texts",
            )
        self.fields = fields
        self.options = options
        self.echoes: dict[int, str] = {}
        self.first_tokens: dict[int, str] = {}

    def wish(self) -> Wish:
        """What is to be made: for every prompt its texts."""
        num_each = self.fields.n

        def start(llama: Llama, index: int, stack: ExitStack) -> Stream:
            number, which = divmod(index, num_each)
            prompt = self.prompts[number]
            if self.fields.echo:
                self.echoes[index] = (
                    prompt if isinstance(prompt, str) else llama.tokenizer.decode(prompt)
                )
            stream = open_prompt(prompt, self.options)(llama, which, stack)
            self.first_tokens[index] = llama.tokenizer.token_text(stream.prompt[0])
            return stream

        fields = self.fields
        return Wish(
            fields.model,
            start,
            self.num_texts,
            keep_alive_seconds(fields.keep_alive),
            fields.stream,
        )


def prompts_of(given: str | Sequence[str | int | list[int]]) -> list[Prompt]:
    """The prompts that are meant: one text, several, one list of token ids, or several."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, int) for item in given):
        return [[item for item in given if isinstance(item, int)]]
    prompts = [item for item in given if isinstance(item, str) or (isinstance(item, list) and item)]
    if not prompts or len(prompts) < len(given):
        raise refused(
            "prompt",
            f"prompt is {given!r:.80}; allowed: a text, texts, token ids, or lists of them; "
            "no empty list",
        )
    return prompts


class CompletionStream(StreamWriter):
    """Chunks of completions; where the prompt's log-probabilities are wanted, one for each text."""

    error_shape = staticmethod(openai_error)

    def __init__(self, model: str, request: CompletionRequest) -> None:
        self._head = _head(model)
        self._request = request
        self._with_usage = wants_usage(request.fields.stream_options)
        if self._with_usage:
            self._head["usage"] = None  # Of every chunk but the last.
        self._results: dict[int, Generation] = {}
        self._echoed: set[int] = set()
        # A prompt's log-probabilities are known only when its text has ended.
        self._comes_whole = "prompt_logprobs" in request.options
        self._num_characters: defaultdict[int, int] = defaultdict(int)

    def event(self, event: Event) -> bytes:
        """A piece of text, the reason of its end, or the end of the stream."""
        if isinstance(event, Piece):
            return b"" if self._comes_whole else self._piece(event.index, event.chunk)
        if isinstance(event, Ended):
            index, result = event.index, event.result
            self._results[index] = result
            text, logprobs = self._echo(index), None
            if self._comes_whole:
                text, logprobs = text + result.text, _logprobs(self._request, index, result)
            return self._chunk(index, text, finish_reason(result), logprobs)
        counts = prompt_usage(self._request, [self._results[i] for i in sorted(self._results)])
        last = sse({**self._head, "choices": [], "usage": counts}) if self._with_usage else b""
        return last + model_stream_end()

    def _echo(self, index: int) -> str:
        if index in self._echoed:
            return ""
        self._echoed.add(index)
        return self._request.echoes.get(index, "")

    def _piece(self, index: int, chunk: Chunk) -> bytes:
        text, logprobs = self._echo(index) + chunk.text, None
        if chunk.logprobs is not None:
            offset = self._num_characters[index]
            logprobs = completion_logprobs([chunk.logprobs], offset=offset)
            self._num_characters[index] += len(chunk.logprobs.text)
        return self._chunk(index, text, None, logprobs) if text or logprobs else b""

    def _chunk(
        self, index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
    ) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return sse({**self._head, "choices": [choice]})


def completion(
    model: str, request: CompletionRequest, results: Sequence[Generation]
) -> dict[str, Any]:
    """All texts as one object."""
    choices = [
        {
            "index": index,
            "text": request.echoes.get(index, "") + result.text,
            "logprobs": _logprobs(request, index, result),
            "finish_reason": finish_reason(result),
        }
        for index, result in enumerate(results)
    ]
    return {**_head(model), "choices": choices, "usage": prompt_usage(request, results)}


def _logprobs(request: CompletionRequest, index: int, result: Generation) -> dict[str, Any] | None:
    """Log-probabilities of the text, with ``echo`` those of the prompt first, as far as known."""
    if result.logprobs is None:
        return None
    if result.prompt_logprobs is None:
        return completion_logprobs(result.logprobs)
    known = [each for each in result.prompt_logprobs if each is not None]
    first = request.first_tokens[index]
    # A token that begins every text of the model is no part of a prompt that is text.
    offset = 0 if request.echoes[index].startswith(first) else -len(first)
    return completion_logprobs([*known, *result.logprobs], first, offset)


def prompt_usage(request: CompletionRequest, results: Sequence[Generation]) -> dict[str, Any]:
    """Tokens of each prompt, once, and of all texts."""
    each = [
        usage(results[first : first + request.fields.n])
        for first in range(0, len(results), request.fields.n)
    ]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(counts[name] for counts in each) for name in names}


def _head(model: str) -> dict[str, Any]:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": now(),
        "model": model,
    }
