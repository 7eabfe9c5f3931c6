"""Whether a model should think before it answers, in each protocol's words, and who sees that.

``fields`` checks the types of these fields. For a model that cannot think they change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgellama.quant.records import dataclass
from edgellama.server.fields.fields import THINKING_LIMITS

if TYPE_CHECKING:
    from edgellama.text.reasoning.expected import ReasoningWish

_FORMATS: Mapping[object, ReasoningWish] = {"none": "raw", "deepseek": "split"}
"""llama.cpp's ``reasoning_format``: thinking stays in the text, or is looked for in any case."""
NO_EFFORT = "none"
_KINDS: Mapping[object, bool] = {"enabled": True, "disabled": False}


@dataclass(frozen=True)
class ThinkingWish:
    """``reasoning`` as replies take it; ``is_told``: the client gets to see what was thought.

    ``max_tokens`` of thinking at most; None is no limit.
    """

    reasoning: ReasoningWish = "auto"
    is_told: bool = True
    max_tokens: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of a reply; a model thinks as it does where nothing is asked for."""
        options: dict[str, Any] = {} if self.reasoning == "auto" else {"reasoning": self.reasoning}
        if self.max_tokens is not None and self.reasoning != "raw":
            options["max_reasoning_tokens"] = self.max_tokens
        return options


def thinking_wish(body: Mapping[str, Any]) -> ThinkingWish:
    """What a request asks for, by the first of its fields that says anything."""
    form = body.get("reasoning_format")
    form = _FORMATS.get(form, "auto") if isinstance(form, str) else "auto"
    if form == "raw":
        return ThinkingWish(form)
    words = (
        _switch(body.get("think")),
        _switch(body.get("enable_thinking")),
        _KINDS.get(_of(body, "thinking", "type")),
        _switch(_of(body, "reasoning", "enabled")),
        _by_effort(_of(body, "reasoning", "effort")),
        _by_effort(body.get("reasoning_effort")),
    )
    asked = next((word for word in words if word is not None), form)
    is_hidden = body.get("include_reasoning") is False
    is_hidden |= _of(body, "reasoning", "exclude") is True
    limits = (
        _of(body, "reasoning", "max_tokens"),
        _of(body, "thinking", "budget_tokens"),
        *(body.get(name) for name in THINKING_LIMITS),
    )
    limit = next((number for each in limits if (number := thinking_limit(each)) is not None), None)
    return ThinkingWish(asked, not is_hidden, limit)


def _of(body: Mapping[str, Any], name: str, key: str) -> Any:
    inner = body.get(name)
    found = inner.get(key) if isinstance(inner, Mapping) else None
    return found if isinstance(found, (str, bool, int)) else None


def thinking_limit(value: Any) -> int | None:
    """Tokens of thinking at most; what is below zero is no limit, as for llama.cpp."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and value >= 0 else None


def _switch(value: Any) -> bool | None:
    """Ollama's ``think`` is a word of effort, too."""
    if isinstance(value, str) and value:
        return value != NO_EFFORT
    return value if isinstance(value, bool) else None


def _by_effort(value: Any) -> bool | None:
    """Any effort but none is what the model makes of it."""
    return False if value == NO_EFFORT else None


def reasoning_fields(reasoning: str) -> dict[str, Any]:
    """Thinking in OpenAI's chats, under both names that its clients look for."""
    return {"reasoning_content": reasoning, "reasoning": reasoning} if reasoning else {}
