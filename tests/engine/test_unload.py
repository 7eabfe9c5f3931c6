"""Memory that is given back while nobody computes, and threads that change while texts run."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.patience import until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.llama import Llama
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, ModelFileError

TIMEOUT_S = 60.0
PROMPT = list(b"once upon a time")
GREEDY: Any = {"temperature": 0, "max_tokens": 12}
MODEL = TinyLlama(context_length=1024, weight_format="Q8_0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A tiny model's file."""
    return write_tiny_llama(tmp_path / "tiny.gguf", MODEL)


@pytest.fixture
def llama(path: Path) -> Iterator[Llama]:
    """A tiny model with two threads."""
    with Llama(path, num_threads=2) as llama:
        yield llama


def team_threads() -> list[threading.Thread]:
    """The threads of all engines, without those that wait for texts."""
    return [t for t in threading.enumerate() if t.name.removeprefix("edgellama-").isdecimal()]


def mapping_of(llama: Llama) -> weakref.ref[Any]:
    """What goes when the file is not mapped any more."""
    array: Any = llama._file.tensors["token_embd.weight"].data
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return weakref.ref(array.base.obj if isinstance(array.base, memoryview) else array.base)


def test_unload_gives_everything_back_until_the_next_text(llama: Llama) -> None:
    """File, threads and earlier texts' pages go; sessions and their texts go on as they were."""
    expected = llama.generate(PROMPT, **GREEDY).tokens
    with llama.session() as session, llama.chat(**GREEDY) as chat:
        first = session.generate(PROMPT, **GREEDY)
        chat.send("hello")
        mapping, before = mapping_of(llama), len(team_threads())
        assert mapping() is not None and llama.is_loaded
        llama.unload()
        llama.unload()
        assert (mapping(), llama.is_loaded, llama.cached_bytes) == (None, False, 0)
        assert len(team_threads()) == before - 1
        again = session.generate([*PROMPT, *first.tokens], **GREEDY)
        assert again.statistics.prefilled_tokens == 1
        assert llama.is_loaded and len(team_threads()) == before
        assert chat.send("more").tokens
    assert llama.generate(PROMPT, **GREEDY).tokens == expected


def test_what_needs_weights_loads_them(llama: Llama, tmp_path: Path) -> None:
    """A saved session, a hook and an adapter's names are asked for as if nothing had gone."""
    with llama.session() as session:
        session.generate(PROMPT, **GREEDY)
        llama.unload()
        session.save(tmp_path / "a.session")
        llama.unload()
        seen: list[int] = []
        hook = llama.add_hook(lambda rows, step: seen.append(len(rows)))
        llama.unload()
        assert llama.generate(PROMPT, **GREEDY).tokens
        assert seen
        llama.remove_hook(hook)
        llama.unload()
        assert llama._engine.weights.token_embd.num_columns == MODEL.width


def test_unload_in_the_middle_of_a_text(llama: Llama) -> None:
    """A stream whose model is unloaded between two chunks says what it would have said."""
    expected = llama.generate(PROMPT, **GREEDY).tokens
    stream = llama.stream(PROMPT, **GREEDY)
    tokens = []
    for chunk in stream:
        llama.unload()
        tokens.append(chunk.token)
    assert tuple(tokens) == expected


def test_a_replaced_file_is_not_taken_for_the_old_one(llama: Llama, path: Path) -> None:
    """A file that was replaced while it was unloaded is an error; the old one back is none."""
    kept = path.with_suffix(".old")
    llama.generate(PROMPT, **GREEDY)
    llama.unload()
    path.rename(kept)
    write_tiny_llama(path, TinyLlama(context_length=1024, weight_format="Q8_0", seed=1))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelFileError, match="another than the one that was loaded"):
        llama.generate(PROMPT, **GREEDY)
    path.unlink()
    with pytest.raises(EdgellamaError, match="no such file"):
        llama.generate(PROMPT, **GREEDY)
    kept.rename(path)
    assert llama.generate(PROMPT, **GREEDY).tokens


