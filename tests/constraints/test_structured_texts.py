"""Structured answers of the real model, by every call that generates."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from places import EXAMPLES

from edgellama import ConstraintError, InvalidOptionError, Llama
from edgellama.generation.results import Generation

ABOUT_ANNA = "Anna is a 34 year old baker from Berlin."


class Person(pydantic.BaseModel):
    """What is asked for."""

    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)


class EvenAge(Person):
    """A class whose schema does not say all."""

    @pydantic.field_validator("age")
    @classmethod
    def never(cls, age: int) -> int:
        """Refuse every age."""
        raise ValueError("odd enough")


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> Iterator[Llama]:
    """The starter model, whose texts are the same alone and beside others."""
    with Llama(smollm2_path, context_length=512, exact=True) as opened:
        yield opened


def test_a_chat_gives_an_object(llama: Llama) -> None:
    """The reply is JSON of the class, parsed; only what was not certain took a step."""
    with llama.chat(temperature=0) as chat:
        reply = chat.send(ABOUT_ANNA, schema=Person)
    assert isinstance(reply.parsed, Person)
    assert json.loads(reply.text) == reply.parsed.model_dump()
    assert reply.finish_reason == "stop"
    assert reply.text == llama.tokenizer.decode(reply.tokens)
    assert reply.statistics.decoded_tokens < len(reply.tokens) - 6


def test_the_schema_is_shown_in_chats_alone(llama: Llama) -> None:
    """It stands in the system prompt unless it is hidden, and is computed once."""
    system = "Be brief, and say what you know. " * 15

    def asked(text: str, **options: Any) -> tuple[Generation, str]:
        with llama.chat(system, max_tokens=30) as chat:
            reply = chat.send(text, schema=Person, **options)
            assert chat.messages[0]["content"] == system
            return reply, llama.tokenizer.decode(chat.session.tokens, skip_special=False)

    shown, with_schema = asked(ABOUT_ANNA)
    hidden, without = asked(ABOUT_ANNA, show_schema=False)
    assert f"{system}\n\nAnswer with JSON" in with_schema and '"maximum": 150' in with_schema
    assert "Answer with" not in without
    assert shown.prompt_tokens > hidden.prompt_tokens + 40
    again, _ = asked("Bob is 50.")
    assert again.statistics.prefilled_tokens < again.prompt_tokens - 120
    plain = llama.generate(ABOUT_ANNA, schema=Person, max_tokens=30)
    assert plain.prompt_tokens == len(llama.tokenizer.encode(ABOUT_ANNA))


def test_a_template_without_a_system_prompt(llama: Llama) -> None:
    """The schema then stands before the first message of the user."""
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
        "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    )
    with llama.chat(template=template, max_tokens=4) as chat:
        chat.send(ABOUT_ANNA, json=True)
        held = llama.tokenizer.decode(chat.session.tokens)
        assert chat.messages[0]["content"] == ABOUT_ANNA
    assert held.startswith(
        f"<Answer with a JSON object, on one line, and nothing else.\n\n{ABOUT_ANNA}>"
    )


def test_all_calls_that_generate(llama: Llama) -> None:
    """The same greedy text comes from every call, and from a batch of different forms."""
    options: Any = {"schema": Person, "temperature": 0}
    expected = llama.generate(ABOUT_ANNA, **options)
    assert isinstance(expected.parsed, Person)
    with llama.stream(ABOUT_ANNA, **options) as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert [chunk.token for chunk in chunks] == list(expected.tokens)
    with llama.session() as session:
        assert session.generate(ABOUT_ANNA, **options).parsed == expected.parsed
        held = session.tokens[expected.prompt_tokens :]
        assert held == expected.tokens[: len(held)] and len(held) > 5
    prompts: list[Any] = [
        ABOUT_ANNA,
        {"prompt": ABOUT_ANNA, "choices": ["yes", "no"]},
        {"prompt": "My number is ", "regex": r"\d{3}-\d{4}"},
        {"messages": [{"role": "user", "content": ABOUT_ANNA}], "json": True, "max_tokens": 8},
        {"prompt": ABOUT_ANNA, "schema": None, "max_tokens": 2},
    ]
    results = sorted(llama.generate_batch(prompts, **options), key=lambda result: result.index)
    assert results[0].text == expected.text and results[0].parsed == expected.parsed
    assert results[1].parsed in ("yes", "no")
    assert re.fullmatch(r"\d{3}-\d{4}", results[2].text)
    assert results[3].text.startswith("{")
    assert results[4].parsed is None and len(results[4].tokens) == 2


def test_a_conversation_keeps_a_form_until_another_is_asked_for(llama: Llama) -> None:
    """A form given at the start holds for every reply; a call's own takes its place."""
    with llama.chat(schema={"type": "integer"}, max_tokens=8) as chat:
        first = chat.send("How old is Anna? " + ABOUT_ANNA)
        second = chat.send("Is Anna a baker?", choices=["yes", "no"])
        third = chat.send("How old?")
    assert isinstance(first.parsed, int) or first.finish_reason == "length"
    assert second.parsed in ("yes", "no")
    assert re.fullmatch(r"-?\d+", third.text)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5])
