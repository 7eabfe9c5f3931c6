"""The slash commands of the chat, on a tiny model, without a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.thinking_model import write_thinking_model
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cli.chat.chat import Chat, ChatSettings, show_dim
from edgellama.cli.chat.commands import ALIASES, COMMANDS, run_command
from edgellama.cli.chat.completion import chat_completer
from edgellama.cli.chat.reply_view import PlainReply
from edgellama.cli.chat.settings import OPTION_NAMES
from edgellama.cli.chat.state_rows import SHOW_TOPICS
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.sampling.options import SamplingArguments


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's file."""
    return write_tiny_llama(tmp_path_factory.mktemp("chat") / "tiny.gguf", TinyLlama())


@pytest.fixture
def chat(model: Path) -> Iterator[Chat]:
    """A chat with one turn in it."""
    settings = ChatSettings(system="be kind", reply={"max_tokens": 4, "top_k": 1})
    with Chat(model, settings, lambda: PlainReply(io.StringIO())) as chat:
        chat.answer("hello")
        yield chat


@pytest.fixture
def thinking_chat(tmp_path: Path) -> Iterator[Chat]:
    """A chat with a model that can think."""
    path = write_thinking_model(tmp_path / "thinker.gguf")
    with Chat(path, ChatSettings(), lambda: PlainReply(io.StringIO())) as chat:
        yield chat


@pytest.mark.parametrize("line", ["hello", "/usr/bin is a folder", "/tmp", " /bye", "a /bye", ""])
def test_what_is_no_command(chat: Chat, line: str) -> None:
    """Text that does not begin with a command's name is a message."""
    assert run_command(chat, line) is None


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("/hlep", "/help"),
        ("/sav x", "/save"),
        ("/Bye", "/bye"),
        ("/quti", "/quit"),
        ("/sets", "/set"),
        ("/SET temp 1", "/set"),
    ],
)
def test_slips_are_told(chat: Chat, line: str, meant: str) -> None:
    """A name that is nearly a command's is not sent to the model."""
    with pytest.raises(InvalidOptionError, match=f"did you mean {meant}\\?"):
        run_command(chat, line)


@pytest.mark.parametrize("line", ["/clear all", "/help set", "/exit strategy", "/regen 2"])
def test_more_than_a_command_takes(chat: Chat, line: str) -> None:
    """What stands behind a command that takes nothing is told, and the command does nothing."""
    before = list(chat.conversation.messages)
    with pytest.raises(InvalidOptionError, match=r"takes nothing more, not '.*Put a message that"):
        run_command(chat, line)
    assert chat.conversation.messages == before


def test_help_names_every_command(chat: Chat) -> None:
    """It fits 80 columns, /? gives the same, and every command is in it."""
    text = run_command(chat, "/help")
    assert text is not None
    assert run_command(chat, "/?") == text
    assert all(f"\n{name} " in f"\n{text}" for name in COMMANDS)
    assert max(map(len, text.splitlines())) < 80


def test_thinking_is_set_back_to_the_default(thinking_chat: Chat) -> None:
    """As an unknown word tells, with all other words that there are."""
    chat = thinking_chat
    assert run_command(chat, "/think off") == "thinking is off, and shown"
    with pytest.raises(InvalidOptionError, match=r"'maybe'; allowed: .* show, hide or default"):
        run_command(chat, "/think maybe")
    assert run_command(chat, "/think default") == "thinking is auto, and shown"
    assert "reasoning" not in chat.given


def test_thinking_of_a_model_that_cannot(chat: Chat) -> None:
    """It is told, since nothing of a reply would show it."""
    told = "thinking is on, and shown, but this model cannot think"
    assert run_command(chat, "/think on") == told


@pytest.mark.parametrize("name", ["/bye", "/exit", "/quit"])
def test_leaving(chat: Chat, name: str) -> None:
    """Each of the names ends the chat."""
    assert ALIASES.get(name, name) == "/bye"
    with pytest.raises(EOFError):
        run_command(chat, name)


def test_every_sampling_option_can_be_set() -> None:
    """What SamplingOptions has, /set has."""
    others = {"max_tokens", "timeout", "reasoning", "max_reasoning_tokens", "stop", "banned"}
    assert set(OPTION_NAMES) == {*SamplingArguments.__annotations__, *others}


