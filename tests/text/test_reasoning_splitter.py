"""Thinking told apart from what is said, however a text is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.text.reasoning.marks import ReasoningMarks
from edgellama.text.reasoning.splitter import Parted, ReasoningSplitter

THINK = ReasoningMarks("<think>", "</think>")
TOKENS = ReasoningMarks("[THINK]", "[/THINK]", 1, 2)
CASES = [
    ("<think>\nEasy.\n</think>\n\nFour.", False, "Easy.", "Four."),
    (" \n<think>Easy.</think>Four.", False, "Easy.", "Four."),
    ("\nEasy.\n</think>\n\nFour.\n", True, "Easy.", "Four.\n"),
    ("<think>\nEasy.</think>Four.", True, "Easy.", "Four."),
    ("<think>\n\n</think>\n\nFour.", False, "", "Four."),
    ("</think>\n\nFour.", True, "", "Four."),
    ("<think>It never ends. \n", False, "It never ends.", ""),
    ("It never ends", True, "It never ends", ""),
    ("a < b <thing", True, "a < b <thing", ""),
    ("Easy</thin", True, "Easy</thin", ""),
    ("  Four <think> is a tag </think>.", False, "", "  Four <think> is a tag </think>."),
    (" \n", False, "", " \n"),
    ("<thin", False, "", "<thin"),
    ("<thinking>x", False, "", "<thinking>x"),
    ("<think>a</think>\n<think>b</think> c", False, "a\n\nb", "c"),
    ("a</think>b</think>c", True, "a", "b</think>c"),
    ("a\n\n  b</think>c", True, "a\n\n  b", "c"),
    ("", False, "", ""),
    ("", True, "", ""),
]


def parted(pieces: list[str], *, is_open: bool, marks: ReasoningMarks = THINK) -> Parted:
    """What comes of pieces."""
    splitter = ReasoningSplitter(marks, is_open=is_open)
    found = [splitter.feed(piece) for piece in pieces]
    found.append(splitter.finish())
    return Parted("".join(each.reasoning for each in found), "".join(each.text for each in found))


TAGGED = ReasoningMarks("<think>", "</think>", answer=("<response>", "</response>"))
TAGGED_CASES = [
    ("<think>Easy.</think><response>Four.</response>", "Easy.", "Four."),
    ("<think>Easy.</think>\n\n<response>\nFour.\n\nYes.\n</response>\n", "Easy.", "Four.\n\nYes."),
    ("<think>Easy.</think>\nFour. ", "Easy.", "Four. "),
    ("<think>Easy.</think><response>Four </resp", "Easy.", "Four </resp"),
    ("<think>Easy.</think><response>a </response> b", "Easy.", "a </response> b"),
    ("<think>Easy.</think><response>a </response> b </response>", "Easy.", "a </response> b"),
    ("<think>Easy.</think><respond>x</response>", "Easy.", "<respond>x</response>"),
    ("<think>Easy.</think><resp", "Easy.", "<resp"),
    ("<think>Easy.</think><response>", "Easy.", ""),
    ("<think>Easy.</think><response></response>", "Easy.", ""),
    ("<response>Four.</response>", "", "<response>Four.</response>"),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), TAGGED_CASES)
def test_tags_around_an_answer(text: str, reasoning: str, answer: str) -> None:
    """Behind thinking they are no part of the answer, however the text is cut."""
    expected = Parted(reasoning, answer)
    assert parted([text], is_open=False, marks=TAGGED) == expected
    assert parted(list(text), is_open=False, marks=TAGGED) == expected
    for first in range(len(text)):
        for second in range(first, len(text)):
            pieces = [text[:first], text[first:second], text[second:]]
            assert parted(pieces, is_open=False, marks=TAGGED) == expected


@pytest.mark.parametrize(("text", "is_open", "reasoning", "answer"), CASES)
def test_thinking_is_parted_from_the_answer(
    text: str, is_open: bool, reasoning: str, answer: str
) -> None:
    """A text gives the same whole, letter by letter, and cut in two anywhere."""
    expected = Parted(reasoning, answer)
    assert parted([text], is_open=is_open) == expected
    assert parted(list(text), is_open=is_open) == expected
    for place in range(len(text)):
        assert parted([text[:place], text[place:]], is_open=is_open) == expected


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text of marks, parts of them, white space and letters, and pieces of it."""
    parts = ["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "b."]
    text = "".join(draw(st.lists(st.sampled_from(parts), max_size=14)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    places = [0, *cuts, len(text)]
    return text, [text[start:end] for start, end in pairwise(places)]


@given(cut_texts(), st.booleans())
def test_pieces_do_not_matter(texts: tuple[str, list[str]], is_open: bool) -> None:
    """For every way to cut a text the thinking and the answer are the same."""
    text, pieces = texts
    whole = parted([text], is_open=is_open)
    assert parted(pieces, is_open=is_open) == whole
    # Nothing but marks and white space is lost.
    for mark in ("<think>", "</think>"):
        text = text.replace(mark, "")
    # The end of the thinking and the begin of the answer may look like a mark side by side.
    told = "".join(part.replace("<think>", "").replace("</think>", "") for part in whole)
    assert sorted("".join(told.split())) == sorted("".join(text.split()))


@given(st.text(alphabet="<thi nk>/ab\n", max_size=20))
def test_a_text_without_an_opening_mark_stays_as_it_is(text: str) -> None:
    """A model that has marks and does not use them says every character that it says."""
    if not text.lstrip().startswith("<think>"):
        assert parted(list(text), is_open=False) == Parted("", text)


def test_marks_that_are_tokens_count_everywhere() -> None:
    """A token opens thinking in the middle of an answer; its text in an answer is text."""
    splitter = ReasoningSplitter(TOKENS)
    assert splitter.feed("Well, ") == Parted("", "Well, ")
    assert splitter.mark(1) == Parted("", "")
    assert splitter.feed(" what is [TH") == Parted("what is [TH", "")
    assert splitter.mark(3) is None
    assert splitter.mark(2) == Parted("", "")
    assert splitter.feed(" \nit is [THINK]") == Parted("", "it is [THINK]")
    splitter.mark(1)
    assert splitter.feed("Again") == Parted("\n\nAgain", "")
    assert splitter.is_thinking
    assert splitter.finish() == Parted("", "")


def test_thinking_that_is_gone_on_with_keeps_its_spaces() -> None:
    """A text that carries on words of thinking begins as it begins."""
    splitter = ReasoningSplitter(THINK, is_open=True, is_begun=True)
    assert splitter.feed(" me see") == Parted(" me see", "")
    assert splitter.feed("</think>\nFour") == Parted("", "Four")


def test_a_closing_token_that_closes_nothing_changes_nothing() -> None:
    """White space behind a stray mark is the answer's own."""
    splitter = ReasoningSplitter(TOKENS)
    splitter.feed("One.")
    splitter.mark(2)
    assert splitter.feed("\n\nTwo.") == Parted("", "\n\nTwo.")
