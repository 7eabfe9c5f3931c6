"""Docstrings of public calls: each stands alone, and its example does what it says."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
from pathlib import Path
from typing import Any

import api_reference
import pytest
from doc_examples import check_examples

import edgellama
import edgellama.convert

PUBLIC = {name: getattr(edgellama, name) for name in edgellama.__all__}
OBJECTS = {
    name: value
    for name, value in PUBLIC.items()
    if not (isinstance(value, type) and issubclass(value, Exception))
} | {"convert": edgellama.convert.convert, "plan": edgellama.convert.plan}
"""Every public name that is no error."""
INNER = ("Engine", "KVCache")
"""For instruments and other runtimes; their methods say it in prose."""


def calls() -> dict[str, Any]:
    """Public functions and methods that take arguments, by the name that a user writes."""
    found = {name: value for name, value in OBJECTS.items() if inspect.isfunction(value)}
    for name, value in OBJECTS.items():
        if not isinstance(value, type) or name in INNER or dataclasses.is_dataclass(value):
            continue
        for method, function in inspect.getmembers(value):
            is_ours = str(getattr(function, "__module__", "")).startswith("edgellama")
            if not is_ours:
                continue
            is_public = not method.startswith("_")
            if inspect.isfunction(function) and is_public and arguments_of(function):
                found[f"{name}.{method}"] = function
    return found


def arguments_of(function: Any) -> list[str]:
    """Names of a call's parameters but ``self``."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


CALLS = calls()
DOCUMENTED = {
    name: function
    for name, function in CALLS.items()
    if name.split(".")[0] in ("Llama", "Conversation", "Session", "pull", "load_tokenizer",
                              "convert", "plan")
    or name in ("ChatTemplate.render", "Tokenizer.encode", "Tokenizer.decode")
}  # fmt: skip
"""The calls of an application; what is left are parts of edgellama's own."""
del DOCUMENTED["Session.start"]  # It takes a Request, which is not public.


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_a_call_explains_its_arguments(name: str) -> None:
    """Every argument, the errors and an example are in the call's own docstring, or its twin's."""
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    lines = text.splitlines()
    if name.endswith("_async"):
        twin = name.removesuffix("_async")
        assert text.startswith(f"``{twin.split('.')[1]}`` for event loops")
        assert arguments_of(DOCUMENTED[name]) == arguments_of(DOCUMENTED[twin])
        return
    for argument in arguments_of(DOCUMENTED[name]):
        assert any(line.startswith(f"    {argument}: ") for line in lines), argument
    for section in ("Arguments:", "Raises:", "Example:"):
        assert any(line.startswith(section) for line in lines), section
    assert "as for ``" not in text


@pytest.mark.parametrize("name", sorted(set(OBJECTS) - set(INNER) - {"Tokenizer"}))
def test_a_name_has_an_example(name: str) -> None:
    """Every public name shows in its docstring, or in its calls', how it is used."""
    texts = [inspect.getdoc(OBJECTS[name]) or ""]
    texts += [inspect.getdoc(f) or "" for call, f in CALLS.items() if call.startswith(f"{name}.")]
    assert any(">>> " in text for text in texts)


@pytest.mark.parametrize(
    "name", sorted(n for n, v in OBJECTS.items() if dataclasses.is_dataclass(v))
)
def test_fields_are_explained(name: str) -> None:
    """The docstring of plain data names every field, or the field itself has its words."""
    text = inspect.getdoc(OBJECTS[name]) or ""
    for field in dataclasses.fields(OBJECTS[name]):
        assert f"``{field.name}" in text or field.metadata, field.name


def test_the_reference_is_up_to_date() -> None:
    """docs/api.md says what the docstrings say (else: python tests/api_reference.py)."""
    written = api_reference.PAGE.read_text("utf-8")
    assert written.split() == api_reference.render_page().split()


def test_the_reference_is_complete() -> None:
    """Every public name and every method of one is on the page."""
    page = api_reference.render_page()
    for name in sorted(set(PUBLIC) - set(api_reference.INNER)):
        is_error = isinstance(PUBLIC[name], type) and issubclass(PUBLIC[name], Exception)
        assert (f"| `{name}` |" if is_error else f"\n### {name}\n") in page, name
    for name in sorted(set(CALLS) - {"Session.start"}):
        if "." in name and name.split(".")[0] not in INNER:
            shown = f"`{name.split('.')[1]}`" if name.endswith("_async") else f"#### {name}\n"
            assert shown in page, name


@pytest.mark.slow
def test_examples_are_typed(tmp_path: Path) -> None:
    """mypy in its strict mode has nothing against any example of docstrings and pages."""
    exit_code, report = check_examples(tmp_path)
    assert exit_code == 0, report


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_examples_do_what_they_say(name: str, smollm2_path: Path) -> None:
    """Every example runs on the starter model and gives what stands below it."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(
        optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE
    )
    report: list[str] = []
    for test in finder.find(OBJECTS[name], name, globs={}):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