def test_what_was_cut_is_not_parsed(llama: Llama, max_tokens: int) -> None:
    """A text cut by max_tokens has so many tokens, no object, and says why."""
    result = llama.generate(ABOUT_ANNA, schema=Person, max_tokens=max_tokens)
    assert (len(result.tokens), result.finish_reason) == (max_tokens, "length")
    assert result.parsed is None


def test_a_form_that_leaves_nothing_open(llama: Llama) -> None:
    """A text that is certain from the beginning comes whole, and ends by itself."""
    result = llama.generate("x", schema={"const": {"one": "and only"}})
    assert (result.parsed, result.finish_reason) == ({"one": "and only"}, "stop")
    assert llama.generate("x", schema={"const": 1}, max_tokens=1).parsed == 1


def test_what_a_class_refuses(llama: Llama) -> None:
    """The text is there, the reason too, and nothing is raised."""
    result = llama.generate(ABOUT_ANNA, schema=EvenAge, max_tokens=60, temperature=0)
    assert result.finish_reason == "stop"
    assert result.parsed is None and "odd enough" in result.parse_error


def test_stop_strings_and_sampling_go_on_working(llama: Llama) -> None:
    """A stop string ends a text before its form is whole; penalties do not break the form."""
    cut = llama.generate(ABOUT_ANNA, schema=Person, stop="age")
    assert (cut.finish_reason, cut.parsed) == ("stop", None)
    for seed in range(3):
        result = llama.generate(ABOUT_ANNA, **prompt_options(seed))
        assert result.finish_reason == "length" or valid_list(result)


def test_banned_strings_take_the_form_back_with_them(llama: Llama) -> None:
    """Where a banned string begins the text goes back, and its form with it."""
    options: Any = {"choices": ["red", "reddish", "blue"], "temperature": 0}
    assert llama.generate("The sky is", banned=["red"], **options).parsed == "blue"
    stuck = llama.generate("The sky is", banned=["e"], **options)
    assert (stuck.finish_reason, stuck.parsed) == ("constraint", None)
    certain = llama.generate("x", schema={"const": "abc"}, banned=["b"])
    assert (certain.finish_reason, certain.parsed) == ("constraint", None)
    named = llama.generate(ABOUT_ANNA, schema=Person, banned=["Anna", "3"], temperature=0)
    assert named.finish_reason == "length" or isinstance(named.parsed, Person)
    assert "Anna" not in named.text and "3" not in named.text


def prompt_options(seed: int) -> Any:
    """Sampling with everything that could weaken what a form needs."""
    schema = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3, "maxItems": 6}
    return {
        "schema": schema,
        "seed": seed,
        "temperature": 1.5,
        "repeat_penalty": 1.5,
        "dry_multiplier": 2.0,
        "max_tokens": 60,
    }


def valid_list(result: Generation) -> bool:
    """Whether the list that ``prompt_options`` ask for came."""
    return 3 <= len(result.parsed) <= 6 and set(result.parsed) <= {"a", "b"}


def test_errors_come_before_the_first_token(llama: Llama) -> None:
    """What cannot be kept to is refused by the call, not by the stream."""
    with pytest.raises(ConstraintError, match="#/properties/a"):
        llama.stream("x", schema={"properties": {"a": {"not": {}}}})
    with pytest.raises(ConstraintError, match="look-around"), llama.session() as session:
        session.stream("x", regex="(?=a)")
    with pytest.raises(InvalidOptionError, match="schema and regex are given"):
        llama.generate("x", schema={}, regex="a")
    with pytest.raises(InvalidOptionError, match="show_schema is 1"):
        llama.generate("x", show_schema=1)  # type: ignore[arg-type]


def test_the_example_prints_people(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """examples/structured_extraction.py reads one person out of each note."""
    script = EXAMPLES / "structured_extraction.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(smollm2_path)])
    runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r".{0,40}, \d+, (baker|carpenter|teacher|other)", x) for x in lines)


def test_a_dataclass(llama: Llama) -> None:
    """A dataclass needs no pydantic."""

    @dataclasses.dataclass
    class Size:
        width: int
        unit: str

    result = llama.generate("The table is 80 cm wide.", schema=Size, temperature=0, max_tokens=40)
    assert isinstance(result.parsed, Size) or result.finish_reason == "length"
