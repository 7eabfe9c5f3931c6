"""Turns the form that a request asks for into a constraint, and the finished text into an object.

``constraints`` defines forms, and ``token_choice`` applies the constraint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellama.constraints.answer_form import AnswerForm
    from edgellama.generation.text_request import Request
    from edgellama.sampling.constraint import Constraint
    from edgellama.text.tokenizer import Tokenizer


def constraint_of(tokenizer: Tokenizer, request: Request) -> Constraint | None:
    """The constraint that a request's text starts with; None where all texts are allowed.

    ConstraintError for a form that no text can have.
    """
    if request.answer is None:
        return None
    from edgellama.constraints.compiler import ConstraintCompiler

    compiler = tokenizer.derived(ConstraintCompiler)
    return compiler.constraint(request.answer, continuation=request.continuation)


def parsed_answer(form: AnswerForm | None, text: str) -> tuple[Any, str]:
    """What a text of this form says, and why that could not be read; None and "" for nothing."""
    if form is None or form.read is None:
        return None, ""
    try:
        return form.read(text), ""
    except Exception as error:
        # Validators of the user's classes may raise anything.
        return None, f"{type(error).__name__}: {error}"
