"""``chat --resume NAME``: a conversation goes on where it was, whatever became of its files."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner, keep_kernels
from hypothesis import given
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.chat.chat import Chat, ChatSettings
from edgellama.cli.chat.commands import run_command
from edgellama.cli.chat.reply_view import PlainReply
from edgellama.cli.inputs.kept import KeptConversation, kept_names, model_of
from edgellama.generation.chat.turns import PromptTokens, Turn, turn_as_json, turn_from_json
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, ModelNotFoundError

SETTINGS = ChatSettings(
    system="be kind",
    engine={"exact": True, "num_threads": 1, "cache_limit": 0},
    reply={"max_tokens": 20, "temperature": 0},
)
KEPT = KeptConversation("holidays")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for some turns."""
    folder = tmp_path_factory.mktemp("kept")
    return write_tiny_llama(folder / "tiny.gguf", TinyLlama(context_length=1024))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of a user who has nothing yet, but compiled kernels."""
    monkeypatch.setenv("EDGELLAMA_CACHE", str(keep_kernels(tmp_path / "cache")))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def chat_of(model: Path, kept: KeptConversation | None = KEPT, **changes: Any) -> Chat:
    """A chat without a terminal."""
    settings = ChatSettings(**{**vars(SETTINGS), **changes})
    return Chat(model, settings, lambda: PlainReply(io.StringIO()), kept)


def answer(chat: Chat, message: str) -> tuple[str, int]:
    """A reply, and how much of its prompt was computed."""
    chat.answer(message)
    assert chat.last_reply is not None
    return chat.last_reply.text, chat.last_reply.statistics.prefilled_tokens


def hold(model: Path, *messages: str) -> None:
    """A chat that is left."""
    with chat_of(model) as chat:
        chat.resume()
        for message in messages:
            chat.answer(message)


def unbroken(model: Path, *messages: str) -> tuple[str, int]:
    """The last reply of a chat that is not left between."""
    with chat_of(model, None) as chat:
        for message in messages[:-1]:
            chat.answer(message)
        return answer(chat, messages[-1])


def test_gone_on_at_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next reply is that of a chat that was never left, and computes no more than there."""
    hold(model, "one", "two")
    hold(model, "three")
    with chat_of(model, system=None) as chat:
        chat.resume()
        assert len(chat.conversation.messages) == 7
        assert answer(chat, "four") == unbroken(model, "one", "two", "three", "four")
    errors = capsys.readouterr().err
    assert "a new conversation, kept as holidays" in errors
    assert "continuing holidays, 7 messages" in errors
    assert "computes them again" not in errors


@pytest.mark.parametrize("content", [None, b"", b"EDGELLAMASESSION" + bytes(200)])
def test_without_what_was_computed(
    model: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its file, or with a damaged one, the same comes from the messages; a line says so."""
    hold(model, "one", "two")
    path = KEPT.session_path
    assert path is not None
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with chat_of(model) as chat:
        chat.resume()
        text, num_computed = answer(chat, "three")
    expected, usual = unbroken(model, "one", "two", "three")
    assert text == expected
    assert num_computed > usual
    assert "the next reply computes them again: " in capsys.readouterr().err
    with chat_of(model) as chat:
        chat.resume()
    assert "again" not in capsys.readouterr().err


def test_with_another_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages go on with any model, and are its own from then on."""
    other = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(context_length=1024, seed=5))
    hold(model, "one")
    assert model_of(KEPT) == str(model)
    hold(other, "two")
    assert "saved with another model" in capsys.readouterr().err
    assert model_of(KEPT) == str(other)
    hold(other, "three")
    assert "again" not in capsys.readouterr().err
    other.unlink()
    with pytest.raises(ModelNotFoundError, match=r"other\.gguf, which is not there any more"):
        model_of(KEPT)


def test_commands_are_kept(model: Path) -> None:
    """What /undo, /system, /clear and /keep do is there after the chat was left."""
    with chat_of(model, None) as chat:
        chat.answer("one")
        assert kept_names() == []
        assert "not kept" in (run_command(chat, "/keep") or "")
        shown = run_command(chat, "/keep my trip")
        assert shown == "kept as my trip: edgellama chat --resume 'my trip' continues it"
        chat.answer("two")
        run_command(chat, "/undo")
        run_command(chat, "/system be brief")
        chat.keep()
    assert kept_names() == ["my trip"]
    kept = KeptConversation("my trip")
    contents = [message["content"] for message in kept.read().messages]
    assert (contents[0], contents[1], len(contents)) == ("be brief", "one", 3)
    with chat_of(model, kept) as chat:
        chat.resume()
        run_command(chat, "/clear")
        chat.keep()
    assert [message["role"] for message in kept.read().messages] == ["system"]