@pytest.mark.parametrize(
    ("typed", "name", "value", "shown"),
    [
        ("temp 0.25", "temperature", 0.25, "0.25"),
        ("--top-k 7", "top_k", 7, "7"),
        ("seed 3", "seed", 3, "3"),
        ("seed none", "seed", None, "none"),
        ("max_tokens none", "max_tokens", None, "none"),
        ("dry_breakers \\n ; END", "dry_breakers", ("\n", ";", "END"), "\\n ; END"),
        ("dry_breakers none", "dry_breakers", (), "none"),
        ("repeat_penalty 1.0", "repeat_penalty", 1.0, "1.0"),
        ("xtc-probability .5", "xtc_probability", 0.5, "0.5"),
        ("samplers top_k;temperature", "samplers", ("top_k", "temperature"), "top_k,temperature"),
        ("ignore_eos on", "ignore_eos", True, "on"),
        ("timeout 2.5", "timeout", 2.5, "2.5"),
        ("stop The end", "stop", ("The end",), '"The end"'),
        ("banned as an AI", "banned", ("as an AI",), '"as an AI"'),
        ('banned "as an AI"  "\\n\\n"', "banned", ("as an AI", "\n\n"), '"as an AI" "\\n\\n"'),
        ("banned none", "banned", (), "none"),
        (
            'logit_bias [[4, -1.5], ["a", false]]',
            "logit_bias",
            [(4, -1.5), ("a", False)],
            '[[4, -1.5], ["a", false]]',
        ),
    ],
)
def test_setting_options(chat: Chat, typed: str, name: str, value: Any, shown: str) -> None:
    """A value holds from the next reply on, until default takes it back."""
    before = chat.conversation.options
    assert run_command(chat, f"/set {typed}") == f"{name} is {shown}"
    assert chat.conversation.options.get(name, "missing") == value
    chat.answer("and now?")
    run_command(chat, f"/set {name} default")
    expected = {key: old for key, old in before.items() if key != name or key in DEFAULTS}
    assert chat.conversation.options == expected | {
        key: default for key, default in DEFAULTS.items() if key == name
    }


DEFAULTS = {"repeat_penalty": 1.1, "repeat_last_n": 256, "dry_multiplier": 0.8}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("temperature hot", "temperature is 'hot'; allowed: a number; default resets it"),
        ("top_k 1.5", "top_k is '1.5'; allowed: a whole number"),
        ("top_p 7", r"top_p is 7.0; allowed: "),
        ("max_tokens -1", "max_tokens is -1; allowed: "),
        ("timeout soon", "timeout is 'soon'; allowed: seconds or none; default resets it"),
        ("timeout 0", "timeout is 0.0; allowed: "),
        ('banned "one" two', "banned is .*; allowed: a text, or several in quotes"),
        ("temprature 1", "did you mean temperature"),
        ("tempp 1", "did you mean temperature"),
        ("colour red", "unknown option colour; allowed: temperature, "),
    ],
)
def test_wrong_options(chat: Chat, typed: str, message: str) -> None:
    """The error says what is allowed, and nothing changes."""
    before = chat.conversation.options
    with pytest.raises(InvalidOptionError, match=message):
        run_command(chat, f"/set {typed}")
    assert chat.conversation.options == before
    assert chat.given == {"max_tokens": 4, "top_k": 1}


def test_showing(chat: Chat) -> None:
    """/set alone and /show tell everything that holds; a topic tells of itself."""
    options = run_command(chat, "/set")
    assert options is not None
    rows, rest = options.split("\nAt their defaults: ")
    shown = [line.split()[0] for line in rows.splitlines()]
    assert {*shown, *rest.rstrip(".").split(", ")} == set(OPTION_NAMES)
    assert "top_k" in shown and "mirostat" in rest
    assert run_command(chat, "/set mirostat 2") == "mirostat is 2"
    assert "mirostat  " in (run_command(chat, "/set") or "").split("The rest")[0]
    everything = run_command(chat, "/show")
    assert everything is not None
    for text in (
        "top_k 1",
        "tiny.gguf",
        "peak memory",
        "prompt cache    0 of ",
        "when full       the oldest turns are left out",
    ):
        assert text in everything
    for topic in SHOW_TOPICS:
        assert run_command(chat, f"/show {topic}")
    assert run_command(chat, "/show template") == chat.conversation.template.source
    with pytest.raises(InvalidOptionError, match="model, options, template, memory"):
        run_command(chat, "/show nothing")


def test_a_cleared_conversation_takes_no_context(chat: Chat) -> None:
    """Behind /clear no tokens of the old conversation are counted, though they are kept."""
    assert "context         0 of" not in (run_command(chat, "/stats") or "")
    run_command(chat, "/clear")
    assert "context         0 of" in (run_command(chat, "/stats") or "")


