"""Checks prompts and stop strings from callers, and turns them into what decoding takes.

``text_options`` checks the options of a text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellama.quant.error_text import shown
from edgellama.quant.errors import ContextLengthError, InvalidOptionError
from edgellama.quant.given_arrays import given_array, given_index
from edgellama.quant.given_values import is_true, is_whole
from edgellama.quant.ways import Way

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgellama.text.tokenizer import Tokenizer

GIANT_LENGTH = 1 << 20
"""A text of fewer characters has its tokens so soon that an error can say their number."""
PROMPT_FORM = "text, or token ids as whole numbers"


def prompt_tokens(
    tokenizer: Tokenizer, prompt: str | Sequence[int], *, parse_special: bool
) -> list[int]:
    """The tokens of a prompt: text encoded, with a BOS where the model wants one, or ids as given.

    InvalidOptionError for anything else. Bytes are refused, since each would pass for a token.
    """
    is_true("parse_special", parse_special)
    if isinstance(prompt, str):
        wants_bos = tokenizer.special.add_bos
        return tokenizer.encode(prompt, add_bos=wants_bos, parse_special=parse_special)
    array = None if isinstance(prompt, (list, tuple)) else given_array(prompt)
    if array is not None:
        return _tokens_of(array)
    if isinstance(prompt, (bytes, bytearray, memoryview)):
        raise InvalidOptionError(
            f"the prompt is {shown(bytes(prompt))}; allowed: {PROMPT_FORM}; decode bytes first: "
            'prompt.decode("utf-8")'
        )
    try:
        return [_token(item) for item in prompt]
    except TypeError:
        raise InvalidOptionError(f"the prompt is {prompt!r:.80}; allowed: {PROMPT_FORM}") from None


def _tokens_of(array: npt.NDArray[Any]) -> list[int]:
    """The tokens of an array of one row, as tokenizers give them, too: (n,) or (1, n)."""
    is_row = array.ndim == 1 or (array.ndim == 2 and len(array) == 1)
    if not is_row or array.dtype.kind not in "iu":
        several = "; generate_batch takes several prompts" if array.ndim == 2 else ""
        raise InvalidOptionError(
            f"the prompt is an array of {array.dtype} and shape {array.shape}; allowed: "
            f"{PROMPT_FORM}, in one row{several}"
        )
    tokens: list[int] = array.reshape(-1).tolist()
    return tokens


def _token(item: object) -> int:
    if (token := given_index(item)) is not None:
        return token
    if isinstance(item, str):
        raise InvalidOptionError(
            f"the prompt is a list with the text {shown(item)}; allowed: {PROMPT_FORM}; "
            "generate_batch takes several texts"
        )
    if isinstance(item, Mapping) and "role" in item:
        raise InvalidOptionError(
            f"the prompt is a list with the message {item!r:.80}; allowed: {PROMPT_FORM}; "
            "chat(messages=...) takes messages"
        )
    raise InvalidOptionError(f"the prompt holds {item!r:.80}; allowed: {PROMPT_FORM}")


def given_strings(name: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    """The strings of an option; None is none. InvalidOptionError for anything but texts."""
    if given is None or isinstance(given, str):
        texts: tuple[object, ...] = () if given is None else (given,)
    else:
        texts = tuple(given) if isinstance(given, (list, tuple, set, frozenset)) else (None,)
    strings = tuple(text for text in texts if isinstance(text, str) and text)
    if len(strings) < len(texts):
        raise InvalidOptionError(
            f"{name} is {given!r:.80}; allowed: a string, a list of strings, none empty, or None"
        )
    return strings


def stop_tokens(tokens: Collection[int] | None) -> frozenset[int]:
    """The ids of tokens that end a text; None is none. InvalidOptionError for anything else."""
    ids: tuple[object, ...] = ()
    if tokens is not None:
        array = given_array(tokens)
        given = tokens if array is None or array.ndim != 1 else array.tolist()
        ids = tuple(given) if isinstance(given, (list, tuple, set, frozenset)) else (None,)
    if not all(is_whole(token, 0) for token in ids):
        raise InvalidOptionError(
            f"stop_tokens is {tokens!r:.80}; allowed: a list of token ids from 0, or None"
        )
    return frozenset(token for token in map(given_index, ids) if token is not None)


def check_stop_tokens(tokens: Collection[int], vocab_size: int) -> None:
    """InvalidOptionError for an id that the vocabulary lacks."""
    wrong = next((token for token in tokens if token >= vocab_size), None)
    if wrong is not None:
        raise InvalidOptionError(
            f"token {shown(wrong)} in stop_tokens; allowed: 0 to {vocab_size - 1}"
        )


def token_bias(tokenizer: Tokenizer, bias: Mapping[int | str, float | bool]) -> dict[int, float]:
    """What is added to the logit of each token, by id; False is minus infinity.

    InvalidOptionError for an id that the vocabulary lacks, and for a text that is not one token.
    """
    amounts: dict[int, float] = {}
    for name, amount in bias.items():
        token = _one_token(tokenizer, name) if isinstance(name, str) else int(name)
        if not 0 <= token < tokenizer.vocab_size:
            raise InvalidOptionError(
                f"token {token} in logit_bias; allowed: 0 to {tokenizer.vocab_size - 1}"
            )
        added = -math.inf if amount is False else float(amount)
        amounts[token] = amounts.get(token, 0.0) + added
    return amounts


def _one_token(tokenizer: Tokenizer, text: str) -> int:
    """The token that is ``text`` exactly, with or without a space at its start."""
    tokens = tokenizer.encode(text, add_bos=False, parse_special=True)
    data = text.encode("utf-8", "replace")
    # Behind a line break, because some vocabularies put a space before a first token.
    later = tokenizer.encode(f"\n{text}", add_bos=False)[-1:]
    for found in (tokens, later):
        if len(found) == 1 and tokenizer.token_bytes(found[0], skip_special=False) == data:
            return found[0]
    raise InvalidOptionError(
        f"the text {shown(text)} in logit_bias is the tokens {tokens}; allowed: ids, and texts "
        "that are one token with just these spaces"
    )


def check_prompt(prompt: Sequence[int], context_length: int, vocab_size: int) -> None:
    """ContextLengthError for a prompt that is too long, InvalidOptionError for unknown tokens."""
    check_fits(prompt, context_length)
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise InvalidOptionError(f"token {wrong} in the prompt; allowed: 0 to {vocab_size - 1}")


def check_fits(prompt: Sequence[int], context_length: int) -> None:
    """ContextLengthError for a prompt that is longer than the context."""
    if len(prompt) > context_length:
        raise _too_long(f"{len(prompt)} tokens", len(prompt), context_length)


def check_may_fit(tokenizer: Tokenizer, prompt: object, context_length: int) -> None:
    """ContextLengthError for a giant prompt whose length alone shows that it cannot fit."""
    if isinstance(prompt, (str, list, tuple)) and len(prompt) >= GIANT_LENGTH:
        at_least = tokenizer.min_tokens(prompt) if isinstance(prompt, str) else len(prompt)
        if at_least > context_length:
            raise _too_long(f"at least {at_least} tokens", at_least, context_length)


def check_messages_may_fit(messages: Sequence[object], context_length: int) -> None:
    """ContextLengthError for more messages than the context has tokens: each takes some."""
    if len(messages) > context_length:
        raise _too_long(f"{len(messages)} messages", len(messages), context_length)


def _too_long(found: str, num_tokens: int, context_length: int) -> ContextLengthError:
    return ContextLengthError(
        f"the prompt is too long: {found} > {context_length} maximum",
        num_tokens,
        context_length,
        way=Way(
            "shorten the prompt or raise context_length",
            "shorten the prompt or raise --context",
        ),
    )