def test_nothing_said_is_nothing_kept(model: Path) -> None:
    """A chat that is left at once leaves no conversation behind."""
    hold(model)
    assert kept_names() == []
    assert KEPT.session_path is None


def test_two_chats_at_once(model: Path) -> None:
    """A conversation that is open is refused, and free again afterwards."""
    with chat_of(model), pytest.raises(EdgellamaError, match="'holidays' is open in another chat"):
        chat_of(model)
    chat_of(model).close()


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", ".hidden", "-x", "a\0", "a\n", "x" * 101, "a "]
)
def test_names(name: str) -> None:
    """What could leave the folder, or be taken for an option, is no name."""
    with pytest.raises(InvalidOptionError, match="allowed: up to 100"):
        KeptConversation(name)


TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=9)


@given(written=TOKENS, computed=TOKENS, reply=TOKENS, text=st.text())
def test_turns_survive_json(
    written: list[int], computed: list[int], reply: list[int], text: str
) -> None:
    """A turn comes back as it was, for a model that has its tokens."""
    turn = Turn(PromptTokens(written, computed), reply, text)
    record = turn_as_json(turn)
    assert turn_from_json(record, 100) == turn
    assert turn_from_json(record, max(*written, *computed, *reply)) is None
    for name in record:
        assert turn_from_json({**record, name: 17}, 100) is None
        if name != "text":
            for wrong in ("=", "AAA=", "////", "ä", ""):
                assert turn_from_json({**record, name: wrong}, 100) is None


def test_list_clean_and_remove(run_cli: CliRunner, model: Path) -> None:
    """What is kept is listed, cleaned without its messages, and deleted by name."""
    assert "no conversations yet" in run_cli("list", "--chats").stderr
    hold(model, "one")
    (row,) = json.loads(run_cli("list", "--chats", "-o", "json").stdout)
    assert (row["name"], row["num_messages"], row["model"]) == ("holidays", 3, "tiny")
    assert row["size_bytes"] == KEPT.num_bytes > 10_000
    assert "| holidays |" in run_cli("list", "--chats").stdout
    cleaned = run_cli("clean", "chats", "--yes")
    assert cleaned.returncode == 0, cleaned.stderr
    assert KEPT.session_path is None
    assert KEPT.exists
    wrong = run_cli("rm", "--chats", "holidays", "mondays")
    assert wrong.returncode == 1
    assert "no conversation called 'mondays'; there are: holidays" in wrong.stderr
    assert run_cli("rm", "--chats", "holidays").returncode == 0
    assert kept_names() == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_killed_after_a_turn(run_cli: CliRunner, model: Path) -> None:
    """What was said is there after kill -9, and goes on in the same model without being named."""
    command = [sys.executable, "-m", "edgellama", "chat", str(model), "--resume", "holidays"]
    process = subprocess.Popen(
        [*command, "-n", "8"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    while b"tokens/s" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [message["role"] for message in KEPT.read().messages] == ["user", "assistant"]
    result = run_cli("chat", "--resume", "holidays", "-n", "8", text_input="and?\n")
    assert result.returncode == 0, result.stderr
    assert "continuing holidays, 2 messages" in result.stderr
    assert len(KEPT.read().messages) == 4
    KEPT.messages_path.write_text("{}")
    result = run_cli("chat", "--resume", "holidays", text_input="and?\n")
    assert result.returncode == 1
    (line_of_error,) = result.stderr.splitlines()
    assert "holidays.json: not a saved conversation" in line_of_error


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no conversation can be kept, the error names the folder, and on Linux the way out."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with (
        pytest.raises(EdgellamaError, match=r"no conversation can be kept in .*chats: ") as raised,
        KEPT.locked(),
    ):
        pass
    assert ("set XDG_DATA_HOME" in str(raised.value)) == (sys.platform == "linux")
