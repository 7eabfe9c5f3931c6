"""Anthropic's messages, whose contents are blocks, as messages of chats; and replies as blocks.

``messages`` reads requests and writes streams.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellama.quant.error_text import shown
from edgellama.server.errors import RequestError

if TYPE_CHECKING:
    from edgellama.generation.results import Generation

REDACTED = "redacted_thinking"
"""What another model thought and nobody can read, which clients send back."""

OF_ACCOUNTS = "x-anthropic-billing-header:"
"""How a block of Claude Code's system prompt begins that is for accounts, not for the model.

It differs with every conversation, so that none would find the prompt of thousands of tokens that
all of them go on with.
"""


def without_accounts(system: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A system prompt without what is for accounts alone."""
    if isinstance(system, str):
        return system
    return [block for block in system if not str(block.get("text")).startswith(OF_ACCOUNTS)]


def chat_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with calls and their results as chats have them."""
    found: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            found += _of_blocks(message.get("role"), content, f"messages[{number}]")
        else:
            found.append(dict(message))
    return found


def _of_blocks(role: object, blocks: Sequence[Any], place: str) -> list[dict[str, Any]]:
    """Results come first, each a message of its own; then text, with calls."""
    results, calls, texts, thoughts = [], [], [], []
    for block in blocks:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_result":
            results.append(_result(block, place))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input") or {}}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "text":
            texts.append({"type": "text", "text": block.get("text")})
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
        elif kind != REDACTED:
            raise RequestError(
                400,
                f"{place} has a block of the type {shown(kind)}, which this model cannot read; "
                "allowed: text, tool_use, tool_result",
                param=place,
            )
    if not (texts or calls):
        return results
    message: dict[str, Any] = {"role": role, "content": texts}
    if any(thoughts):
        message["reasoning"] = "\n\n".join(filter(None, thoughts))
    return [*results, {**message, "tool_calls": calls} if calls else message]


def _result(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    content = block.get("content") or ""
    name = block.get("tool_use_id")
    if not isinstance(name, str):
        raise RequestError(400, f"{place} has a tool_result without tool_use_id", param=place)
    return {"role": "tool", "content": content, "tool_call_id": name}


def thinking_block(reasoning: str) -> dict[str, Any]:
    """What was thought before a reply."""
    return {"type": "thinking", "thinking": reasoning, "signature": signature(reasoning)}


def signature(reasoning: str) -> str:
    """Of a block that clients send back as it is: the same for the same, and never checked."""
    data = reasoning.encode("utf-8", "surrogatepass")
    return base64.b64encode(hashlib.blake2b(data, digest_size=24).digest()).decode("ascii")


def reply_blocks(result: Generation) -> list[dict[str, Any]]:
    """A reply's text, and its calls."""
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}
        for call in result.tool_calls
    ]
    text = [{"type": "text", "text": result.text}] if result.text or not calls else []
    return [*text, *calls]
