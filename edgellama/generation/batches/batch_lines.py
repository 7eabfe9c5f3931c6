"""Lines of prompts and of texts as JSON objects, as ``edgellama batch`` reads and writes them.

The command, and workers of a cluster, decide which lines there are, and where they go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.generation.argument_types import BatchPrompt
    from edgellama.generation.results import Generation, TokenLogprob


def prompt_of(content: Mapping[str, Any], *, is_chat: bool, system: str | None) -> BatchPrompt:
    """The prompt of a line without its id.

    ``is_chat``: a text is a chat's message. ``system``: the system prompt of chats without one.
    """
    prompt = dict(content)
    text = prompt.get("prompt")
    if is_chat and isinstance(text, str) and "messages" not in prompt:
        del prompt["prompt"]
        prompt["messages"] = [{"role": "user", "content": text}]
    messages = prompt.get("messages")
    if system is not None and isinstance(messages, list):
        first = messages[0] if messages else None
        if not (isinstance(first, dict) and first.get("role") == "system"):
            prompt["messages"] = [{"role": "system", "content": system}, *messages]
    return prompt


def text_line(line_id: object, result: Generation) -> dict[str, Any]:
    """What is written of a text; "id" comes first."""
    num_tokens = len(result.tokens)
    line = {
        "id": line_id,
        "text": result.text,
        **({"reasoning": result.reasoning} if result.reasoning else {}),
        "finish_reason": result.finish_reason,
        "matched_stop": result.matched_stop,
        **({} if result.parsed is None else {"parsed": result.parsed}),
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": num_tokens,
            **({"reasoning_tokens": result.reasoning_tokens} if result.reasoning_tokens else {}),
            "total_tokens": result.prompt_tokens + num_tokens,
        },
    }
    if result.tool_calls:
        line["tool_calls"] = [call.as_openai() for call in result.tool_calls]
    for name in ("logprobs", "prompt_logprobs"):
        if (found := getattr(result, name)) is not None:
            line[name] = [each and logprob_object(each) for each in found]
    return line


def logprob_object(found: TokenLogprob) -> dict[str, Any]:
    """A token's log-probability, its bytes as a list of numbers."""
    return {
        "token": found.token,
        "text": found.text,
        "bytes": [*found.token_bytes],
        "logprob": found.logprob,
        "alternatives": [logprob_object(other) for other in found.alternatives],
    }


def error_line(line_id: object, error: EdgellamaError | str) -> dict[str, Any]:
    """What is written of a prompt that cannot run."""
    return {"id": line_id, "error": error if isinstance(error, str) else error.in_terminal}
