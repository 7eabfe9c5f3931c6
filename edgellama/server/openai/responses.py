"""OpenAI's responses: reads a request's fields, writes the object of a response.

``response_stream`` writes it as a stream, ``stores.response_store`` keeps it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.quant.error_text import shown
from edgellama.server.answers.text_openers import chat_request, open_chat
from edgellama.server.answers.wish import Wish
from edgellama.server.connections.wire import now
from edgellama.server.errors import RequestError, refused
from edgellama.server.fields.chat_messages import ordered_messages
from edgellama.server.fields.constraints import openai_format
from edgellama.server.fields.fields import WITHOUT_INFLUENCE, take_fields
from edgellama.server.fields.limits import hold_limits
from edgellama.server.fields.log_probabilities import chat_logprobs, text_logprobs, wanted_logprobs
from edgellama.server.fields.presets import preset_messages, preset_options
from edgellama.server.fields.thinking import thinking_wish
from edgellama.server.fields.tool_fields import arguments_text, openai_calls, response_tools

if TYPE_CHECKING:
    from edgellama.generation.results import Generation, TokenLogprob
    from edgellama.llama import Llama
    from edgellama.models.made import Preset
    from edgellama.server.settings import Limits

Messages = list[dict[str, Any]]
TEXT_PARTS = ("input_text", "output_text", "text")
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    *(LOGPROBS, "reasoning.encrypted_content", "file_search_call.results"),
    *("web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url"),
    *("computer_call_output.output.image_url", "code_interpreter_call.outputs"),
)
"""What a request may include; all but the first are parts of what no response has here."""


class ResponseFields(msgspec.Struct):
    """Fields of a request that are not options of the text."""

    input: str | list[dict[str, Any]] | None = None
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    stream_options: dict[str, Any] = {}
    text: dict[str, Any] = {}
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] = []
    top_logprobs: int | None = None


class ResponseRequest:
    """A request for a response, checked; ``said`` are the messages before its own."""

    def __init__(self, body: Mapping[str, Any], limits: Limits, preset: Preset) -> None:
        """RequestError for what cannot be obeyed."""
        ignored = WITHOUT_INFLUENCE - {"metadata", "store"}
        fields, options = take_fields(body, ResponseFields, ignored=ignored)
        options = preset_options(preset, options)
        if fields.max_output_tokens is not None:
            options["max_tokens"] = fields.max_output_tokens
        options |= openai_format(fields.text.get("format"), "text.format")
        options |= response_tools(fields.tools, fields.tool_choice, fields.parallel_tool_calls)
        options |= wanted_logprobs(LOGPROBS in _included(fields), fields.top_logprobs)
        options |= thinking_wish(body).options
        hold_limits(options, limits)
        self.fields = fields
        self.options = options
        self.preset = preset
        if fields.input in (None, []) and fields.previous_response_id is None:
            raise refused("input", "input is missing; allowed: a text, or items")
        self.own = input_messages(fields.input or [])
        self.said: Messages = []

    def wish(self) -> Wish:
        """What is to be made."""
        start = open_chat(self._prompt_messages, self.options, template=self.preset.template)
        return Wish(self.fields.model, start, is_stream=self.fields.stream)

    def prompt_of(self, llama: Llama) -> Sequence[int]:
        """The tokens of the prompt."""
        template = self.preset.template
        return chat_request(llama, self._prompt_messages, self.options, template).prompt

    @property
    def _prompt_messages(self) -> Messages:
        """Instructions, which hold for this response alone, and all that was said."""
        given = self.fields.instructions
        instructions = [{"role": "system", "content": given}] if given else []
        said = [*instructions, *self.said, *self.own]
        return ordered_messages(preset_messages(self.preset, said))

    def messages_after(self, result: Generation) -> Messages:
        """All that was said once the reply is there."""
        reply: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.reasoning:
            reply["reasoning"] = result.reasoning
        if result.tool_calls:
            reply["tool_calls"] = openai_calls(result.tool_calls)
        return [*self.said, *self.own, reply]


def _included(fields: ResponseFields) -> list[str]:
    """What is to be included, checked."""
    for name in fields.include:
        if name not in INCLUDABLE:
            allowed = ", ".join(INCLUDABLE)
            raise refused("include", f"include has {shown(name)}; allowed: {allowed}")
    return fields.include


def input_messages(given: str | Sequence[Mapping[str, Any]]) -> Messages:
    """The messages of an input: a text, or items."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: Messages = []
    thought = ""
    for number, item in enumerate(given):
        if item.get("type") == "reasoning":
            thought = _thought(item)
            continue
        message = _message(item, f"input[{number}]")
        if thought and message["role"] == "assistant":
            message["reasoning"] = thought
        thought = ""
        is_same_reply = messages and "tool_calls" in message and "tool_calls" in messages[-1]
        if is_same_reply:
            messages[-1]["tool_calls"] += message["tool_calls"]
        else:
            messages.append(message)
    return messages


