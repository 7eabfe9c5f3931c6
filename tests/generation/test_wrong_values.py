"""Values of the wrong kind in the public calls: our own error, never Python's."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama import ChatOptions, GGUFFile, Llama, load_tokenizer, predict_footprint, pull
from edgellama.convert import convert, plan
from edgellama.convert.options import ConversionArguments
from edgellama.generation.text_options import TEXT_OPTION_NAMES
from edgellama.quant.error_text import did_you_mean, nearest
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.given_values import MAX_DEPTH, given_path
from edgellama.text_pipeline import ALLOWED, pipeline

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 5, 10**30, 1.5, math.nan, 1j),
    *("", "x", "\ud800", "a\0b", b"x"),
    *([], [1], ["x"], [None], [[]], [{}], {}, {"a": 1}, (1, 2), {1}, object()),
    np.array([1, 2]),
)
HIDDEN_PARAMETERS = {
    "self",  # the object itself
    "given",  # all arguments of a twin for event loops
}
PLAIN_CALLS: dict[str, dict[str, Any]] = {
    "classify": {"prompt": "a", "choices": [" b", " c"]},
    "classify_async": {"prompt": "a", "choices": [" b", " c"]},
    "embed": {"texts": ["a"]},
    "embed_async": {"texts": ["a"]},
    "embed_each": {"texts": ["a"]},
    "fill": {"prefix": "a", "suffix": "b", "max_tokens": 1},
    "generate": {"prompt": "a", "max_tokens": 1},
    "generate_async": {"prompt": "a", "max_tokens": 1},
    "generate_batch": {"prompts": ["a"], "max_tokens": 1},
    "load_adapter": {"path": "absent.gguf"},
    "load_session": {"path": "absent.session"},
    "moderate": {"conversation": "a", "version": 3},
    "rerank": {"query": "a", "documents": ["b"], "chat": False},
    "score": {"text": "a b"},
    "session": {},
    "stream": {"prompt": "a", "max_tokens": 1},
    "unload_adapter": {"adapter": "none"},
}
"""Calls of a model, with arguments that are right."""


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> Iterator[Llama]:
    """A model with little room."""
    with Llama(smollm2_path, context_length=128) as model:
        yield model


def run_to_end(call: Callable[[], Any]) -> None:
    """Call, and take what is returned as far as its first item; EdgellamaError is as it should."""
    try:
        result = call()
        if inspect.isawaitable(result):
            asyncio.run(waited_for(result))
        elif hasattr(result, "__next__"):
            next(result, None)
        if hasattr(result, "close"):
            result.close()
    except EdgellamaError as error:
        assert "\n" not in str(error)


async def waited_for(result: Any) -> Any:
    """What an awaitable gives."""
    return await result


def odd_calls(function: Callable[..., Any], right: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    """The call with each of its arguments in turn replaced by each odd value."""
    for name, parameter in inspect.signature(function).parameters.items():
        is_named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if is_named and name not in HIDDEN_PARAMETERS:
            for value in ODD_VALUES:
                yield lambda arguments={**right, name: value}: function(**arguments)


@pytest.mark.parametrize("name", PLAIN_CALLS)
def test_calls_of_a_model_refuse_in_their_own_words(llama: Llama, name: str) -> None:
    """Whatever stands in place of one argument, nothing but an EdgellamaError comes out."""
    for call in odd_calls(getattr(llama, name), PLAIN_CALLS[name]):
        run_to_end(call)


def test_loading_refuses_in_its_own_words(tiny_path: Path) -> None:
    """Every argument of Llama is checked before or while the model is loaded."""

    def load(**arguments: Any) -> None:
        Llama(**arguments).close()

    right = {"path_or_name": tiny_path, "context_length": 16, "num_threads": 1}
    load.__signature__ = inspect.signature(Llama.__init__)  # type: ignore[attr-defined]
    for call in odd_calls(load, right):
        run_to_end(call)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("foo", ""), ("contxt_length", "context_length"), ("n_ctx", "context_length")],
)
def test_loading_knows_its_arguments(name: str, meant: str) -> None:
    """An argument of Llama that there is not is refused with the one that is meant."""
    with pytest.raises(EdgellamaError) as raised:
        Llama("absent.gguf", **{name: 1})  # type: ignore[arg-type]
    assert str(raised.value).startswith(f"there is no option '{name}'; {meant and 'did you mean '}")
    assert meant in str(raised.value)


def test_a_pipeline_refuses_in_its_own_words(tiny_path: Path) -> None:
    """Options in transformers' words are checked, too; so many texts are no slip."""
    with Llama(tiny_path, context_length=16) as tiny:
        for name, value in itertools.product((*ALLOWED, "model_kwargs"), ODD_VALUES):
            if (name, str(value)) != ("num_return_sequences", str(10**30)):
                options = {"max_new_tokens": 1, name: value}
                run_to_end(lambda: pipeline(model=tiny, **options)("a"))  # noqa: B023


