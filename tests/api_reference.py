"""Writes docs/api.md from signatures and docstrings: ``python tests/api_reference.py``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, is_typeddict

from places import DOCS

import edgellama
import edgellama.convert
from edgellama.sampling.option_ranges import RULE
from edgellama.sampling.options import SamplingArguments

PAGE = DOCS / "api.md"
INTRODUCTION = """# Python

Every public name, from its signature and docstring. Names are imported from `edgellama`, `convert`
and `plan` from `edgellama.convert`. Calls that end in `_async` are for event loops, see
[applications](applications.md). Written by `python tests/api_reference.py`.
"""
GROUPS: Mapping[str, Sequence[str]] = {
    "A model": ("Llama",),
    "Chats and sessions": ("Conversation", "Session"),
    "Options": (
        *("TextOptions", "ChatOptions", "PromptOptions", "BatchOptions", "SamplingOptions"),
        *("EmbedOptions", "RerankOptions"),
    ),
    "Results": (
        *("Generation", "Chunk", "Usage", "Statistics", "TokenLogprob", "Score"),
        *("Classification", "Embedding", "Ranked", "Moderation", "SafetyCategory"),
    ),
    "Tools": ("Tool", "ToolCall"),
    "While a text runs": ("Stream", "AsyncStream", "Batch", "AsyncBatch", "CancelToken"),
    "In the words of transformers": ("pipeline", "TextGenerationPipeline"),
    "Models and files": (
        *("pull", "convert", "plan", "GGUFFile", "ModelConfig", "Adapter"),
        *("load_tokenizer", "Tokenizer", "ChatTemplate", "StepRows"),
    ),
}
"""What is shown in which order; a name that is in none comes under MORE."""
MORE = "More"
INNER = ("Engine", "KVCache")
"""For instruments and other runtimes, which read the source."""
INHERITED: Mapping[str, Any] = {
    "TextOptions": SamplingArguments,
    "ChatOptions": edgellama.TextOptions,
    "PromptOptions": edgellama.TextOptions,
    "BatchOptions": edgellama.BatchOptions,
}
"""Options that have all of another's, which are shown there."""
PARTS_OF_OURS = ("start",)
"""Methods that take what is not public."""
SECTION = re.compile(r"^(Arguments|Returns|Raises|Example):(?: +(.*))?$")
LINE_LENGTH = 92


def public_objects() -> dict[str, Any]:
    """Every public name."""
    names = {name: getattr(edgellama, name) for name in edgellama.__all__ if name not in INNER}
    convert = edgellama.convert
    return names | {"convert": convert.convert, "plan": convert.plan}


def render_page() -> str:
    """The whole page."""
    objects = public_objects()
    errors = {n: o for n, o in objects.items() if inspect.isclass(o) and issubclass(o, Exception)}
    named = [name for names in GROUPS.values() for name in names]
    more = sorted(set(objects) - set(errors) - set(named))
    groups = {**GROUPS, MORE: more} if more else GROUPS
    parts = [INTRODUCTION, _contents(groups)]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        parts += [_object(name, objects[name]) for name in names]
    parts.append("## Errors\n\nEach is an `EdgellamaError`, and says what is wrong in one line.\n")
    parts.append(_errors(errors))
    return "\n".join(parts)


def _contents(groups: Mapping[str, Sequence[str]]) -> str:
    lines = []
    for title, names in groups.items():
        links = ", ".join(f"[{name}](#{name.lower()})" for name in names)
        lines.append(f"- {title}: {links}")
    return "\n".join([*lines, "- [Errors](#errors)"]) + "\n"


def _object(name: str, value: Any) -> str:
    parts = [f"### {name}\n"]
    if inspect.isfunction(value):
        parts += [_code(_signature(name, value)), _text(value)]
    elif is_typeddict(value):
        inherited = INHERITED[name].__annotations__ if name in INHERITED else ()
        own = {n: (_shown(t), "") for n, t in value.__annotations__.items() if n not in inherited}
        parts += [_code(_fields(own)), _text(value)]
    elif dataclasses.is_dataclass(value):
        parts += [_text(value), _data_fields(value), *_members(name, value)]
    else:
        parts += [_code(_signature(name, value.__init__, of_class=True))] if _is_made(value) else []
        parts += [_text(value)]
        if _is_made(value):
            parts.append(_text(value.__init__))
        parts += _members(name, value)
    return "\n".join(part for part in parts if part)


def _is_made(value: Any) -> bool:
    """Whether users call the class: its constructor then explains its arguments."""
    return "Arguments:" in (value.__init__.__doc__ or "") and value.__name__ != "Conversation"


def _members(name: str, value: type) -> Iterator[str]:
    """Properties and methods, in the order of the source, those that are inherited after."""
    seen: dict[str, Any] = {}
    for base in value.__mro__:
        if base.__module__.startswith("edgellama"):
            for key, member in vars(base).items():
                seen.setdefault(key, member)
    public = {key: member for key, member in seen.items() if not key.startswith("_")}
    twins = [key for key in public if key.endswith("_async")]
    properties = [
        _property(key, member)
        for key, member in public.items()
        if isinstance(member, (property, cached_property))
    ]
    if properties:
        yield "\n".join(["| property | type | |", "|---|---|---|", *properties, ""])
    if twins:
        names = ", ".join(f"`{twin}`" for twin in twins)
        yield f"For event loops, with the arguments of the calls of these names: {names}.\n"
    for key, member in public.items():
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if inspect.isfunction(function) and key not in (*twins, *PARTS_OF_OURS):
            code = _code(_signature(key, function))
            yield "\n".join([f"#### {name}.{key}\n", code, _text(function)])


