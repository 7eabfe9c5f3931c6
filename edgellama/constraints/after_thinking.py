"""The form of an answer behind thinking: anything up to the closing mark, then the form.

The answer begins two line breaks behind the mark, as models that think write it.
``edgellama.text.reasoning`` knows the marks.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellama.constraints.lark_texts import escaped_pattern, literal

if TYPE_CHECKING:
    from edgellama.constraints.answer_form import AnswerForm
    from edgellama.text.reasoning.marks import ReasoningMarks

_REPLY = "reply_behind_thinking"
_BEHIND = literal("\n\n")


def may_follow_thinking(form: AnswerForm, marks: ReasoningMarks, *, is_open: bool) -> bool:
    """Whether it is certain, token by token, where thinking ends and the form begins.

    It is not where thinking is optional, its mark is mere text, and the form may begin with it.
    """
    return is_open or marks.opening_token is not None or not form.opens_freely


def after_thinking(form: AnswerForm, marks: ReasoningMarks, *, is_open: bool) -> AnswerForm:
    """The form with thinking before it: always where it ``is_open`` already, else perhaps."""
    opening, closing = (
        literal(mark) if token is None else f"<[{token}]>"
        for mark, token in (
            (marks.opening, marks.opening_token),
            (marks.closing, marks.closing_token),
        )
    )
    lines = [f"start: thought {_BEHIND} @{_REPLY}"]
    if not is_open:
        lines = [f"start: @{_REPLY} | {opening} thought {_BEHIND} @{_REPLY}"]
    if marks.closing_token is None:
        lines += ["thought[lazy]: THOUGHT", rf"THOUGHT: /(.|\n)*{escaped_pattern(marks.closing)}/"]
    else:
        lines += [f"thought: THOUGHT {closing}", r"THOUGHT: /(.|\n)*/"]
    first, *others = json.loads(form.grammar)["grammars"]
    grammars = [{"lark_grammar": "\n".join(lines) + "\n"}, {**first, "name": _REPLY}, *others]
    return replace(form, grammar=json.dumps({"grammars": grammars}, ensure_ascii=False))
