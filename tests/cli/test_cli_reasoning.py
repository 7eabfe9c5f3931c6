"""Commands with a model that thinks: dimmed on a terminal, never in a pipe, left out on demand."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import CliRunner, keep_kernels
from harness.pseudo_terminal import LINE_WRAPPING, PROMPT, Terminal, chat_environment
from harness.screen import Screen
from reference.thinking_model import ANSWER, THOUGHT, write_thinking_model

from edgellama.cli.chat import reply_view, thoughts
from edgellama.cli.chat.markdown import MarkdownRenderer
from edgellama.cli.chat.painter import Painter
from edgellama.cli.chat.reply_view import RenderedReply
from edgellama.cli.output.streaming import speed_line
from edgellama.cli.output.terminal import DimText
from edgellama.generation.results import Generation, Statistics

ASKED = ("--chat", "-p", "What is 2 + 2?", "--temperature", "0")
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks."""
    return write_thinking_model(tmp_path_factory.mktemp("models") / "thinker.gguf")


def test_thinking_never_goes_into_a_pipe(run_cli: CliRunner, thinker: Path) -> None:
    """Standard output has the answer alone, standard error the figures alone; JSON has both."""
    plain = run_cli("generate", thinker, *ASKED)
    assert (plain.stdout, plain.returncode) == (ANSWER + "\n", 0)
    assert THOUGHT not in plain.stderr
    found = json.loads(run_cli("generate", thinker, *ASKED, "--json").stdout)
    assert (found["text"], found["reasoning"]) == (ANSWER, THOUGHT)
    assert 0 < found["reasoning_tokens"] < len(found["tokens"])
    quick = json.loads(run_cli("generate", thinker, *ASKED, "--json", "--no-think").stdout)
    assert quick["text"] == ANSWER and not {"reasoning", "reasoning_tokens"} & {*quick}
    limited = json.loads(
        run_cli("generate", thinker, *ASKED, "--json", "--max-thinking", "1").stdout
    )
    assert (limited["text"], limited["reasoning"]) == (ANSWER, "Easy")
    chat = run_cli("chat", thinker, "--temperature", "0", text_input="2 + 2?\nSure?\n")
    assert chat.stdout == f"{ANSWER}\n{ANSWER}\n"
    refused = run_cli("generate", thinker, "-p", "x", "--no-think")
    assert refused.returncode == 2 and "need --chat" in refused.stderr


def test_batches_tell_thinking_apart(run_cli: CliRunner, thinker: Path, tmp_path: Path) -> None:
    """A line of a batch has it beside the text."""
    prompts, texts = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "2 + 2?"}\n{"prompt": "2 + 2?", "reasoning": false}\n')
    arguments = ("--chat", "--temperature", "0")
    result = run_cli("batch", thinker, prompts, texts, *arguments)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in texts.read_text("utf-8").splitlines()]
    lines.sort(key=lambda line: line["id"])
    assert [(line["text"], line.get("reasoning")) for line in lines] == [
        (ANSWER, THOUGHT),
        (ANSWER, None),
    ]


@pytest.mark.parametrize(
    ("option", "thoughts"),
    [("--no-think", [None, THOUGHT]), ("--max-thinking=1", ["Easy", THOUGHT])],
)
def test_batches_switch_thinking(
    run_cli: CliRunner, thinker: Path, tmp_path: Path, option: str, thoughts: list[str | None]
) -> None:
    """By options of the command, which a line may overrule."""
    prompts, texts = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    own = '"reasoning": true, "max_reasoning_tokens": null'
    prompts.write_text(f'{{"prompt": "2 + 2?"}}\n{{"prompt": "2 + 2?", {own}}}\n')
    result = run_cli("batch", thinker, prompts, texts, "--chat", "--temperature", "0", option)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in texts.read_text("utf-8").splitlines()]
    lines.sort(key=lambda line: line["id"])
    assert [line.get("reasoning") for line in lines] == thoughts
    assert {line["text"] for line in lines} == {ANSWER}