def _property(key: str, member: property | cached_property[Any]) -> str:
    getter = member.fget if isinstance(member, property) else member.func
    assert getter is not None
    kind = _shown(inspect.signature(getter).return_annotation)
    words = " ".join(inspect.cleandoc(getter.__doc__ or "").split()).replace("``", "`")
    is_assignable = isinstance(member, property) and member.fset is not None
    note = " May be assigned." if is_assignable and "assigned" not in words else ""
    return f"| `{key}` | `{_in_cell(kind)}` | {_in_cell(words)}{note} |"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _signature(name: str, function: Any, *, of_class: bool = False) -> str:
    """What is written to call it, on one line or an argument a line."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    arguments: list[str] = []
    for number, parameter in enumerate(own):
        is_first_named = parameter.kind is parameter.KEYWORD_ONLY and not any(
            p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL) for p in own[:number]
        )
        arguments += ["*"] if is_first_named else []
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        text = stars.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_shown(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        arguments.append(text)
    awaited = "await " if inspect.iscoroutinefunction(function) else ""
    called = name.split(".")[-1]
    result = "" if of_class else f" -> {_shown(signature.return_annotation)}"
    line = f"{awaited}{called}({', '.join(arguments)}){result}"
    if len(line) <= LINE_LENGTH:
        return line
    return "\n".join([f"{awaited}{called}(", *(f"    {a}," for a in arguments), f"){result}"])


def _default(value: object) -> str:
    return value.__name__ if inspect.isclass(value) else repr(value)


def _shown(annotation: Any) -> str:
    """A type as the source writes it."""
    if annotation is None or annotation is type(None):
        return "None"
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", "")
    text = text or inspect.formatannotation(annotation)
    text = re.sub(r"ForwardRef\('([^']*)'.*?\)", r"\1", text).strip("'\"")
    return re.sub(r"\bedgellama\.(?:convert\.)?(?=[A-Z])", "", text)


def _data_fields(value: Any) -> str:
    """Fields with types and defaults; a table where fields have words of their own."""
    fields = dataclasses.fields(value)
    if any(RULE in field.metadata for field in fields):
        lines = ["| option | default | |", "|---|---|---|"]
        for field in fields:
            rule = field.metadata[RULE]
            words = f"{rule.text} {rule.range.words[0].upper()}{rule.range.words[1:]}."
            words = _in_cell(words)
            lines.append(f"| `{field.name}` | `{field.default!r}` | {words} |")
        return "\n".join(lines) + "\n"
    shown = {}
    for field in fields:
        has_default = field.default is not dataclasses.MISSING
        shown[field.name] = (_shown(field.type), f" = {field.default!r}" if has_default else "")
    return _code(_fields(shown))


def _fields(fields: Mapping[str, tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {kind}{default}" for name, (kind, default) in fields.items())


def _code(text: str) -> str:
    return f"```text\n{text}\n```\n" if text else ""


def _text(value: Any) -> str:
    """A docstring as Markdown: prose, a list of arguments, the example as code."""
    found = value.__doc__ if not inspect.isclass(value) else vars(value).get("__doc__")
    if not found:
        return ""
    parts: list[str] = []
    title, lines = "", list[str]()
    for line in [*inspect.cleandoc(found).splitlines(), "End:"]:
        match = SECTION.match(line)
        is_prose_again = bool(title) and line != "" and not line.startswith("    ")
        if match or is_prose_again or line == "End:":
            parts.append(_section(title, lines) if title else _prose(lines))
            title, lines = match[1] if match else "", []
            line = (match[2] or "") if match else line
        lines.append(line.removeprefix("    ") if title else line)
    return "\n".join(part for part in parts if part)


def _section(title: str, lines: Sequence[str]) -> str:
    if title == "Example":
        if not any(line.startswith(">>> ") for line in lines):
            return f"Example: {_prose(lines)}"
        return "```pycon\n" + "\n".join(lines).strip("\n") + "\n```\n"
    if title == "Returns":
        return f"Returns: {_prose(lines)}"
    return f"{title}:\n\n{_items(lines)}"


def _items(lines: Sequence[str]) -> str:
    """A list of what begins with a name and a colon; deeper lines go on with it."""
    items: list[str] = []
    for line in lines:
        named = re.match(r"^(\w+): (.*)$", line)
        if named:
            items.append(f"- `{named[1]}`: {named[2]}")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(f"- {line.strip()}")
    return _prose(items)


def _prose(lines: Sequence[str]) -> str:
    return "\n".join(lines).replace("``", "`").strip() + "\n" if any(lines) else ""


def _errors(errors: Mapping[str, type]) -> str:
    rows = ["| error | when |", "|---|---|"]
    for name, error in sorted(errors.items()):
        text = " ".join((inspect.getdoc(error) or "").split("\n\n")[0].split())
        rows.append(f"| `{name}` | {text.replace('``', '`')} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render_page(), "utf-8")
