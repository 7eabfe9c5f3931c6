"""Regexes, grammars, choices and classes as constraints: what they allow, and what is none."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import re
import subprocess
import sys
import uuid
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import llguidance
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.constraint_texts import allows_text, form, random_text

from edgellama.constraints.answer_form import answer_form
from edgellama.quant.errors import ConstraintError, EdgellamaError, InvalidOptionError


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ('root ::= "a"+ "b" # two', ["ab", "aaab"], ["b", "a", "abb"]),
        ("root ::= [^a] .", ["b\n", "é\0", "\n\n"], ["ab", "b", "bbb"]),
        ('root ::= "\\u00e9" [\\u00e0-\\u00ff] "\\U0001F600"', ["éü😀"], ["éu😀", "ee😀"]),
        ('root ::= "\\x41\\t\\"\\\\" [\\]\\-x]', ['A\t"\\]', 'A\t"\\-'], ['A\t"\\y']),
        ('root ::= "\\x01" "a/b" [/]', ["\x01a/b/"], ["a/b/"]),
        (
            'root ::= fooBar foo-bar foo_bar\nfooBar ::= "1"\nfoo-bar ::= "2"\nfoo_bar ::= "3"',
            ["123"],
            ["12"],
        ),
        ('root ::= x{2} | x{4,} | "y"?\nx ::= "x"', ["xx", "xxxxx", "y", ""], ["x", "xxx"]),
        ('root ::= (\n "a" |\n "b")*', ["", "abba"], ["c"]),
        ('root ::= e\ne ::= t ("+" t)*\nt ::= [0-9]+ | "(" e ")"', ["1+(2+3)"], ["1+", "(1"]),
        ('root ::= [$.*+?^(){}|-] "-"', ["$-", "^-", "--", "|-"], ["a-"]),
        ('root ::= n "\\n"\nn ::= [0-9]+ ws\nws ::= [ \\n]*', ["1\n", "12 \n\n"], ["1", "\n"]),
        ('root ::= "true" | [a-z]+ "!"', ["true", "trip!", "true!"], ["trip", "tru"]),
        ('root ::= a | \na ::= "x" | ( | "y")', ["", "x", "y"], ["xy"]),
        ('start: "a" B\nB: /[0-9]+/', ["a12"], ["a", "b1"]),
    ],
)
def test_grammars(grammar: str, right: list[str], wrong: list[str]) -> None:
    """GBNF and Lark allow what they say and nothing else."""
    asked = form(grammar=grammar)
    assert [text for text in right if not allows_text(asked, text)] == []
    assert [text for text in wrong if allows_text(asked, text)] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grammar": "root ::= a"}, "the grammar, line 1: there is no rule 'a'"),
        ({"grammar": 'a ::= "x"'}, "no rule root; it has a"),
        ({"grammar": 'root ::= "a"\nroot ::= "b"'}, "the rule 'root' twice"),
        ({"grammar": 'root ::= "a"\n b ::= []'}, "line 2: a set is empty"),
        ({"grammar": 'root ::= "\\q"'}, "there is no escape '\\\\q'"),
        ({"grammar": "root ::= 'a'"}, "is no GBNF"),
        ({"grammar": "root ::= (a\na ::= 'b"}, "is no GBNF"),
        ({"grammar": "nothing at all"}, "the grammar: "),
        ({"grammar": 'start: %json {"not": {}}'}, 'Unimplemented keys: ["not"]'),
        ({"grammar": "start: a\na: a"}, "no text can follow it"),
        ({"regex": "("}, "the regex: regex parse error: ( ^ error: unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "\ud800"}, "surrogate"),
        ({"regex": "(a{1000}){1000}"}, "given bytes or more; allowed: 32,768"),
    ],
)
def test_what_is_no_regex_or_grammar(options: dict[str, Any], words: str) -> None:
    """A mistake is told before the first token."""
    with pytest.raises(ConstraintError) as caught:
        allows_text(form(**options), "")
    assert words in str(caught.value)


def test_thousands_of_rules_in_each_other() -> None:
    """A long chain of rules is compiled, or refused for its size."""
    for count in (8000, 40_000):
        rules = "".join(f"r{n}: r{n + 1}\n" for n in range(count))
        asked = form(grammar=f'start: r0\n{rules}r{count}: "a"\n')
        if count < 30_000:
            assert allows_text(asked, "a")
        else:
            with pytest.raises(ConstraintError, match="allowed: 30000 schemas or rules"):
                allows_text(asked, "a")


@pytest.mark.parametrize(
    "options",
    [
        *({"regex": ""}, {"regex": 1}, {"grammar": b"x"}),
        *({"choices": []}, {"choices": "ab"}, {"choices": [""]}, {"choices": ["a", 1]}),
    ],
)
def test_options_of_other_types(options: dict[str, Any]) -> None:
    """What is of another type is refused by its name."""
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        answer_form(options)


PATTERNS = (r"\d{3}-[a-c]+", r"(yes|no)!?", r"[^x]{2,5}", r"a/b|\"é+\"", r"(?i)Ab\.")


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_random_texts_match_their_regex(pattern: str, seed: int) -> None:
    """What is drawn matches as a whole."""
    text = random_text(form(regex=pattern), np.random.default_rng(seed), num_free=10)
    assert text is None or re.fullmatch(pattern, text)


def test_choices() -> None:
    """One of the texts and nothing else; it is what was parsed."""
    asked = form(choices=["yes", "yes, but", 'é "quoted"\n', "yes"])
    assert all(allows_text(asked, text) for text in ("yes", "yes, but", 'é "quoted"\n'))
    assert not any(allows_text(asked, text) for text in ("", "ye", "yes,", "yes, buts"))
    assert asked.read is not None and asked.read("yes") == "yes"


class Pet(TypedDict):
    """A TypedDict."""

    name: str
    legs: int


@dataclasses.dataclass
class Owner:
    """A dataclass with others inside."""

    name: str
    pets: list[Pet]


class Point(msgspec.Struct):
    """A msgspec Struct."""

    x: int
    kind: Literal["a", "b"] = "a"


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: str


class Bill(pydantic.BaseModel):
    """A pydantic model of what pydantic writes in ways of its own."""

    sum: decimal.Decimal
    day: datetime.date
    tags: set[Literal["x", "y"]]
    note: str | None = None


class Cat(pydantic.BaseModel):
    """One of two."""

    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    """The other."""

    kind: Literal["dog"]


@dataclasses.dataclass
class Household:
    """A dataclass that msgspec cannot describe."""

    owner: str
    bill: Bill


class Level(enum.Enum):
    """An enumeration."""

    LOW = "low"
    HIGH = "high"


class Tree(pydantic.BaseModel):
    """A class inside itself."""

    value: int
    children: list[Tree] = []


EITHER = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Pet, '{"name": "Rex", "legs": 4}', {"name": "Rex", "legs": 4}),
        (Owner, '{"name": "A", "pets": []}', Owner("A", [])),
        (Point, '{"x": 1, "kind": "b"}', Point(1, "b")),
        (Pair, '[1, "a"]', Pair(1, "a")),
        (list[Point], '[{"x": 1}]', [Point(1)]),
        (int, "-3", -3),
        (
            Bill,
            '{"sum": 1.5, "day": "2024-02-29", "tags": ["x", "x"]}',
            Bill(sum=decimal.Decimal("1.5"), day=datetime.date(2024, 2, 29), tags={"x"}),
        ),
        (pydantic.TypeAdapter(EITHER), '{"kind": "dog"}', Dog(kind="dog")),
        (
            Household,
            '{"owner": "A", "bill": {"sum": 2, "day": "2024-01-01", "tags": [], "note": null}}',
            Household(
                "A",
                Bill(sum=decimal.Decimal(2), day=datetime.date(2024, 1, 1), tags=set()),
            ),
        ),
    ],
    ids=str,
)
def test_classes(kind: Any, text: str, value: object) -> None:
    """The JSON of a class is allowed and becomes an object of it; other fields are not."""
    asked = form(schema=kind)
    assert asked.read is not None
    assert allows_text(asked, text)
    assert asked.read(text) == value
    if text.startswith("{"):
        assert not allows_text(asked, text[:-1] + ', "more": 1}')


@pytest.mark.parametrize(
    "kind",
    [
        *(int, float, bool, str, bytes, list[int], set[int], tuple[int, str], dict[str, float]),
        *(dict[int, str], dict[Level, int], Level, datetime.datetime, datetime.date, datetime.time),
        *(datetime.timedelta, uuid.UUID, decimal.Decimal, Tree, EITHER, int | str | None),
        *(Literal[1, "a"], Annotated[int, pydantic.Field(gt=2, multiple_of=5)], Bill, Household),
        *(Annotated[datetime.datetime, msgspec.Meta(tz=True)], Point, Owner),
    ],
    ids=str,
)
def test_whatever_is_drawn_can_be_read(kind: Any) -> None:
    """No text that a class leads to is refused by it."""
    asked = form(schema=kind)
    assert asked.read is not None
    texts = [random_text(asked, np.random.default_rng(seed), num_free=20) for seed in range(25)]
    read = [asked.read(text) for text in texts if text is not None]
    assert len(read) > 10


def test_a_class_that_nobody_describes() -> None:
    """A class without fields that are known is refused by its name."""

    class Plain:
        pass

    with pytest.raises(ConstraintError, match="Plain"):
        answer_form({"schema": Plain})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"const": 1}, 'JSON Schema:\n{"const": 1}'),
        (True, "Answer with JSON, on one line"),
        (Pet, '"legs": {"type": "integer"}'),
        (Tree, '"value": {"type": "integer"}'),
    ],
)
def test_the_model_is_told(schema: Any, words: str) -> None:
    """The instruction has the schema."""
    assert words in form(schema=schema).instruction


def run_without(*modules: str, code: str) -> str:
    """What a process prints that cannot import some modules."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in modules)
    source = f"import sys\n{blocked}{code}"
    result = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout


