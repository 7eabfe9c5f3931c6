"""Texts against constraints, byte by byte, with a vocabulary of the 256 bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from edgellama.constraints.answer_form import AnswerForm, answer_form
from edgellama.constraints.compiler import ConstraintCompiler
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from reference.tiny_vocabulary import byte_characters

END = 256
MAX_ORDERS = 150


@cache
def byte_tokenizer() -> Tokenizer:
    """Token n is byte n; the end token comes behind them."""
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [*byte_characters(), "<|eot_id|>"],
            "tokenizer.ggml.token_type": [1] * 256 + [3],
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": END,
        }
    )


def form(**options: Any) -> AnswerForm:
    """The form that options say."""
    found = answer_form(options)
    assert found is not None
    return found


def allows_text(form: AnswerForm, text: str) -> bool:
    """Whether a text may be generated and end there."""
    constraint = byte_tokenizer().derived(ConstraintCompiler).constraint(form, continuation=True)
    for byte in text.encode():
        if not constraint.allows(byte):
            return False
        constraint.advance(byte)
    return constraint.is_complete and constraint.allows(END)


def schema_allows(schema: Any, value: Any) -> bool:
    """Whether a value may be generated under a schema, with its names in any order."""
    asked = form(schema=schema)
    return any(allows_text(asked, json_text(order)) for order in orders(value))


def json_text(value: Any) -> str:
    """A value as constraints want JSON to be written."""
    return json.dumps(value, ensure_ascii=False)


def orders(value: Any) -> Iterator[Any]:
    """The value with the names of its objects in different orders; not too many."""
    return itertools.islice(_orders(value), MAX_ORDERS)


def _orders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for names in itertools.permutations(value):
            inner = [itertools.islice(_orders(value[name]), 24) for name in names]
            for values in itertools.product(*inner):
                yield dict(zip(names, values, strict=True))
    elif isinstance(value, list):
        for items in itertools.product(*(itertools.islice(_orders(item), 24) for item in value)):
            yield list(items)
    else:
        yield value


def random_text(form: AnswerForm, rng: np.random.Generator, num_free: int = 40) -> str | None:
    """A text by chance: bytes drawn among those allowed, later those that end things soon.

    None if it does not end within ten times ``num_free`` bytes.
    """
    constraint = byte_tokenizer().derived(ConstraintCompiler).constraint(form, continuation=True)
    data = bytearray()
    for number in range(10 * num_free):
        if constraint.is_finished:
            return data.decode()
        allowed = np.flatnonzero(constraint.mask())
        assert len(allowed), constraint.error
        ending = [token for token in (END, *b'"}],0') if token in allowed]
        token = ending[0] if number >= num_free and ending else int(rng.choice(allowed))
        if token == END:
            return data.decode()
        assert constraint.allows(token)
        constraint.advance(token)
        data.append(token)
    return None