def _thought(item: Mapping[str, Any]) -> str:
    """What was thought before the next item, if it is shown as text."""
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _message(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        output, name = item.get("output"), item.get("call_id")
        return {"role": "tool", "content": _parts(output), "tool_call_id": name}
    if kind != "message":
        raise refused(
            place,
            f"{place} is a {kind!a:.80}; allowed: message, function_call, function_call_output",
        )
    return {"role": item.get("role"), "content": _parts(item.get("content"))}


def _parts(content: object) -> object:
    """A content as chats have it."""
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: object) -> object:
    """A part of a message as chats have it."""
    if isinstance(part, dict) and part.get("type") in TEXT_PARTS:
        return {"type": "text", "text": part.get("text")}
    return part


class ResponseObject:
    """A response from its beginning to its end."""

    def __init__(self, model: str, request: ResponseRequest) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self.message_id = f"msg_{secrets.token_hex(16)}"
        self.reasoning_id = f"rs_{secrets.token_hex(16)}"
        self._model = model
        self._request = request
        self._created = now()

    def begun(self) -> dict[str, Any]:
        """Without any output yet."""
        return self._object("in_progress", [], None)

    def ended(self, result: Generation, *, is_thought_first: bool = True) -> dict[str, Any]:
        """With the whole text, which a stream has begun even where there are calls alone.

        ``is_thought_first``: False for a stream that has begun with the message.
        """
        status = status_of(result)
        is_stream = self._request.fields.stream
        has_text = is_stream or result.text or not result.tool_calls
        part = text_part(result.text, text_logprobs(result))
        text = [self.item(part, status)] if has_text else []
        thought = [self.reasoning_item(result.reasoning, status)] if result.reasoning else []
        calls = [
            call_item(call.id, call.name, arguments_text(call), status)
            for call in result.tool_calls
        ]
        said = [*text, *calls]
        output = [*thought, *said] if is_thought_first else [*said, *thought]
        return self._object(status, output, _usage(result))

    def failed(self, error: RequestError) -> dict[str, Any]:
        """With what went wrong."""
        what = {"code": error.code or "server_error", "message": error.what}
        return {**self._object("failed", [], None), "error": what}

    def reasoning_item(self, reasoning: str, status: str) -> dict[str, Any]:
        """What was thought before the message; "" is nothing yet."""
        content = [reasoning_part(reasoning)] if reasoning else []
        head = {"id": self.reasoning_id, "type": "reasoning", "status": status, "summary": []}
        return {**head, "content": content}

    def item(self, part: dict[str, Any] | None, status: str) -> dict[str, Any]:
        """The message of the output; None is one without content yet."""
        content = [] if part is None else [part]
        head = {"id": self.message_id, "type": "message", "status": status, "role": "assistant"}
        return {**head, "content": content}

    def _object(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        fields, options = self._request.fields, self._request.options
        is_short = status == "incomplete"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_short else None,
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "model": self._model,
            "output": output,
            "parallel_tool_calls": fields.parallel_tool_calls is not False,
            "previous_response_id": fields.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": fields.store,
            "temperature": options.get("temperature"),
            "text": {"format": fields.text.get("format") or {"type": "text"}},
            "tool_choice": fields.tool_choice or "auto",
            "tools": fields.tools or [],
            "top_logprobs": fields.top_logprobs or 0,
            "top_p": options.get("top_p"),
            "truncation": "disabled",
            "usage": usage,
            "user": None,
            "metadata": fields.metadata,
        }


def call_item(call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    """A call of the output, with its arguments as JSON text."""
    return {
        "id": f"fc_{call_id}",
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def text_part(text: str, found: Sequence[TokenLogprob] | None = None) -> dict[str, Any]:
    """A text of the output."""
    logprobs = chat_logprobs(found or ())
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_part(text: str) -> dict[str, Any]:
    """Thinking of the output."""
    return {"type": "reasoning_text", "text": text}


def status_of(result: Generation) -> str:
    """Whether a text has come to its own end."""
    is_whole = result.finish_reason in ("stop", "tool_calls")
    return "completed" if is_whole else "incomplete"


def _usage(result: Generation) -> dict[str, Any]:
    counts = result.usage
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.total_tokens,
    }
