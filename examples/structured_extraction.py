"""Reads facts out of sentences: each answer is an object of a pydantic class.

Run: ``python examples/structured_extraction.py [MODEL]``. It needs
``python -m pip install '.[grammar]' pydantic``, in the checkout.
"""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import BaseModel, Field

from edgellama import Llama

NOTES = (
    "Anna Schmidt, 34, bakes bread in Berlin and has two cats.",
    "Bob is a carpenter. He turned 61 last week and never had a pet.",
)


class Person(BaseModel):
    """What we want to know of somebody."""

    name: str = Field(max_length=40, description="first and last name, as far as they are told")
    age: int = Field(ge=0, le=130)
    trade: Literal["baker", "carpenter", "teacher", "other"]


def people(llama: Llama, notes: tuple[str, ...]) -> list[Person]:
    """One person for each note; notes whose answer is no person are left out."""
    prompts = [
        {"messages": [{"role": "user", "content": f"Who is described here? {note}"}]}
        for note in notes
    ]
    results = llama.generate_batch(prompts, schema=Person, temperature=0, max_tokens=80)
    in_order = sorted(results, key=lambda result: result.index)
    return [result.parsed for result in in_order if isinstance(result.parsed, Person)]


def main() -> None:
    """Print each person."""
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    with Llama(model, context_length=1024) as llama:
        for person in people(llama, NOTES):
            print(f"{person.name}, {person.age}, {person.trade}")


if __name__ == "__main__":
    main()
