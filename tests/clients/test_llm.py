"""simonw's llm, as people use it: in a terminal, with a file of models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.conftest import Served


@pytest.mark.parametrize("arguments", [[], ["--no-stream"]])
def test_a_prompt_in_the_terminal(served: Served, tmp_path: Path, arguments: list[str]) -> None:
    """With and without a stream there is a text and its usage."""
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        "- model_id: edge\n  model_name: smollm2\n"
        f'  api_base: "{served.openai_url}"\n  api_key_name: edge\n'
    )
    command = [sys.executable, "-m", "llm", "-m", "edge", "--key", served.key, "-u"]
    result = subprocess.run(
        [*command, *arguments, "-o", "max_tokens", "12", "Name a colour."],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() and "Token usage" in result.stderr