def test_another_folder_does_not_matter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was opened by a relative path is found again from elsewhere."""
    monkeypatch.chdir(path.parent)
    with Llama(path.name, num_threads=1) as llama:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        llama.unload()
        assert llama.generate(PROMPT, **GREEDY).tokens


def test_an_idle_model_is_unloaded(llama: Llama) -> None:
    """After the time without a step memory goes, and comes back with the next text."""
    llama.generate(PROMPT, **GREEDY)
    llama.idle_seconds = 0.02
    for _ in range(2):
        until(lambda: not llama.is_loaded)
        assert llama.generate(PROMPT, **GREEDY).tokens
    llama.idle_seconds = None
    llama.close()
    for thread in threading.enumerate():
        if thread.name == "edgellama-idle":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_a_closed_model_is_not_loaded_again(llama: Llama) -> None:
    """After close() neither unload nor a text brings the file back."""
    llama.unload()
    llama.close()
    llama.unload()
    with pytest.raises(EdgellamaError, match="closed"):
        llama.generate(PROMPT)
    assert not llama.is_loaded


def test_threads_change_while_a_text_runs(llama: Llama) -> None:
    """A text has the same tokens whatever happens to its threads between two steps."""
    expected = llama.generate(PROMPT, **GREEDY).tokens
    tokens = []
    for number, chunk in enumerate(llama.stream(PROMPT, **GREEDY)):
        tokens.append(chunk.token)
        llama.num_threads = 1 + number % 3
        llama.low_priority = number % 2 == 0
        assert len(team_threads()) >= number % 3
    assert tuple(tokens) == expected
    assert llama.num_threads == 1 + number % 3


def test_threads_change_from_other_threads(llama: Llama) -> None:
    """Changes from elsewhere wait for the step that runs, and no text is another."""
    expected = llama.generate(PROMPT, **GREEDY).tokens
    found: list[tuple[int, ...]] = []

    def write() -> None:
        for _ in range(5):
            found.append(llama.generate(PROMPT, **GREEDY).tokens)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    number = 0
    while any(writer.is_alive() for writer in writers):
        number += 1
        llama.num_threads = 1 + number % 4
        if number % 3 == 0:
            llama.unload()
    assert set(found) == {expected} and len(found) == 10


def test_a_hook_cannot_pull_the_ground_away(llama: Llama) -> None:
    """In the middle of a step nothing is unloaded or restarted."""
    refused: list[str] = []

    def meddle(*_: object) -> None:
        for act in (llama.unload, lambda: setattr(llama, "num_threads", 1)):
            with pytest.raises(EdgellamaError) as error:
                act()
            refused.append(str(error.value))

    llama.add_hook(meddle)
    assert llama.generate(PROMPT, max_tokens=1).tokens
    assert refused and all("in the middle of" in text for text in refused)
    assert llama.num_threads == 2


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_low_priority_is_the_workers_alone(path: Path) -> None:
    """Workers give way, whoever waits does not, and normal priority comes back."""
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with Llama(path, num_threads=2, low_priority=True) as llama:

        def worker_niceness() -> int:
            (worker,) = llama._engine._machine.team.worker_ids
            return os.getpriority(os.PRIO_PROCESS, worker)

        assert llama.low_priority and worker_niceness() == max(own, 10)
        assert llama.generate(PROMPT, **GREEDY).tokens
        llama.low_priority = False
        assert worker_niceness() == own
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_who_awaits_gives_way_altogether(path: Path) -> None:
    """With low priority no thread that computes for an event loop has the normal one."""
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with Llama(path, num_threads=1, low_priority=True) as llama:
        seen: list[int] = []
        llama.add_hook(lambda *_: seen.append(os.getpriority(os.PRIO_PROCESS, 0)))
        asyncio.run(llama.generate_async(PROMPT, max_tokens=1))
        assert set(seen) == {max(own, 10)}
        seen.clear()
        llama.generate(PROMPT, max_tokens=1)
        llama.low_priority = False
        asyncio.run(llama.generate_async(PROMPT, max_tokens=1))
        assert set(seen) == {own}


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_threads", 0), ("num_threads", 257), ("num_threads", True), ("idle_seconds", 0)],
)
def test_impossible_values(llama: Llama, name: str, value: Any) -> None:
    """What cannot be is refused, and nothing changes."""
    before = getattr(llama, name)
    with pytest.raises(InvalidOptionError, match="allowed: "):
        setattr(llama, name, value)
    assert getattr(llama, name) == before
    assert llama.generate(PROMPT, **GREEDY).tokens
