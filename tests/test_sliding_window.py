"""Models with a sliding window: told once where a context exceeds it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from conftest import CliRunner
from gguf import GGUFReader
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.convert import convert


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of 256 tokens of context with a window of 8."""
    plain = write_tiny_llama(tmp_path / "plain.gguf", TinyLlama())
    metadata = {"llama.attention.sliding_window": 8}
    return convert(plain, tmp_path / "window.gguf", type="f32", metadata=metadata).path


def test_a_context_beyond_the_window_is_told_once(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning a model, however many sessions; none where no context exceeds the window."""
    with caplog.at_level(logging.WARNING, "edgellama"), Llama(model) as llama:
        assert llama.config.sliding_window == 8
        with llama.session(context_length=8):
            pass
        assert not caplog.records
        for _ in range(2):
            llama.generate("abc", max_tokens=1)
    assert ["sliding window of 8 tokens" in record.message for record in caplog.records] == [True]


def test_a_context_beyond_the_window_is_told_on_the_command_line(
    model: Path, run_cli: CliRunner
) -> None:
    """The line names the window and the option; with that option it is gone."""
    generate = ("generate", model, "-p", "a", "-n", "1")
    told = run_cli(*generate).stderr
    assert "sliding window of 8 tokens" in told and "-c" in told
    assert "window" not in run_cli(*generate, "-c", "8").stderr
    assert "llama.attention.sliding_window" in GGUFReader(model).fields
