"""``edgellama rerank`` in a real process: what the library gives, as lines."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import CliRunner

from edgellama import Llama

DOCUMENTS = ["a stone", "a bat  can fly", "tables"]


def test_documents_come_in_the_order_of_their_scores(run_cli: CliRunner, tiny_path: Path) -> None:
    """As arguments, as lines with ids, and cut to the best; for people with a score each."""
    with Llama(tiny_path, exact=True) as llama:
        expected = llama.rerank("fly?", DOCUMENTS, prompt="{query}{document}")
    arguments = ("--exact", "--prompt", "{query}{document}")
    result = run_cli("rerank", tiny_path, "fly?", *DOCUMENTS, *arguments, "--top", "2")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        f"{each.score:.4f}  {' '.join(each.document.split())}" for each in expected[:2]
    ]
    lines = "\n".join(json.dumps({"id": text[:3], "text": text}) for text in DOCUMENTS)
    result = run_cli("rerank", tiny_path, "fly?", *arguments, "--json", text_input=lines)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["id"] for each in found] == [each.document[:3] for each in expected]
    assert [each["score"] for each in found] == [each.score for each in expected]


def test_documents_that_cannot_be_ranked(run_cli: CliRunner, tiny_path: Path) -> None:
    """A document that is too long, or none, is one line that says what helps."""
    long = "many words " * 50
    result = run_cli("rerank", tiny_path, "fly?", "a bat", long)
    assert (result.returncode, result.stdout) == (1, "")
    message = result.stderr.splitlines()[-1]
    assert "the prompt of document 1 has" in message
    assert message.endswith("raise --context, or let --truncate drop ends of documents")
    assert run_cli("rerank", tiny_path, "fly?", "-f", "-", text_input="\n").stdout == ""