def test_what_is_nested_without_end_is_refused(llama: Llama) -> None:
    """Arguments of calls and variables of templates are as deep as others may walk."""
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    call = {"function": {"name": "f", "arguments": deep}}
    said = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(EdgellamaError, match=r"arguments of a call of f are nested too deeply"):
        llama.chat(messages=said)
    with pytest.raises(EdgellamaError, match=r"template_variables is nested too deeply"):
        llama.chat(template_variables={"documents": deep})


def test_properties_refuse_in_their_own_words(llama: Llama) -> None:
    """What may be assigned to a model, a session or a chat is checked, and wrong values change
    nothing."""
    with llama.session() as session, llama.chat() as chat:
        for owner in (llama, session, chat):
            for name, found in inspect.getmembers(type(owner)):
                if isinstance(found, property) and found.fset is not None:
                    before = getattr(owner, name)
                    for value in ODD_VALUES:
                        run_to_end(lambda: setattr(owner, name, value))  # noqa: B023
                    setattr(owner, name, before)


def test_files_refuse_in_their_own_words(
    llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions, chats, files and predictions take nothing for a path that is none."""
    monkeypatch.chdir(tmp_path)  # where "x" is written
    with llama.session() as session, llama.chat(messages=[]) as chat:
        session.generate("a", max_tokens=1)
        for value in ODD_VALUES:
            for taker in (session.save, chat.save, GGUFFile, predict_footprint, load_tokenizer):
                run_to_end(lambda: taker(value))  # type: ignore[arg-type] # noqa: B023
            run_to_end(lambda: chat.save("talk.json", model=value))  # noqa: B023
            run_to_end(lambda: pull(value))  # noqa: B023
            if not isinstance(value, str):
                for taker in (session.load, chat.load):
                    run_to_end(lambda: taker(value))  # noqa: B023


def test_tokens_that_are_none_are_named(llama: Llama) -> None:
    """The tokenizer names what it was given in place of a token or of a list of them."""
    tokenizer = llama.tokenizer
    takers = (tokenizer.decode, tokenizer.token_bytes, tokenizer.token_text, tokenizer.min_tokens)
    for taker in takers:
        for value in ODD_VALUES:
            run_to_end(lambda: taker(value))  # noqa: B023
    with pytest.raises(EdgellamaError, match=r"^token 'x'; allowed: 0 to 49151$"):
        tokenizer.decode(["x"])  # type: ignore[list-item]
    with (
        pytest.raises(EdgellamaError, match=r"^check is 5; allowed: a function of nothing$"),
        tokenizer.checked_by(5),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda llama: llama.load_adapter(None), "path is None; allowed: a text or a path object"),
        (lambda llama: llama.session().save(5), "path is 5; allowed: a text or a path object"),
        (
            lambda llama: llama.session().save("a\0b"),
            "path is 'a\\x00b'; allowed: the path of a file or folder",
        ),
        (lambda llama: llama.chat(5), "system: the content of a message is 5; allowed: text"),
        (lambda llama: setattr(llama, "low_priority", "no"), "low_priority is 'no'; allowed: True"),
        (lambda llama: llama.embed_each("a text"), "texts is 'a text'; allowed: an iterable"),
        (
            lambda llama: llama.embed(["a"], progress=1),
            "progress is 1; allowed: None or a function of two numbers",
        ),
    ],
)
def test_the_error_names_argument_value_and_what_is_allowed(
    llama: Llama, call: Callable[[Llama], Any], message: str
) -> None:
    """A wrong value is quoted, under its argument's name, beside what would be right."""
    with pytest.raises(EdgellamaError) as raised:
        call(llama)
    assert str(raised.value).startswith(message)


def test_options_of_a_chat_are_a_mapping(llama: Llama) -> None:
    """Options that are assigned to a chat come by name; what is refused changes none of them."""
    options: ChatOptions = {"max_tokens": 3}
    with llama.chat(**options) as chat:
        before = chat.options
        with pytest.raises(EdgellamaError, match=r"options is None; allowed: options by name"):
            chat.options = None  # type: ignore[assignment]
        assert chat.options == before


@pytest.mark.parametrize("name", sorted(ConversionArguments.__annotations__))
def test_conversions_refuse_in_their_own_words(tiny_path: Path, tmp_path: Path, name: str) -> None:
    """Every argument of a conversion is checked before anything is written."""
    for value in ODD_VALUES:
        arguments: Any = {"type": "q8_0", name: value}
        run_to_end(lambda: plan(tiny_path, tmp_path / "out.gguf", **arguments))  # noqa: B023
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"typ": "q4_0"}, "there is no option 'typ'; did you mean type?"),
        ({"quantize": "q4_0"}, "there is no option 'quantize'; "),
        ({"overwrite": "no"}, "overwrite is 'no'; allowed: True or False"),
        ({"num_threads": 0}, "num_threads is 0; allowed: 1 and more, or None"),
        ({"metadata": [1]}, "metadata is of type list; allowed: values by key"),
        ({"tensor_types": "ffn=q8_0"}, "tensor_types is 'ffn=q8_0'; allowed: pairs"),
        ({"source": ""}, "source is ''; allowed: the path of a file or folder"),
    ],
)
def test_a_conversion_names_argument_and_value(
    tiny_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """An argument that there is not is no silent default, and a wrong value is quoted."""
    for function in (plan, convert):
        with pytest.raises(EdgellamaError) as raised:
            function(**{"source": tiny_path, **arguments})
        assert str(raised.value).startswith(message)


def test_path_objects_of_others_are_paths(tmp_path: Path) -> None:
    """Anything with the protocol of paths is one, where its path is a text."""

    class Place:
        def __init__(self, path: Any) -> None:
            self.path = path

        def __fspath__(self) -> Any:
            return self.path

    assert given_path("path", Place(str(tmp_path))) == tmp_path
    with pytest.raises(EdgellamaError, match=r"path is b'x'; allowed: a text or a path object"):
        given_path("path", Place(os.fsencode("x")))


@given(st.sampled_from(TEXT_OPTION_NAMES), st.data())
def test_a_slip_of_a_letter_is_understood(name: str, data: st.DataObject) -> None:
    """Who leaves a letter of a name out, or doubles one, is told the name."""
    place = data.draw(st.integers(0, len(name) - 1))
    for slip in (name[:place] + name[place + 1 :], name[:place] + name[place:][:1] + name[place:]):
        if slip not in TEXT_OPTION_NAMES:
            meant = nearest(slip, TEXT_OPTION_NAMES)
            assert meant is not None and abs(len(meant) - len(slip)) <= 1
    assert nearest("qqqq", TEXT_OPTION_NAMES) is None
    assert did_you_mean(None) == ""
