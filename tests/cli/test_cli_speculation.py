"""--speculation and --draft of commands that run a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reference.tiny_models import TinyLlama, write_tiny_llama

MODEL = TinyLlama()
GREEDY = ("-p", "la la la la la la", "-n", "100", "--temperature", "0", "--json")


def test_drafts_change_no_text(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    """A draft model and no guesses at all give the same tokens; figures tell of the guesses."""
    model = write_tiny_llama(tmp_path / "model.gguf", MODEL)
    answers = []
    for options in (("--speculation", "off"), ("--draft", str(model))):
        result = run_cli("generate", str(model), *GREEDY, *options)
        assert result.returncode == 0, result.stderr
        answers.append(json.loads(result.stdout))
    assert answers[0]["tokens"] == answers[1]["tokens"]
    assert answers[0]["drafted_tokens"] == 0
    assert 0 <= answers[1]["accepted_tokens"] <= answers[1]["drafted_tokens"]


def test_a_draft_of_another_vocabulary_is_one_line(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Its first difference is named, and the command fails without a traceback."""
    model = write_tiny_llama(tmp_path / "model.gguf", MODEL)
    other = write_tiny_llama(tmp_path / "other.gguf", TinyLlama(vocab_size=300))
    result = run_cli("generate", str(model), *GREEDY, "--draft", str(other))
    assert result.returncode == 1 and result.stdout == ""
    assert "the draft model has another vocabulary: it has 300 tokens" in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
