"""How tools, calls and their results are shown to a model: by its template, or by us.

Templates that know tools show them themselves. Which form their models write calls in is found out
by having the template write one. For all other templates, tools are described in the system
message, calls are text of the assistant's, and results are text of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from edgellama.quant.errors import TemplateError
from edgellama.quant.records import dataclass
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.reasoning.marks import without_opening
from edgellama.tools.forms import FORMS, CallForm
from edgellama.tools.reading import READERS
from edgellama.tools.tool import ID_LENGTH, Tool

Messages: TypeAlias = "list[dict[str, Any]]"
INSTRUCTION = (
    "You may call functions to answer. They are described here, each by a JSON object with its "
    "name and a JSON schema of its parameters:\n<tools>\n{tools}\n</tools>\nTo call a function, "
    "answer with a JSON object between tags, as in\n"
    '<tool_call>\n{{"name": "NAME", "arguments": {{"PARAMETER": "VALUE"}}}}\n</tool_call>\n'
    "You then get what it returned between <tool_response> tags."
)
RESULT_TAGS = ("<tool_response>", "</tool_response>")
_PROBE = Tool(
    "probe_of_tools",
    "Probe.",
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
)
_PROBE_ARGUMENTS = {"a": "probed value"}
_PROBE_RESULT = "probed result"
_PROBE_ID = "probe0000"


@dataclass(frozen=True)
class Presentation:
    """How one template is used.

    ``form``: that of the model's calls. ``is_native``: the template shows tools, calls and
    results. ``takes_several``: it shows several calls in one message. ``takes_system``: it shows
    a system message.
    """

    template: ChatTemplate
    form: CallForm
    is_native: bool
    takes_several: bool = True
    takes_system: bool = True

    @property
    def banned(self) -> Sequence[str]:
        """What no reply contains: a tag of ours, which small models begin replies with."""
        return () if self.is_native else RESULT_TAGS[:1]

    @property
    def stop(self) -> Sequence[str]:
        """What a reply ends at: the tag that closes a result."""
        return () if self.is_native else RESULT_TAGS[1:]

    @classmethod
    def of(cls, template: ChatTemplate) -> Presentation:
        """Find out what the template can do, by a few renderings."""
        name = _native_form(template)
        if name is None:
            takes_system = _PROBE_RESULT in (_rendered(template, [], system=_PROBE_RESULT) or "")
            return cls(template, FORMS["tagged"], is_native=False, takes_system=takes_system)
        joined = _rendered(template, [_calls("1", "2"), _result("1"), _result("2")])
        takes_several = joined is not None and joined.count(_PROBE_ARGUMENTS["a"]) == 2
        return cls(template, FORMS[name], is_native=True, takes_several=takes_several)

    def messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> tuple[Messages, dict[str, Any]]:
        """The messages as the template takes them, and the variables that it wants beside."""
        if not self.is_native:
            shown = _as_text(messages)
            return (_described(shown, tools, self.takes_system) if tools else shown), {}
        shown = list(map(dict, messages)) if self.takes_several else _parted(messages)
        variables = {"tools": [tool.as_openai() for tool in tools]} if tools else {}
        return _identified(shown), variables


def _native_form(template: ChatTemplate) -> str | None:
    """The form in which a template writes calls; None if it does not know tools well enough."""
    asked = _rendered(template, [])
    called = _rendered(template, [_calls("1")], add_generation_prompt=False)
    answered = _rendered(template, [_calls("1"), _result("1")])
    if asked is None or called is None or answered is None:
        return None
    asked = without_opening(asked)
    if _PROBE.name not in asked or _PROBE_RESULT not in answered or not called.startswith(asked):
        return None
    reply = called[len(asked) :]
    readings = {name: read(reply, (_PROBE.name,)) for name, read in READERS.items()}
    wanted = [(_PROBE.name, _PROBE_ARGUMENTS)]
    return next(
        (
            name
            for name, reading in readings.items()
            if [(call.name, call.arguments) for call in reading.calls] == wanted
        ),
        None,
    )


def _rendered(
    template: ChatTemplate,
    behind: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    system: str | None = None,
) -> str | None:
    """A conversation with a tool, as the template writes it; None if it refuses."""
    before = [] if system is None else [{"role": "system", "content": system}]
    messages = [*before, {"role": "user", "content": "Probe."}, *behind]
    try:
        return template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=[_PROBE.as_openai()]
        )
    except TemplateError:
        return None


def _calls(*ids: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": _PROBE_ID[: -len(number)] + number,
                "type": "function",
                "function": {"name": _PROBE.name, "arguments": dict(_PROBE_ARGUMENTS)},
            }
            for number in ids
        ],
    }


def _result(number: str) -> dict[str, Any]:
    return {
        "role": "tool",
        "name": _PROBE.name,
        "tool_call_id": _PROBE_ID[: -len(number)] + number,
        "content": _PROBE_RESULT,
    }


def _parted(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Each call in a message of its own, followed by its result, for templates that want one."""
    parted: Messages = []
    rest = list(map(dict, messages))
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            parted.append(message)
            continue
        results = []
        while rest and rest[0]["role"] == "tool":
            results.append(rest.pop(0))
        for number, call in enumerate(calls):
            content = message["content"] if number == 0 else ""
            own = [result for result in results if result.get("tool_call_id") == call.get("id")]
            parted += [{**message, "content": content, "tool_calls": [call]}, *own[:1]]
            results = [result for result in results if result not in own[:1]]
        parted += results
    return parted


def _identified(messages: Messages) -> Messages:
    """Results with the names of what was called, and ids as Mistral's templates want them."""
    names: dict[Any, str] = {}
    for message in messages:
        calls = message.get("tool_calls") or []
        names |= {call.get("id"): call["function"]["name"] for call in calls}
        if calls:
            message["tool_calls"] = [{**call, "id": _short_id(call.get("id"))} for call in calls]
        if message["role"] == "tool":
            given = message.get("tool_call_id")
            message.setdefault("name", names.get(given, ""))
            message["tool_call_id"] = _short_id(given)
    return messages


def _short_id(given: Any) -> str:
    """An id of nine letters and digits, the same for the same id."""
    text = str(given)
    if len(text) == ID_LENGTH and text.isascii() and text.isalnum():
        return text
    import hashlib  # Loads OpenSSL, which few texts need.

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]


def _as_text(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Calls and results as text, for templates that know neither."""
    opening, closing = RESULT_TAGS
    shown: Messages = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            results = [f"{opening}\n{message['content']}\n{closing}" for message in group]
            shown.append({"role": "user", "content": "\n".join(results)})
        else:
            shown += map(_with_calls_as_text, group)
    return shown


def _with_calls_as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    form, content = FORMS["tagged"], str(message["content"])
    functions = [call["function"] for call in message.get("tool_calls") or []]
    written = [form.written(given["name"], given["arguments"]) for given in functions]
    return {
        "role": message["role"],
        "content": "\n".join([*([content] * bool(content)), *written]),
    }


def _described(messages: Messages, tools: Sequence[Tool], takes_system: bool) -> Messages:
    """The messages with what there is to call at the end of the system message.

    Templates without one have it at the start of the first message.
    """
    lines = [json.dumps(tool.as_openai()["function"], ensure_ascii=False) for tool in tools]
    text = INSTRUCTION.format(tools="\n".join(lines))
    if not messages or (messages[0]["role"] != "system" and takes_system):
        return [{"role": "system", "content": text}, *messages]
    first, *others = messages
    parts = [first["content"], text] if first["role"] == "system" else [text, first["content"]]
    return [{**first, "content": "\n\n".join(parts)}, *others]
