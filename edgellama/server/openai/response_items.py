"""The messages that a kept response was made from, in pages of items as OpenAI's clients list them.

``stores.response_store`` knows which messages a response keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgellama.quant.error_text import shown
from edgellama.server.errors import refused
from edgellama.server.openai.responses import call_item, reasoning_part, text_part

ORDERS = ("asc", "desc")
USUAL_LIMIT, MAX_LIMIT = 20, 100
Item = dict[str, Any]


def items_of(response: str, messages: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Messages, calls and their results in the order in which they were said.

    Their ids are made of the response's and of their numbers, so that they stay the same.
    """
    found = [item for message in messages for item in _items(message)]
    suffix = response.removeprefix("resp_")
    taken: set[str] = set()
    for number, item in enumerate(found):
        # Clients may send several calls with one id.
        if item.get("id") is None or item["id"] in taken:
            item["id"] = f"{_PREFIXES[item['type']]}_{suffix}_{number}"
        taken.add(item["id"])
    return found


_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
}


def _items(message: Mapping[str, Any]) -> Iterator[Item]:
    role, text = message["role"], _text(message.get("content"))
    if role == "tool":
        name = message.get("tool_call_id")
        yield _item("function_call_output", call_id=name, output=text)
        return
    if thought := message.get("reasoning"):
        yield _item("reasoning", summary=[], content=[reasoning_part(thought)])
    calls = message.get("tool_calls") or ()
    if text or not calls:
        part = text_part(text) if role == "assistant" else {"type": "input_text", "text": text}
        yield _item("message", role=role, content=[part])
    for call in calls:
        function = call["function"]
        yield call_item(call["id"], function["name"], function["arguments"], "completed")


def _text(content: object) -> str:
    """A content that was taken once: a text, or parts that are texts and refusals."""
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(str(part.get("text") or part.get("refusal") or "") for part in content)


def _item(kind: str, **fields: Any) -> Item:
    return {"type": kind, "status": "completed", **fields}


def page_of(items: Sequence[Item], asked: Mapping[str, str]) -> dict[str, Any]:
    """A page by ``order``, ``after`` (an id) and ``limit``; RequestError for wrong ones."""
    order, limit = asked.get("order", "desc"), asked.get("limit", str(USUAL_LIMIT))
    if order not in ORDERS:
        raise refused("order", f"order is {shown(order)}; allowed: {', '.join(ORDERS)}")
    is_number = limit.isascii() and limit.isdigit() and len(limit) < 4
    if not (is_number and 1 <= int(limit) <= MAX_LIMIT):
        raise refused("limit", f"limit is {shown(limit)}; allowed: 1 to {MAX_LIMIT}")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if (after := asked.get("after")) is not None:
        names = [item["id"] for item in ordered]
        if after not in names:
            raise refused("after", f"after is {shown(after)}; allowed: the id of an item")
        ordered = ordered[names.index(after) + 1 :]
    data = ordered[: int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(ordered) > len(data),
    }