def test_without_the_package() -> None:
    """Where llguidance lacks, the error has the command that installs it for this Python."""
    code = (
        "from edgellama.constraints.answer_form import answer_form\n"
        "from edgellama.quant.errors import EdgellamaError\n"
        "try: answer_form({'regex': 'a'})\n"
        "except EdgellamaError as error: print(error)\n"
    )
    said = run_without("llguidance", code=code)
    assert said.strip().endswith(f"{sys.executable} -m pip install 'edgellama[grammar]'")


def test_an_old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is too old is named, with the command that replaces it."""
    monkeypatch.setattr(llguidance, "__version__", "0.7.30")
    with pytest.raises(EdgellamaError, match=r"llguidance 0\.7\.30 is installed.*from 1\.9.*pip"):
        answer_form({"regex": "a"})


def test_a_dataclass_without_pydantic() -> None:
    """msgspec alone describes dataclasses; where neither is installed, the error names both."""
    code = (
        "import dataclasses\n"
        "from edgellama.constraints.answer_form import answer_form\n"
        "from edgellama.quant.errors import EdgellamaError\n"
        "@dataclasses.dataclass\n"
        "class Size:\n    width: int\n"
        "try: print(answer_form({'schema': Size}).read('{\"width\": 3}'))\n"
        "except EdgellamaError as error: print(error)\n"
    )
    assert run_without("pydantic", code=code).strip() == "Size(width=3)"
    said = run_without("pydantic", "msgspec", code=code)
    assert "pydantic or msgspec describes" in said and "edgellama[grammar]" in said


def test_importing_generation_loads_no_library_of_constraints() -> None:
    """llguidance, msgspec and pydantic are loaded when a constraint asks for them."""
    code = (
        "import edgellama.generation.sessions.session\n"
        "print([m for m in ('llguidance', 'msgspec', 'pydantic') if m in sys.modules])\n"
    )
    assert run_without(code=code).strip() == "[]"


def test_json_of_any_object() -> None:
    """``json=True`` is an object, ``schema=True`` any JSON."""
    assert allows_text(form(json=True), json.dumps({"a": [1, None]}))
    assert not allows_text(form(json=True), "[1]")
    for schema in (True, {}, "{}"):
        assert allows_text(form(schema=schema), "[1]")
    assert allows_text(form(schema={"type": "object"}), '{"a": {}, "b": []}')


@settings(max_examples=60)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**20) + 1, 10**20 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=("Cc", "Cs"))),
        lambda values: st.lists(values) | st.dictionaries(st.sampled_from("abcd"), values),
        max_leaves=8,
    )
)
def test_json_without_a_schema_is_what_python_writes(value: Any) -> None:
    """Any value of ordinary size may be an answer, as Python's json writes it."""
    assert allows_text(form(schema=True), json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize("start", ["", "-", "0.", "1e", '{"a": 1', "[0, 2.5"])
def test_numbers_of_json_without_a_schema_end(start: str) -> None:
    """A model cannot write digits for ever where no schema limits a number."""
    assert allows_text(form(schema=True), "0.00012345678901234567")
    end = "}" * start.count("{") + "]" * start.count("[")
    assert allows_text(form(schema=True), f"{start}1{end}")
    assert not allows_text(form(schema=True), f"{start}{'1' * 21}{end}")
