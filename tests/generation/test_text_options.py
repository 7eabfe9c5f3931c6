"""Options of a text: one description, which every call that generates takes and checks alike."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.constraints.form_options import FORM_OPTIONS
from edgellama.generation.text_options import (
    PROMPT_OPTION_NAMES,
    TEXT_OPTION_NAMES,
    PromptOptions,
    TextOptions,
)
from edgellama.generation.text_request import Request
from edgellama.llama import Llama
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.options import SamplingArguments

ASKED = [{"role": "user", "content": "hello"}]
WRONG_VALUES = {
    "max_tokens": -1,
    "stop": [""],
    "adapters": {"nobody": 1.0},
    "temperature": -1,
    "parse_special": "yes",
}
CALLS: dict[str, Callable[[Llama, dict[str, Any]], Any]] = {
    "Llama.generate": lambda llama, options: llama.generate("hello", **options),
    "Llama.stream": lambda llama, options: llama.stream("hello", **options),
    "Llama.generate_batch": lambda llama, options: list(llama.generate_batch(["hello"], **options)),
    "a prompt of a batch": lambda llama, options: list(
        llama.generate_batch([{"prompt": "hello", **options}])
    ),
    "Session.generate": lambda llama, options: llama.session().generate("hello", **options),
    "Session.stream": lambda llama, options: llama.session().stream("hello", **options),
    "Llama.chat": lambda llama, options: llama.chat(template="chatml", **options),
    "Conversation.send": lambda llama, options: chat(llama).send("hello", **options),
    "Conversation.stream": lambda llama, options: chat(llama).stream("hello", **options),
    "Conversation.regenerate": lambda llama, options: chat(llama).regenerate(**options),
    "Conversation.options": lambda llama, options: setattr(chat(llama), "options", options),
}
CHATS = [name for name in CALLS if name.startswith("Conversation") or name == "Llama.chat"]


def chat(llama: Llama) -> Any:
    """A conversation with a message to answer."""
    return llama.chat(template="chatml", messages=ASKED)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A tiny model."""
    path: Path = tmp_path_factory.mktemp("options") / "tiny.gguf"
    with Llama(write_tiny_llama(path, TinyLlama(context_length=64))) as loaded:
        yield loaded


@pytest.mark.parametrize("call", CALLS)
def test_a_slip_in_a_name_is_refused(call: str, llama: Llama) -> None:
    """No call ignores an option that it does not know; it says which one was meant."""
    with pytest.raises(InvalidOptionError, match="'max_token'; did you mean max_tokens"):
        CALLS[call](llama, {"max_token": 1})


@pytest.mark.parametrize(("call", "name"), [(c, n) for c in CALLS for n in WRONG_VALUES])
def test_a_wrong_value_is_refused(call: str, name: str, llama: Llama) -> None:
    """Every call checks every option before the first step."""
    if (call, name) == ("Conversation.options", "adapters"):
        return  # checked by the reply: they may be loaded after they are named
    named = "nobody" if name == "adapters" else name
    with pytest.raises(InvalidOptionError, match=named):
        CALLS[call](llama, {name: WRONG_VALUES[name]})


@pytest.mark.parametrize("call", CALLS)
def test_none_is_as_if_nothing_were_said(call: str, llama: Llama) -> None:
    """Every option may be None, those of sampling too, and then has its default."""
    names = TEXT_OPTION_NAMES if call in CHATS else (*TEXT_OPTION_NAMES, "suffix")
    CALLS[call](llama, dict.fromkeys(names) | {"max_tokens": 1})


def test_numbers_that_are_giants_are_taken_or_named(llama: Llama) -> None:
    """A whole number has no greatest one; a token that there is not is named."""
    options: Any = dict.fromkeys(
        ("top_k", "repeat_last_n", "dry_allowed_length", "dry_last_n", "seed"), 10**400
    )
    llama.generate("hello", max_tokens=2, dry_multiplier=1, repeat_penalty=1.1, **options)
    for token in (llama.config.vocab_size, 10**30):
        with pytest.raises(InvalidOptionError, match=rf"token {token} in stop_tokens; allowed: 0"):
            llama.generate("hello", stop_tokens=[token], min_tokens=1)


@pytest.mark.parametrize("call", CHATS)
def test_chats_have_no_option_of_prompts(call: str, llama: Llama) -> None:
    """A template alone says what is a control token of a chat."""
    with pytest.raises(InvalidOptionError, match="no option 'parse_special'"):
        CALLS[call](llama, {"parse_special": True})


def test_every_option_is_typed_checked_and_explained() -> None:
    """Types, checks and words for users know the same options."""
    assert set(TEXT_OPTION_NAMES) == set(TextOptions.__annotations__)
    assert set(PROMPT_OPTION_NAMES) == set(PromptOptions.__annotations__)
    own = set(TEXT_OPTION_NAMES) - set(SamplingArguments.__annotations__)
    assert own - set(FORM_OPTIONS) < {field.name for field in dataclasses.fields(Request)}
    for name in own:
        assert f"    {name}: " in (inspect.getdoc(TextOptions) or ""), name
