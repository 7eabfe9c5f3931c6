"""The desktop example: what it keeps, its talker, and its window where there is a screen."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import EXAMPLES

FOLDER = EXAMPLES / "desktop"
DISPLAY = ":97"


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The example's files can be imported by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield


def said(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def test_conversations_are_found_by_any_of_their_words(tmp_path: Path) -> None:
    """Every word must stand somewhere; signs of SQL's patterns stand for themselves."""
    from conversations import Conversations

    kept = Conversations(tmp_path / "deep" / "kept.sqlite")
    first = kept.save(None, [said("user", "What is 100% wool?"), said("assistant", "Pure wool.")])
    second = kept.save(None, [said("user", "Tell me about llamas"), said("assistant", "Wool!")])
    assert [entry.number for entry in kept.find()] == [second, first]
    assert [entry.number for entry in kept.find("wool")] == [second, first]
    assert [entry.number for entry in kept.find("wool llamas")] == [second]
    assert [entry.number for entry in kept.find("100%")] == [first]
    assert kept.find("_") == []
    kept.save(first, [*kept.messages(first), said("user", "Thanks")])
    assert [entry.number for entry in kept.find()] == [first, second]
    kept.delete(first)
    assert kept.messages(first) == []
    kept.close()
    again = Conversations(tmp_path / "deep" / "kept.sqlite")
    assert [entry.title for entry in again.find()] == ["Tell me about llamas"]
    again.close()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["model", "context_length", "temperature", "theme", "x"]), inner),
    max_leaves=8,
))  # fmt: skip
def test_broken_settings_are_the_usual_ones(content: Any) -> None:
    """Whatever JSON lies there, there are preferences, and they can be."""
    import tempfile

    from preferences import Preferences, read_preferences, write_preferences

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(content), "utf-8")
        found = read_preferences(path)
        write_preferences(path, found)
        assert isinstance(found, Preferences)
        assert read_preferences(path) == found


def events_until(events: queue.SimpleQueue[Any], kind: type) -> list[Any]:
    """Events up to the first of a kind."""
    found = [events.get(timeout=60)]
    while not isinstance(found[-1], kind):
        found.append(events.get(timeout=60))
    return found


def test_the_talker_answers_stops_and_says_what_goes_wrong(
    smollm2_path: Path, tmp_path: Path
) -> None:
    """Pieces are the reply, a stopped one ends, and a damaged model is a message, not an end."""
    from events import Ask, Failed, FindModels, Loaded, LoadModel, ModelsFound, Piece, Replied
    from talker import Talker

    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    talker = Talker(events.put, tmp_path)
    try:
        talker.ask(FindModels(1024))
        (found,) = events_until(events, ModelsFound)
        sizes = {choice.path: choice.num_bytes for choice in found.choices}
        assert sizes[tmp_path / "broken.gguf"] is None
        talker.ask(LoadModel(tmp_path / "broken.gguf", 1024))
        assert "broken.gguf" in events_until(events, Failed)[-1].error
        talker.ask(Ask((said("user", "Hi"),), 0.0, 8))
        assert "no model is loaded" in events_until(events, Failed)[-1].error
        talker.ask(LoadModel(smollm2_path, 1024))
        events_until(events, Loaded)
        talker.ask(Ask((said("user", "Name a colour."),), 0.0, 8))
        told = events_until(events, Replied)
        pieces = [event.text for event in told if isinstance(event, Piece)]
        assert "".join(pieces) == told[-1].text != ""
        talker.ask(Ask((said("user", "Count to a thousand."),), 0.0, None))
        events_until(events, Piece)
        talker.stop()
        assert events_until(events, Replied)[-1].reason == "cancelled"
    finally:
        talker.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb to draw on")
def test_the_window_answers_by_itself(tmp_path: Path, smollm2_path: Path) -> None:
    """Started with a text to say, it loads a model, sends it, shows the reply and keeps it."""
    pytest.importorskip("tkinter")
    from conversations import Conversations

    with subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "1024x768x24"]) as screen:
        try:
            result = subprocess.run(
                [sys.executable, FOLDER / "desktop_app.py", "--data", tmp_path, "--say", "Hello"],
                env={**os.environ, "DISPLAY": DISPLAY},
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        finally:
            screen.terminate()
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["reason"] == "stop"
    kept = Conversations(tmp_path / "conversations.sqlite")
    (entry,) = kept.find("hello")
    assert kept.messages(entry.number)[-1]["content"] == report["text"]
    kept.close()
