"""JSON without a schema, as a grammar in llguidance's dialect of Lark.

``answer_form`` uses it; a schema that says more is compiled by llguidance itself.
"""

from __future__ import annotations

MAX_DIGITS = 20
"""Before a number's point and behind it, as many as Python writes: a model could go on for ever."""
_RULES = rf"""
value: object | array | STRING | NUMBER | "true" | "false" | "null"
object: "{{}}" | "{{" member (", " member)* "}}"
member: STRING ": " value
array: "[]" | "[" value (", " value)* "]"
STRING: /"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt])*"/
NUMBER: /-?(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})(\.[0-9]{{1,{MAX_DIGITS}}})?([eE][+-]?[0-9]{{1,3}})?/
"""
ANY_VALUE = f"start: value{_RULES}"
ANY_OBJECT = f"start: object{_RULES}"
