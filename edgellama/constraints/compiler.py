"""Compiles a form into the constraint of a text: once, for many texts.

The tokenizer keeps what was compiled, see ``Tokenizer.derived``. ``answer_form`` defines forms.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from dataclasses import field
from typing import Any

from edgellama.constraints.answer_form import AnswerForm
from edgellama.constraints.deep_stack import MAX_PARTS, call_deeply
from edgellama.constraints.error_place import place_of_error
from edgellama.constraints.guidance import llguidance, plain_message
from edgellama.constraints.guidance_vocabulary import GuidanceVocabulary
from edgellama.constraints.token_constraint import MAX_FORCED_BYTES, TokenConstraint
from edgellama.quant.errors import ConstraintError
from edgellama.quant.process_bound import call_after_fork
from edgellama.quant.records import dataclass
from edgellama.sampling.filters import Mask
from edgellama.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
MAX_SEARCHED_PARTS = 500
"""Of a schema in which the place of an error is looked for."""
MAX_KEPT = 16
"""Compiled forms; those used least recently go."""
MAX_STATES = 50_000
"""Of the automaton that a form becomes while it is used: some 30 MB at most."""


@dataclass(frozen=True)
class _KeptForm:
    """A matcher that only copies are made of, and the mask of an empty text once it is known."""

    matcher: Any
    first_mask: list[Mask] = field(default_factory=list)


class ConstraintCompiler:
    """Makes constraints for the tokens of one tokenizer. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocabulary = GuidanceVocabulary(tokenizer)
        self._kept: OrderedDict[str, _KeptForm] = OrderedDict()
        self._renew_lock()
        call_after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def constraint(self, form: AnswerForm, *, continuation: bool) -> TokenConstraint:
        """The constraint of a new text.

        ``continuation``: the text carries on another, see StreamingDetokenizer. ConstraintError
        for what cannot be compiled, or what no text of these tokens can follow.
        """
        kept = self._kept_form(form)
        return TokenConstraint(
            kept.matcher.deep_copy(),
            self._vocabulary,
            opens_text=not continuation,
            renewed=lambda: self._kept_form(form, is_new=True).matcher.deep_copy(),
            first_mask=kept.first_mask,
        )

    def _kept_form(self, form: AnswerForm, *, is_new: bool = False) -> _KeptForm:
        """What is kept of a form, or what is made new in its place."""
        with self._lock:
            kept = None if is_new else self._kept.get(form.grammar)
        if kept is None:
            kept = _KeptForm(self._compiled(form))
        with self._lock:
            self._kept[form.grammar] = kept
            self._kept.move_to_end(form.grammar)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return kept

    def _compiled(self, form: AnswerForm) -> Any:
        matcher = call_deeply(lambda: self._tried(form.grammar), _num_parts(form))
        if matcher.is_error() or matcher.get_grammar_warnings():
            warnings = [] if matcher.is_error() else matcher.get_grammar_warnings()
            message = "; ".join(warnings) or plain_message(matcher.get_error())
            raise ConstraintError(_explained(form, message))
        # The first mask finds out what can never be followed, and what is too large.
        first = matcher.deep_copy()
        num_forced = len(first.compute_ff_bytes())
        if num_forced > MAX_FORCED_BYTES:
            raise ConstraintError(
                f"the {form.option} allows only texts that begin with {num_forced:,} given bytes "
                f"or more; allowed: {MAX_FORCED_BYTES:,}"
            )
        first.compute_ff_tokens()
        if not any(first.compute_bitmask()) or first.is_error():
            raise ConstraintError(_explained(form, plain_message(first.get_error())))
        return matcher

    def _tried(self, grammar: str) -> Any:
        module = llguidance()
        limits = module.LLParserLimits(verbose_errors=False, max_lexer_states=MAX_STATES)
        return module.LLMatcher(self._vocabulary.tokenizer, grammar, log_level=0, limits=limits)


def _num_parts(form: AnswerForm) -> int:
    """How many schemas and rules a form has at most, which may all be inside each other."""
    is_lark = '"lark_grammar"' in form.grammar
    num_parts = form.grammar.count("{") + (form.grammar.count(":") if is_lark else 0)
    if num_parts > MAX_PARTS:
        raise ConstraintError(
            f"the {form.option} has {num_parts} parts; allowed: {MAX_PARTS} schemas or rules"
        )
    return num_parts


def _explained(form: AnswerForm, message: str) -> str:
    name = "schema" if form.option == "json" else form.option
    num_parts = _num_parts(form)
    has_parts = name == "schema" and '"json_schema"' in form.grammar
    is_searched = has_parts and num_parts <= MAX_SEARCHED_PARTS
    place = place_of_error(form.grammar, message, num_parts) if is_searched else ""
    is_pattern = "regex parse error" in message
    if is_pattern or name == "tools":
        # Its place and lines in a grammar that llguidance or we have made of it help nobody.
        message = _LINES.split(_PLACE.sub("", message), 1)[0]
    if is_pattern:
        message = message[message.index("regex parse error") :]
    plain = next((words for start, words in _PLAINER.items() if message.startswith(start)), message)
    return f"the {name}{place}: {plain or NO_TEXT}; see docs/structured.md for what is supported"


_PLACE, _LINES = re.compile(r"^at \d+\(\d+\): "), re.compile(r" \d+ \| ")
NO_TEXT = "no text can follow it"
_PLAINER = {
    "NoExtension": NO_TEXT,
    "oneOf constraints": "members of oneOf may hold together; allowed: members that differ in type "
    "or in a required constant, or anyOf",
    "Resource": "it refers to what is not in it, and nothing is fetched",
}
"""llguidance's words that would mislead, by their beginning."""
