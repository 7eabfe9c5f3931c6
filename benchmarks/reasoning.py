"""What telling thinking apart costs a token, beside texts of models that have no marks.

``python benchmarks/reasoning.py`` prints microseconds of Python for each token of a text, from ids
to chunks: of a model without marks, and of one that thinks, inside thinking and in its answer; and
what a form that begins behind thinking costs there. The vocabulary is the starter model's.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

from edgellama import Llama
from edgellama.constraints.after_thinking import after_thinking
from edgellama.constraints.answer_form import answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.generation.decoding.text_assembly import TextAssembly
from edgellama.text.reasoning.expected import ExpectedReasoning
from edgellama.text.reasoning.marks import ReasoningMarks
from edgellama.text.tokenizer import Tokenizer

MARKS = ReasoningMarks("<think>", "</think>")
TEXT = "The quick brown fox jumps over the lazy dog. " * 40
CLOSING = "</think>\n\nSo"
ROUNDS = 15


def per_token(tokenizer: Tokenizer, expected: ExpectedReasoning | None, before: str = "") -> float:
    """Microseconds a token behind some others, the median of rounds."""
    tokens, begun = (tokenizer.encode(text, add_bos=False) for text in (TEXT, before))
    found = []
    for _ in range(ROUNDS):
        assembly = TextAssembly(tokenizer, (), continuation=False, reasoning=expected)
        for token in begun:
            assembly.add(token)
        started = perf_counter()
        for token in tokens:
            assembly.add(token)
        found.append((perf_counter() - started) / len(tokens) * 1e6)
    return median(found)


def per_constrained_token(tokenizer: Tokenizer) -> float:
    """Microseconds of the rule of one token of thinking, before a schema."""
    form = answer_form({"schema": {"type": "object"}})
    assert form is not None
    rule = ConstraintCompiler(tokenizer).constraint(
        after_thinking(form, MARKS, is_open=True), continuation=False
    )
    found = []
    for token in tokenizer.encode(TEXT, add_bos=False):
        started = perf_counter()
        rule.forced()
        rule.mask()
        rule.advance(token)
        found.append(perf_counter() - started)
    return median(found) * 1e6


def main() -> None:
    """Print a line for each."""
    opened = ExpectedReasoning(MARKS, is_open=True)
    with Llama("smollm2", context_length=64) as llama:
        tokenizer = llama.tokenizer
        print(f"without marks        {per_token(tokenizer, None):6.2f} us a token")
        print(f"inside thinking      {per_token(tokenizer, opened):6.2f} us a token")
        print(f"behind thinking      {per_token(tokenizer, opened, CLOSING):6.2f} us a token")
        print(f"a form's rule before {per_constrained_token(tokenizer):6.2f} us a token")


if __name__ == "__main__":
    main()