def test_system_prompt(chat: Chat) -> None:
    """It is shown, set and cleared."""
    assert run_command(chat, "/system") == "system prompt: be kind"
    run_command(chat, "/system be brief\nand true")
    assert chat.conversation.system == "be brief\nand true"
    run_command(chat, "/system none")
    assert run_command(chat, "/system") == "no system prompt"
    assert chat.conversation.system is None


def test_undo(chat: Chat) -> None:
    """The last turn goes; without one there is an error."""
    assert run_command(chat, "/undo") == "taken back: hello"
    assert [message["role"] for message in chat.conversation.messages] == ["system"]
    with pytest.raises(EdgellamaError, match="no message to take back"):
        run_command(chat, "/undo")
    with pytest.raises(EdgellamaError, match="no message to take back"):
        run_command(chat, "/undo 2")
    for text in ("one", "two", "three"):
        chat.answer(text)
    for wrong in ("4", "0", "-1", "two"):
        with pytest.raises(InvalidOptionError, match=f"/undo '{wrong}'; allowed: .*, 1 to 3"):
            run_command(chat, f"/undo {wrong}")
    assert run_command(chat, "/undo 2") == "taken back: two"
    assert [message["content"] for message in chat.conversation.messages[1::2]] == ["one"]


def test_loading_what_is_not_there(chat: Chat) -> None:
    """It is one plain line."""
    with pytest.raises(InvalidOptionError, match=r"^nothere: no such file$"):
        run_command(chat, "/load nothere")


def test_saving_asks(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ is the home; a file that is there is overwritten only after a yes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    file = tmp_path / "talk.json"
    assert run_command(chat, "/save ~/talk.json") == f"saved to {file}"
    saved = file.read_text("utf-8")
    run_command(chat, "/clear")
    for answer, text in (("", "nothing was saved"), ("no", "nothing was saved")):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert run_command(chat, "/save ~/talk.json") == text
        assert file.read_text("utf-8") == saved
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run_command(chat, f'/save "{file}"') == f"saved to {file}"
    assert file.read_text("utf-8") != saved
    with pytest.raises(InvalidOptionError, match="is a folder; give the name of a file"):
        run_command(chat, "/save ~")
    with pytest.raises(InvalidOptionError, match="needs a file name"):
        run_command(chat, '/save ""')
    file.write_text(saved, "utf-8")
    assert run_command(chat, "/load ~/talk.json") == f"loaded 3 messages from {file}"


def test_a_path_is_shown_in_one_piece(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are wrapped by words below their column; a word that is longer stays whole."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "30")
    show_dim(f"file    /{'a' * 40}\nuse     one two three four five six")
    assert capsys.readouterr().err == (
        f"file    /{'a' * 40}\nuse     one two three four\n        five six\n"
    )


def test_another_model(chat: Chat, tmp_path: Path) -> None:
    """The conversation and what was set go on with it; where it fails, the old one stays."""
    other = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(context_length=512))
    run_command(chat, "/set top_k 2")
    before = list(chat.conversation.messages)
    assert "other.gguf" in str(run_command(chat, f"/model {other}"))
    assert chat.conversation.messages == before
    assert chat.conversation.options["top_k"] == 2
    assert chat.llama.context_length == 512
    chat.answer("go on")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    for path in (tmp_path / "nothing.gguf", broken):
        with pytest.raises(EdgellamaError):
            run_command(chat, f"/model {path}")
    chat.answer("still there?")
    assert "other.gguf" in str(run_command(chat, "/model"))


def test_completion(tmp_path: Path) -> None:
    """Commands, their arguments and files are completed, and nothing within a message."""
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    (tmp_path / "talk.json").touch()
    completer = chat_completer(
        list(COMMANDS),
        {"/set": lambda _: [f"{name} " for name in OPTION_NAMES]},
        ("/save", "/load"),
    )

    def completed(typed: str) -> list[str]:
        found = completer.get_completions(Document(typed), CompleteEvent())
        return [typed[: len(typed) + one.start_position] + one.text for one in found]

    assert completed("/s") == ["/set", "/show", "/system", "/save", "/stats"]
    assert completed("/set top_") == ["/set top_k ", "/set top_p ", "/set top_n_sigma "]
    assert completed(f"/load {tmp_path}/ta") == [f"/load {tmp_path}/talk.json"]
    assert completed("hello /s") == completed("/undo x") == completed("hello") == []
