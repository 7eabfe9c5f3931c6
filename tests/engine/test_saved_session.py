"""Sessions in files: the same bits go on, what does not fit is refused, nothing is half written."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import ContextLengthError, EdgellamaError, Llama, Session, SessionFileError
from edgellama.engine.engine import Engine
from edgellama.engine.saved import saved_header
from edgellama.engine.saved.saved_header import read_head, write_head
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.kernels_cpu.machine.cpu import available_tiers
from edgellama.quant.gguf.file import GGUFFile

GREEDY: Any = {"temperature": 0, "max_tokens": 8}
TEXT = [3 + number % 200 for number in range(300)]
ANY_EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's file."""
    folder = tmp_path_factory.mktemp("saved")
    return write_tiny_llama(folder / "tiny.gguf", TinyLlama(context_length=1024))


@pytest.fixture(scope="module")
def llama(model: Path) -> Iterator[Llama]:
    """An exact model that keeps no pages of earlier texts."""
    with Llama(model, num_threads=2, exact=True, cache_limit=0) as llama:
        yield llama


@pytest.fixture(scope="module")
def saved(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved session of three pages, the last of them with 44 positions."""
    path = tmp_path_factory.mktemp("sessions") / "three.session"
    with llama.session() as session:
        read(session, TEXT)
        session.save(path)
    return path


def read(session: Session, tokens: list[int]) -> None:
    """Let a session hold these tokens, no more."""
    session.generate(tokens, max_tokens=1, temperature=0)
    assert list(session.tokens) == tokens


def go_on(session: Session) -> tuple[int, ...]:
    """What follows the session's tokens and a few more."""
    return session.generate([*session.tokens, 7, 8, 9], **GREEDY).tokens


@functools.cache
def expected(llama: Llama, num_tokens: int) -> tuple[int, ...]:
    """What follows the beginning of the text in a session that has computed it."""
    with llama.session() as session:
        return session.generate([*TEXT[:num_tokens], 7, 8, 9], **GREEDY).tokens


@pytest.mark.parametrize("kv_type", ["f16", "f32", "bf16/q4_0"])
@pytest.mark.parametrize("num_tokens", [1, 127, 128, 300])
def test_round_trip(model: Path, tmp_path: Path, kv_type: str, num_tokens: int) -> None:
    """What is loaded goes on with the same bits, and computes nothing again."""
    path = tmp_path / "a.session"
    with Llama(model, num_threads=1, exact=True, cache_limit=0, kv_type=kv_type) as llama:
        engine, maker = llama._engine, llama._engine.cache_maker
        with llama.session() as session:
            read(session, TEXT[:num_tokens])
            session.save(path)
            before = engine.forward([7, 8, 9], session._cache, logits="all")
        written = hashlib.sha256(path.read_bytes()).digest()
        with llama.load_session(path, verify=True) as session:
            assert list(session.tokens) == TEXT[:num_tokens]
            after = engine.forward([7, 8, 9], session._cache, logits="all")
        assert before.tobytes() == after.tobytes()
        assert hashlib.sha256(path.read_bytes()).digest() == written
        assert engine.pool().num_owned == 0
        assert maker.is_exact


@pytest.mark.slow
@pytest.mark.parametrize(
    "tiers",
    [
        ("amx", "avx512vnni"),
        ("avx512vnni", "amx"),
        ("sse4", "generic"),
        ("generic", "sse4"),
    ],
)
def test_tiers_that_round_alike(tmp_path: Path, tiers: tuple[str, str]) -> None:
    """What a tier has saved goes on with the same bits on another one of the same arithmetic."""
    if missing := set(tiers) - {tier.name for tier in available_tiers()}:
        pytest.skip(f"this processor has no {', '.join(missing)}")
    path, sessions = tmp_path / "tiny.gguf", tmp_path / "a.session"
    write_tiny_llama(path, TinyLlama(context_length=1024, weight_format="Q4_0"))
    results = []
    for tier in tiers:
        with GGUFFile(path) as file, Engine(file, num_threads=2, exact=True, tier=tier) as engine:
            cache = engine.new_cache()
            if sessions.exists():
                engine.load_saved(sessions, cache)
            else:
                engine.forward(TEXT, cache)
                engine.save(sessions, cache)
            results.append(engine.forward(TEXT[:50], cache, logits="all").tobytes())
    assert results[0] == results[1]


def test_loaded_sessions_are_apart(llama: Llama, saved: Path) -> None:
    """Sessions of one file, their forks and what is saved of them do not see each other."""
    with llama.load_session(saved) as first, llama.load_session(saved) as second:
        text = go_on(first)
        assert text == expected(llama, 300)
        fork = second.fork()
        assert go_on(second) == text
        assert list(fork.tokens) == TEXT
        fork.save(saved)
        assert go_on(fork) == text
    with llama.load_session(saved, verify=True) as session:
        assert go_on(session) == text


def test_loaded_pages_are_found_by_others(model: Path, saved: Path) -> None:
    """Whole pages of a file are found by sessions that begin alike, also when it is closed."""
    with Llama(model, num_threads=2, exact=True, cache_limit=1 << 26) as llama:
        llama.load_session(saved).close()
        assert llama.cached_bytes == 2 * llama._engine.pool().layout.page_bytes
        result = llama.generate([*TEXT, 7, 8, 9], **GREEDY)
        assert result.statistics.prefilled_tokens == 300 + 3 - 2 * PAGE_POSITIONS
        assert result.tokens == expected(llama, 300)
        llama.cache_limit = 0
        assert llama.cached_bytes == 0


def test_a_session_takes_what_was_saved(llama: Llama, saved: Path, tmp_path: Path) -> None:
    """A file takes the place of what a session holds; one that does not fit changes nothing."""
    with llama.session() as session:
        read(session, TEXT[100:200])
        (tmp_path / "other").write_bytes(b"something else")
        with pytest.raises(SessionFileError):
            session.load(tmp_path / "other")
        assert list(session.tokens) == TEXT[100:200]
        session.load(saved)
        assert go_on(session) == expected(llama, 300)


def test_a_window_is_saved_alone(tmp_path: Path) -> None:
    """Of a model with a window the pages that it still sees are saved, and go on."""
    shape = TinyLlama(context_length=2048, sliding_window=150)
    path = write_tiny_llama(tmp_path / "window.gguf", shape)
    with Llama(path, num_threads=2, exact=True) as llama:
        with llama.session() as session:
            tokens = [*TEXT, *TEXT, *TEXT]
            read(session, tokens)
            session.save(tmp_path / "a.session")
            text = go_on(session)
        page_bytes = llama._engine.pool().layout.page_bytes
        assert (tmp_path / "a.session").stat().st_size < 5 * max(page_bytes, 1 << 16)
        with llama.load_session(tmp_path / "a.session", verify=True) as session:
            assert len(session.tokens) == 900
            assert go_on(session) == text


@ANY_EXAMPLES
@given(share=st.floats(0, 1))
def test_cut_anywhere(llama: Llama, saved: Path, tmp_path: Path, share: float) -> None:
    """A file that is cut off goes on from its last whole page, or is refused; never a crash."""
    data = saved.read_bytes()
    cut = tmp_path / "cut.session"
    cut.write_bytes(data[: int(share * len(data))])
    try:
        session = llama.load_session(cut, verify=True)
    except SessionFileError as error:
        assert str(cut) in str(error)
        assert "\n" not in str(error)
        return
    with session:
        length = len(session.tokens)
        assert length == 300 or length % PAGE_POSITIONS == 0
        assert list(session.tokens) == TEXT[:length]
        assert go_on(session) == expected(llama, length)


@pytest.mark.parametrize("num_pages", [1, 2])
def test_a_cut_file_is_used_with_a_warning(
    llama: Llama, saved: Path, tmp_path: Path, num_pages: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole pages before the cut are used, which is said."""
    with saved.open("rb") as file:
        places = read_head(file, saved, saved.stat().st_size)
    cut = tmp_path / "cut.session"
    cut.write_bytes(saved.read_bytes()[: places.page_offset(num_pages)])
    with llama.load_session(cut) as session:
        assert list(session.tokens) == TEXT[: num_pages * PAGE_POSITIONS]
    assert f"{num_pages * PAGE_POSITIONS} of its 300 tokens can be used" in caplog.text


@ANY_EXAMPLES
@given(data=st.data())
def test_flipped_bits_are_found(llama: Llama, saved: Path, tmp_path: Path, data: Any) -> None:
    """A flipped bit of header or tokens is always found, one of keys and values when asked."""
    content = bytearray(saved.read_bytes())
    with saved.open("rb") as file:
        places = read_head(file, saved, len(content))
        head_bytes = file.tell()
    in_pages = data.draw(st.booleans())
    first, last = 0, head_bytes - 1
    if in_pages:
        page = data.draw(st.integers(0, 2))
        first = places.page_offset(page)
        last = first + places.header.page_bytes - 1
    place = data.draw(st.integers(first, last))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    flipped = tmp_path / "flipped.session"
    flipped.write_bytes(content)
    with pytest.raises(SessionFileError):
        llama.load_session(flipped, verify=in_pages)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "0" * 32}, "another model"),
        ({"first_layer": 1}, "other layers"),
        ({"num_layers": 1}, "another number of layers"),
        ({"num_heads": 1 << 40}, "another number of heads"),
        ({"head_size": 0}, "heads of another size"),
        ({"origin": "ff"}, "other adapters"),
        ({"kv_type": "q8_0"}, "load the model with kv_type"),
        ({"kv_type": "\x1b[31m"}, "KV type"),
        ({"arithmetic": "fast avx2"}, "exact"),
        ({"lanes": 3}, "lanes"),
        ({"lanes": 0}, "lanes"),
        ({"page_bytes": 1}, "pages of 1 bytes"),
        ({"page_bytes": 0}, "damaged"),
        ({"page_bytes": 1 << 40}, "pages of"),
        ({"num_tokens": 0}, "0 tokens"),
        ({"num_tokens": 1 << 39}, "ends within"),
        ({"num_tokens": -1}, "num_tokens is -1"),
        ({"num_tokens": True}, "num_tokens is True"),
        ({"num_tokens": 1e9}, "num_tokens is"),
        ({"first_page": 1}, "ends before"),
        ({"first_page": 3}, "damaged"),
        ({"model": ["a"]}, "model is of type list"),
    ],
)
def test_hostile_headers(
    llama: Llama, saved: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Impossible headers, their checksums right, are refused in one line that says why."""
    with pytest.raises(SessionFileError, match=words) as caught:
        llama.load_session(rewritten(saved, tmp_path, changes=changes))
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


@pytest.mark.parametrize("token", [-1, 288, 2**31 - 1])
def test_tokens_out_of_range(llama: Llama, saved: Path, tmp_path: Path, token: int) -> None:
    """Tokens that the model does not have are refused."""
    path = rewritten(saved, tmp_path, tokens=[*TEXT[:299], token])
    with pytest.raises(SessionFileError, match=f"{token}; allowed: 0 to 287|from {token} to"):
        llama.load_session(path)


def rewritten(
    saved: Path, folder: Path, changes: dict[str, Any] | None = None, tokens: Any = None
) -> Path:
    """The file with another header or other tokens, and a checksum that fits them."""
    path = folder / "rewritten.session"
    path.write_bytes(saved.read_bytes())
    with path.open("r+b") as file:
        places = read_head(file, path, path.stat().st_size)
        header = dataclasses.replace(places.header, **(changes or {}))
        sums = places.sums.tolist()[header.first_page :]
        write_head(file, header, tokens or places.tokens, sums)
    return path


@pytest.mark.parametrize(
    "content",
    [b"", b"EDGELLAMASESSION", b"GGUF" + bytes(100), saved_header.MAGIC + b"\xff" * 100],
)
def test_foreign_files(llama: Llama, tmp_path: Path, content: bytes) -> None:
    """Anything else is refused by its first bytes."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SessionFileError, match=r"x: (no saved session|version \d+)"):
        llama.load_session(tmp_path / "x")


def test_no_regular_file(llama: Llama, tmp_path: Path) -> None:
    """Folders and pipes are refused without waiting, an absent file is told on a plain line."""
    with pytest.raises(SessionFileError, match="not a regular file"):
        llama.load_session(tmp_path)
    with pytest.raises(SessionFileError, match=r"absent: no such file$"):
        llama.load_session(tmp_path / "absent")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(SessionFileError, match="not a regular file"):
            llama.load_session(tmp_path / "pipe")


def test_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    """Other weights of the same shape are another model; another name and template are not."""
    other = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(context_length=1024, seed=1))
    same = write_tiny_llama(
        tmp_path / "same.gguf", TinyLlama(context_length=1024, chat_template=None)
    )
    with Llama(other, num_threads=1) as llama, pytest.raises(SessionFileError, match="another"):
        llama.load_session(saved)
    with Llama(same, num_threads=1) as llama, llama.load_session(saved) as session:
        assert list(session.tokens) == TEXT


def test_more_tokens_than_the_context(llama: Llama, saved: Path) -> None:
    """A session that does not fit the context is refused with both counts."""
    with pytest.raises(ContextLengthError, match="300 tokens, the context 299; raise context"):
        llama.load_session(saved, context_length=299)
    with llama.load_session(saved, context_length=300) as session:
        assert len(session.tokens) == 300


def test_when_a_session_cannot_be_saved(llama: Llama, tmp_path: Path) -> None:
    """Empty, running and closed sessions are refused, and nothing is left behind."""
    with llama.session() as session:
        with pytest.raises(SessionFileError, match="no tokens"):
            session.save(tmp_path / "a")
        with session.stream(TEXT, **GREEDY) as stream:
            next(stream)
            with pytest.raises(EdgellamaError, match="in use"):
                session.save(tmp_path / "a")
            with pytest.raises(EdgellamaError, match="in use"):
                session.load(tmp_path / "a")
        with pytest.raises(FileNotFoundError) as caught:
            session.save(tmp_path / "none" / "a")
        assert caught.value.filename == str(tmp_path / "none" / "a")

        def fail(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.save(tmp_path / "a", progress=fail)
    with pytest.raises(EdgellamaError, match="closed"):
        session.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


KILLED_WHILE_SAVING = """
import os, signal, sys
from edgellama import Llama
model, path = sys.argv[1:]
with Llama(model, num_threads=1) as llama, llama.session() as session:
    session.generate([5] * 600, max_tokens=1)
    session.save(path, progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_killed_while_saving(model: Path, llama: Llama, saved: Path) -> None:
    """A process that is killed in the middle of saving leaves the old file whole."""
    before = saved.read_bytes()
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(model), str(saved)]
    result = subprocess.run(command, check=False, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert saved.read_bytes() == before
    with llama.load_session(saved, verify=True) as session:
        assert list(session.tokens) == TEXT
