"""The form that a user asks for: a schema, a regex, a grammar or choices, checked when it is given.

``compiler`` finds out which tokens a form allows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from edgellama.constraints.answer_types import read_json, schema_of_type
from edgellama.constraints.any_json import ANY_OBJECT, ANY_VALUE
from edgellama.constraints.form_options import FORM_OPTIONS
from edgellama.constraints.gbnf import is_gbnf, lark_of_gbnf
from edgellama.constraints.guidance import llguidance
from edgellama.constraints.json_schema import compiled_schema, parsed_schema, unicode_text
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass

MAX_SOURCE_CHARACTERS = 1 << 20
OBJECT: Mapping[str, Any] = {"type": "object"}
JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # With one spelling for each character, a name that is taken cannot come again in another one.
    "json_allowed_escapes": 'nrbtf\\"',
}
"""On one line, as Python's json writes it: a model cannot lose itself in white space."""


@dataclass(frozen=True)
class AnswerForm:
    """The form of one answer.

    ``option`` says it. ``grammar`` is its text for llguidance. ``instruction`` tells a model of
    it, "" for nothing. ``read`` makes an object of a text that has the form; it raises ValueError
    for what a class refuses for reasons of its own. ``opens_freely``: its texts may begin in any
    way. ``schema``: what a form of JSON is made of, None for others.
    """

    option: str
    grammar: str
    instruction: str = ""
    read: Callable[[str], object] | None = None
    opens_freely: bool = False
    schema: Mapping[str, Any] | None = None


def answer_form(options: Mapping[str, Any]) -> AnswerForm | None:
    """The form that options ask for, by FORM_OPTIONS; None, False and what is left out do not.

    ConstraintError for what no text can follow, InvalidOptionError for two forms at once.
    """
    given = [
        name
        for name in FORM_OPTIONS
        if options.get(name) is not None and not (name == "json" and options[name] is False)
    ]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidOptionError(
            f"{' and '.join(given)} are given; allowed: one of {', '.join(FORM_OPTIONS)}"
        )
    return _FORMS[given[0]](options[given[0]])


def _by_schema(given: object) -> AnswerForm:
    read: Callable[[str], object] = read_json
    if isinstance(given, str):
        schema = narrow = parsed_schema(given)
    elif isinstance(given, (bool, Mapping)):
        schema = narrow = given
    else:
        described = schema_of_type(given)
        schema, narrow, read = described.schema, described.narrow, described.read
    if schema is True or schema == {}:
        words = "Answer with JSON, on one line, and nothing else."
        return AnswerForm("schema", _lark_grammar(ANY_VALUE), words, read, schema={})
    if schema == OBJECT:
        return _any_object("schema", read)
    checked = json.loads(compiled_schema(narrow))
    grammar = {"name": "answer", "json_schema": {**checked, "x-guidance": JSON_STYLE}}
    text = json.dumps(schema, ensure_ascii=False)
    words = f"Answer with JSON, on one line, that follows this JSON Schema:\n{text}"
    return AnswerForm("schema", json.dumps({"grammars": [grammar]}), words, read, schema=checked)


def _any_object(option: str, read: Callable[[str], object]) -> AnswerForm:
    words = "Answer with a JSON object, on one line, and nothing else."
    return AnswerForm(option, _lark_grammar(ANY_OBJECT), words, read, schema=OBJECT)


def _by_json(given: object) -> AnswerForm:
    if given is not True:
        raise InvalidOptionError(f"json is {shown(given)}; allowed: True, False or None")
    return _any_object("json", read_json)


def _by_regex(given: object) -> AnswerForm:
    return AnswerForm("regex", _lark_grammar(_regex_rule(given)), opens_freely=True)


def _regex_rule(given: object) -> str:
    return f"start: /{llguidance().regex_to_lark(_text('regex', given), 'd')}/"


def _by_grammar(given: object) -> AnswerForm:
    text = _text("grammar", given)
    lark = lark_of_gbnf(text) if is_gbnf(text) else text
    return AnswerForm("grammar", _lark_grammar(lark), opens_freely=True)


def _by_choices(given: object) -> AnswerForm:
    texts = list(given) if isinstance(given, (list, tuple, set, frozenset)) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidOptionError(
            f"choices is {given!r:.80}; allowed: a list of texts, none of them empty"
        )
    texts = [unicode_text(text, "one of the choices") for text in dict.fromkeys(texts)]
    lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    words = f"Answer with one of these and nothing else: {json.dumps(texts, ensure_ascii=False)}"
    return AnswerForm("choices", _lark_grammar(lark), words, str, opens_freely=True)


def _lark_grammar(rules: str) -> str:
    """The grammar of Lark rules that begin with ``start``."""
    return json.dumps({"grammars": [{"lark_grammar": rules}]})


def _text(name: str, given: object) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= MAX_SOURCE_CHARACTERS:
        raise InvalidOptionError(
            f"{name} is {shown(given)}; allowed: a text of 1 to {MAX_SOURCE_CHARACTERS} characters"
        )
    return unicode_text(given, f"the {name}")


_FORMS: Mapping[str, Callable[[object], AnswerForm]] = {
    "schema": _by_schema,
    "json": _by_json,
    "regex": _by_regex,
    "grammar": _by_grammar,
    "choices": _by_choices,
}
