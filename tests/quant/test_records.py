"""Frozen dataclasses of our own behave as those of the standard library do."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from edgellama.quant import records

DECORATORS = pytest.mark.parametrize(
    "dataclass", [dataclasses.dataclass, records.dataclass], ids=["standard", "own"]
)


@records.dataclass(frozen=True)
class Place:
    """A class at the top level, so that it can be pickled."""

    name: str
    row: int = 0
    words: tuple[str, ...] = ()
    found: dict[str, int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse a row below 0."""
        if self.row < 0:
            raise ValueError(f"row {self.row}")


@dataclasses.dataclass(frozen=True)
class Standard:
    """The same by the standard library."""

    name: str
    row: int = 0
    words: tuple[str, ...] = ()
    found: dict[str, int] = field(default_factory=dict, compare=False)


def test_signature_and_text_are_those_of_the_standard_library() -> None:
    """Help, signatures, annotations and representations show the same."""
    assert str(inspect.signature(Place)) == str(inspect.signature(Standard))
    assert Place.__match_args__ == Standard.__match_args__
    assert Place.__init__.__annotations__ == Standard.__init__.__annotations__
    assert repr(Place("a", 2)) == repr(Standard("a", 2)).replace("Standard", "Place")
    assert Place.row == 0
    assert [f.name for f in dataclasses.fields(Place)] == ["name", "row", "words", "found"]


def test_wrong_arguments_are_named_alike() -> None:
    """The error of a call names the class and the argument."""
    for arguments in ({}, {"name": "a", "colum": 1}):
        texts = []
        for cls in (Place, Standard):
            with pytest.raises(TypeError) as error:
                cls(**arguments)
            texts.append(str(error.value).replace("Place", "Standard"))
        assert texts[0] == texts[1]


CALLS = [
    ((), {}),
    (("a",), {}),
    (("a", 1), {"named": 3}),
    ((), {"first": "a", "second": 2, "named": 3}),
    (("a", 1, 2), {}),
    (("a",), {"first": "b"}),
    (("a",), {"other": 1}),
    (("a",), {"made": [1]}),
]


@pytest.mark.parametrize("num_before", [0, records.FEW_INSTANCES])
@pytest.mark.parametrize(("values", "named"), CALLS)
def test_calls_do_as_those_of_the_standard_library(
    num_before: int, values: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """The first few instances, and those after them, have the same fields or the same error."""
    found = []
    for dataclass in (dataclasses.dataclass, records.dataclass):

        @dataclass(frozen=True)
        class Some:
            first: str
            second: int = 5
            named: int = field(default=7, kw_only=True)
            made: list[int] = field(default_factory=list, kw_only=True)

        for _ in range(num_before):
            Some("before")
        try:
            found.append(vars(Some(*values, **named)))
        except TypeError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_instances_are_values() -> None:
    """Equal fields make equal instances of one hash, and each has its own made defaults."""
    one, other = Place("a", found={"x": 1}), Place("a")
    assert one == other and hash(one) == hash(other)
    assert one != Place("b") and one != Standard("a") and (one == 3) is False
    assert Place("a").found is not Place("a").found
    assert dataclasses.replace(one, row=3) == Place("a", 3)
    assert dataclasses.asdict(other) == {"name": "a", "row": 0, "words": (), "found": {}}
    assert copy.deepcopy(one) == one and pickle.loads(pickle.dumps(one)) == one


def test_checks_of_the_class_run() -> None:
    """__post_init__ is called, by replace, too."""
    with pytest.raises(ValueError, match="row -1"):
        Place("a", -1)
    with pytest.raises(ValueError, match="row -2"):
        dataclasses.replace(Place("a"), row=-2)


def test_instances_cannot_be_changed() -> None:
    """Neither a field nor another attribute can be set or deleted."""
    place = Place("a")
    for name in ("name", "other"):
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"
        ):
            setattr(place, name, "b")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'name'"):
        del place.name  # type: ignore[misc]


@DECORATORS
def test_classes_keep_their_own_methods(dataclass: Callable[..., Any]) -> None:
    """What a class defines stays; an __eq__ alone does not take the hash away."""

    @dataclass(frozen=True)
    class Own:
        number: int

        def __init__(self) -> None:
            object.__setattr__(self, "number", 7)

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "own"

    assert (Own().number, repr(Own()), Own() == 3) == (7, "own", True)
    assert hash(Own()) == hash(Own())


@DECORATORS
def test_classes_derive(dataclass: Callable[..., Any]) -> None:
    """Fields are inherited in their order; keyword-only ones come last; a plain class may add."""

    @dataclass(frozen=True)
    class First:
        a: int
        b: int = field(default=2, kw_only=True)

    @dataclass(frozen=True)
    class Second(First):
        c: int = 3

    class Plain(Second):
        pass

    second = Second(1, 5, b=4)
    assert (second.a, second.b, second.c) == (1, 4, 5)
    assert First(1) == First(1) != First(1, b=3) and second != First(1, b=4)
    plain = Plain(1)
    plain.more = 1  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.c = 1


@DECORATORS
def test_identity_and_change_can_be_kept(dataclass: Callable[..., Any]) -> None:
    """With eq=False instances are equal to themselves alone; without frozen they change."""

    @dataclass(frozen=True, eq=False)
    class Same:
        a: int = 0

    @dataclass()
    class Open:
        a: int = 0

    assert Same() != Same() and len({Same(), Same()}) == 2
    changed = Open()
    changed.a = 5
    assert changed == Open(5)
