"""The grammar of a reply: text, or calls of tools with right arguments.

It is written in llguidance's dialect of Lark. ``constraints`` checks and writes the schemas of
arguments. The marks of a form are tokens if the vocabulary has them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from edgellama.constraints.answer_form import AnswerForm
from edgellama.constraints.json_schema import compiled_schema, json_copy
from edgellama.constraints.lark_texts import escaped_pattern, literal
from edgellama.constraints.loosening import loosened
from edgellama.constraints.schema_places import subschemas
from edgellama.quant.errors import ConstraintError
from edgellama.tools.forms import CallForm
from edgellama.tools.lark_rules import json_rule, moved_schema
from edgellama.tools.python_arguments import check_name, python_arguments, separable
from edgellama.tools.reading import CODE_TOOL
from edgellama.tools.tool import Tool

MAX_PARALLEL_CALLS = 16
"""In one reply: small models that have begun to call do not end by themselves."""
_MORE = f"{{0,{MAX_PARALLEL_CALLS - 1}}}"
MAX_KEPT_SCHEMAS = 128
_ANSWER = "answer"
_OPEN = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}


def calls_form(
    form: CallForm,
    tools: Sequence[Tool],
    *,
    marks: Mapping[str, int],
    must_call: bool = False,
    parallel: bool = True,
    answer: AnswerForm | None = None,
    built_in: Collection[str] = (),
    reserved: str = "",
) -> AnswerForm:
    """The form of a reply that may call tools.

    Arguments:
        form: How the model writes calls.
        tools: Those it may call, at least one.
        marks: Token ids of marks that the vocabulary has as tokens, by their texts.
        must_call: No text instead of a call. False by default.
        parallel: Several calls in a reply. True by default.
        answer: What a reply that calls nothing must look like. None (the default) is any text.
        built_in: Names of those among the tools that are called as Llama 3.1's built-in ones,
            behind the mark. None by default.
        reserved: What no text begins with, since it opens thinking. Nothing by default.

    Returns:
        The form, for the constraints' compiler.

    Raises:
        ConstraintError: A schema that cannot be kept to, with the tool's name, or a name that the
            form cannot write.
    """
    _check_names(form, tools)
    answered = None if must_call else answer
    lark = _Lark(form, marks, built_in, reserved)
    answer_grammars = []
    if answered is not None and answered.schema is not None and form.is_plain_json:
        # llguidance reads either by the first character, so both are one schema.
        own = [tool for tool in tools if tool.name not in built_in]
        schema = _either(form, own, answered.schema)
        main = lark.rules(tools, others=[json_rule(schema)], parallel=parallel, is_unmarked=False)
    else:
        if answered is not None:
            answer_grammars = json.loads(answered.grammar)["grammars"]
        others = [] if must_call else ["@" + _ANSWER] if answer_grammars else ["TEXT"]
        main = lark.rules(tools, others=others, parallel=parallel, is_unmarked=True)
    grammars = [{"lark_grammar": main}]
    if answer_grammars:
        first, *more = answer_grammars
        grammars += [{**first, "name": _ANSWER}, *more]
    grammar = json.dumps({"grammars": grammars}, ensure_ascii=False)
    if answer is None:
        return AnswerForm("tools", grammar, opens_freely=not (reserved or must_call))
    return replace(answer, option="tools", grammar=grammar)


class _Lark:
    """Writes the rules for one form."""

    def __init__(
        self, form: CallForm, marks: Mapping[str, int], built_in: Collection[str], reserved: str
    ) -> None:
        self._form = form
        self._reserved = reserved
        self._marks = marks
        self._built_in = built_in

    def rules(
        self, tools: Sequence[Tool], *, others: Sequence[str], parallel: bool, is_unmarked: bool
    ) -> str:
        """All rules, the start first.

        ``others``: what a reply may be instead of calls. ``is_unmarked``: whether calls may begin
        a reply without the mark, in forms that know such.
        """
        form, has_text = self._form, "TEXT" in others
        own = [tool for tool in tools if tool.name not in self._built_in]
        known = [tool for tool in tools if tool.name in self._built_in]
        begun = ["calls"] if form.opening is not None and is_unmarked and own else []
        if form.opening is None or form.mark in self._marks:
            opening = "opened" if has_text else self._literal(form.mark)
            kinds = ["calls"] * bool(own) + ["built_in"] * bool(known)
            begun += [f"{opening} {kind}" for kind in kinds]
        lines = [f"start: {' | '.join([*others, *begun])}"]
        if has_text:
            lines += [f"TEXT: /{self._free_text()}/{self._unless_reserved()}", *self._opened()]
        if own:
            lines += [*self._calls(parallel), *self._tool_rules(own)]
        if known:
            lines += _built_in_rules(known)
        return "\n".join(lines) + "\n"

    def _opened(self) -> list[str]:
        """Text up to the mark; a mark that is no token is looked for in the text."""
        mark = self._form.mark
        if self._form.opening is not None and mark not in self._marks:
            return []
        if mark in self._marks:
            return [f"opened: TEXT {self._literal(mark)}"]
        prose = f"/(.|\\n)*{escaped_pattern(mark)}/{self._unless_reserved()}"
        return ["opened[lazy]: PROSE", f"PROSE: {prose}"]

    def _unless_reserved(self) -> str:
        """What takes texts away that begin as thinking does."""
        return rf" & ~/{escaped_pattern(self._reserved)}(.|\n)*/" if self._reserved else ""

    def _free_text(self) -> str:
        """A whole reply that is no call: where a call may begin at once, no text begins so."""
        if self._form.opening is None:
            return r"(.|\n)*"
        first = escaped_pattern(self._form.start or "{")
        return rf"([ \n\r\t]*[^ \n\r\t{first}](.|\n)*)?"

    def _calls(self, parallel: bool) -> list[str]:
        """One call or several, behind the mark if there is one."""
        form, between = self._form, self._literal(self._form.between)
        if form.repeats_mark:
            # The mark and the white space behind it are part of each call.
            more = f" ({between}? {self._literal(form.mark)} call){_MORE}" if parallel else ""
            return [f"calls: call{more}", f"call: {self._literal(form.start)}? one_call"]
        more = f" ({between} one_call){_MORE}" if parallel else ""
        parts = [self._literal(form.start), f"one_call{more}", self._literal(form.end)]
        return [f"calls: {' '.join(part for part in parts if part)}"]

    def _tool_rules(self, tools: Sequence[Tool]) -> list[str]:
        form = self._form
        rules = [f"one_call: {' | '.join(f'call_{number}' for number in range(len(tools)))}"]
        for number, tool in enumerate(tools):
            head, tail = self._literal(form.head(tool.name)), self._literal(form.tail)
            rules.append(f"call_{number}: {head} arguments_{number} {tail}")
            schema = _checked_schema(tool)
            if form.key:
                rules.append(f"arguments_{number}: {json_rule(schema)}")
            else:
                schema = schema if tool.strict else separable(schema)
                rules += python_arguments(f"arguments_{number}", tool.name, schema)
        return rules

    def _literal(self, text: str) -> str:
        """A text as it is written, with marks that are tokens as those."""
        for mark, token in self._marks.items():
            if mark in text:
                before, _, behind = text.partition(mark)
                parts = [self._literal(before), f"<[{token}]>", self._literal(behind)]
                return " ".join(part for part in parts if part)
        return literal(text)


def _check_names(form: CallForm, tools: Sequence[Tool]) -> None:
    """Calls in Python must be readable again; those in JSON may have any names."""
    for tool in () if form.key else tools:
        check_name(tool.name, tool.name)


def _built_in_rules(tools: Sequence[Tool]) -> list[str]:
    """``name.call(query="...")``, or any code for the interpreter that is no object of JSON."""
    rules = [f"built_in: {' | '.join(f'known_{number}' for number in range(len(tools)))}"]
    for number, tool in enumerate(tools):
        if tool.name == CODE_TOOL:
            rules.append(rf"known_{number}: /[^{{](.|\n)*/")
            continue
        rules.append(
            f'known_{number}: {literal(f"{tool.name}.call(")} known_{number}_arguments ")"'
        )
        rules += python_arguments(f"known_{number}_arguments", tool.name, _checked_schema(tool))
    return rules


def _either(form: CallForm, tools: Sequence[Tool], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call or an answer."""
    definitions = {_ANSWER: moved_schema(dict(answer), _ANSWER)}
    choices = []
    for number, tool in enumerate(tools):
        name = f"tool{number}"
        definitions[name] = moved_schema(_checked_schema(tool), name)
        properties = {"name": {"const": tool.name}, form.key: {"$ref": f"#/$defs/{name}"}}
        choices.append(
            {
                "type": "object",
                "properties": properties,
                "required": [*properties],
                "additionalProperties": False,
            }
        )
    return {"anyOf": [*choices, {"$ref": f"#/$defs/{_ANSWER}"}], "$defs": definitions}


def _checked_schema(tool: Tool) -> dict[str, Any]:
    try:
        given = json.dumps(json_copy(tool.parameters))
        schema: dict[str, Any] = json.loads(_compiled(given, is_strict=tool.strict))
    except ConstraintError as error:
        raise ConstraintError(f"the tool {tool.name}: {error.what}", way=error.way) from None
    schema.setdefault("properties", {})
    for place, inner in subschemas(schema):
        # Arguments that nobody has described are of no use, unless they are required; members of
        # allOf describe others'.
        if "properties" in inner and "/allOf/" not in place and not inner.keys() & _OPEN:
            for name in inner.get("required", ()):
                inner["properties"].setdefault(name, {})
            inner["additionalProperties"] = False
    return schema


@lru_cache(maxsize=MAX_KEPT_SCHEMAS)
def _compiled(given: str, *, is_strict: bool) -> str:
    """What a schema in JSON becomes; the same tools are given with each message of a chat."""
    schema = json.loads(given)
    return compiled_schema(schema if is_strict else loosened(schema))