def dimmed(output: bytes) -> str:
    """All that was written in the dim style."""
    return "".join(re.findall(r"\x1b\[2m(.*?)\x1b\[0m", output.decode(), re.DOTALL))


@needs_terminal
def test_a_chat_shows_thinking_dimmed(thinker: Path, tmp_path: Path) -> None:
    """Above the answer, until it is switched off or hidden, which commands do, too."""
    environment = {
        **chat_environment(thinker, tmp_path),
        "EDGELLAMA_CACHE": str(keep_kernels(tmp_path / "cache")),
    }
    terminal = Terminal([str(thinker), "--temperature", "0"], environment)
    at = terminal.wait_for(PROMPT, after=0)
    for typed, thinks in [
        ("What?", True),
        ("/think hide", None),
        ("What?", False),
        ("/think show", None),
        ("What?", True),
        ("/think off", None),
        ("What?", False),
    ]:
        terminal.type(f"{typed}\r")
        start = at
        if thinks is not None:
            at = terminal.wait_for(ANSWER.encode(), after=at)
            at = terminal.wait_for(b"tokens", after=at)
            shown = LINE_WRAPPING.sub(b"", terminal.output[start:at])
            assert ("Easy" in dimmed(shown)) is thinks
        at = terminal.wait_for(PROMPT, after=at)
    terminal.type("/bye\r")
    assert terminal.exit_code() == 0
    hidden = Terminal([str(thinker), "--temperature", "0", "--hide-thinking"], environment)
    at = hidden.wait_for(PROMPT, after=0)
    hidden.type("What?\r")
    hidden.wait_for(ANSWER.encode(), after=at)
    assert b"Easy" not in hidden.output
    hidden.type("\x04")


def test_painted_thoughts_stand_above_the_reply() -> None:
    """Wrapped, however they are cut, with an empty line between both."""
    thought = "It is about llamas and nothing else, I think.\n\nSo be it."
    for size in (1, 3, 100):
        screen = Screen(20, 100)
        view = RenderedReply(Painter(screen, screen.size), MarkdownRenderer(None))
        for start in range(0, len(thought), size):
            view.think(thought[start : start + size])
            view.idle(0, 0)
        for piece in ("", "Four", "."):
            view.add(piece)
        view.end()
        lines = screen.lines()
        assert lines[-2:] == ["", "Four."]
        assert " ".join("\n".join(lines[:-2]).split()) == " ".join(thought.split())
        assert "" in lines[:-2]


def test_thinking_stays_painted_while_no_text_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk of thinking has an empty text, which wipes nothing of the last line."""
    seconds = itertools.count(1.0)
    for module in (thoughts, reply_view):
        monkeypatch.setattr(module, "monotonic", lambda: next(seconds))
    screen = Screen(40, 20)
    view = RenderedReply(Painter(screen, screen.size), MarkdownRenderer(None))
    thought = ""
    for piece in ("Two", " and", " two."):
        view.think(piece)
        view.add("")
        thought += piece
        assert screen.lines() == [thought]
    view.add("Four.")
    assert screen.lines() == [thought, "", "Four."]


def test_a_reply_without_tokens_tells_no_guesses() -> None:
    """There were none to be right."""
    result = Generation("", (), 3, "length", Statistics(3, 3, 0, 0.1, 0.0, 0.1))
    assert "guesses" not in speed_line(result)


@pytest.fixture
def no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who wants no colours."""
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("no_colour")
def test_without_colours_a_word_tells_what_is_thought() -> None:
    """It begins the paragraph, which ends once."""
    screen = Screen(40, 20)
    shown = DimText(screen, "thinking")
    shown.end()
    shown.add("Ea\x1bsy")
    shown.add(": four")
    shown.end()
    shown.end()
    assert screen.lines()[0] == "thinking: Ea\N{REPLACEMENT CHARACTER}sy: four"
