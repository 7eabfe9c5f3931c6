"""The request of a text that may begin with thinking, with the form that its answer must have.

``constraints`` knows how a form is put behind thinking.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.generation.text_request import Request
    from edgellama.text.reasoning.expected import ExpectedReasoning


def reasoned_request(request: Request, expected: ExpectedReasoning) -> Request:
    """The request of a text that may begin with thinking; its form begins behind that.

    Where that cannot be told token by token, a form of the whole text is kept to. Nothing is told
    apart then, unless the form is that of calls of tools, whose text may still be thinking.
    """
    form, marks = request.answer, expected.marks
    if form is None or expected.is_raw:
        return replace(request, reasoning=expected)
    if expected.is_closed:
        return request  # The form is that of the whole text, which has no room for more thinking.
    from edgellama.constraints.after_thinking import after_thinking, may_follow_thinking

    if may_follow_thinking(form, marks, is_open=expected.is_open):
        form = after_thinking(form, marks, is_open=expected.is_open)
        return replace(request, reasoning=expected, answer=form)
    return request if request.calls is None else replace(request, reasoning=expected)
