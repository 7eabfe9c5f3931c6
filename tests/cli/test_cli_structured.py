"""``edgellama generate`` and ``edgellama batch`` with schemas, grammars and choices."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import CliRunner

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def test_generate_by_schema(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """The text follows the schema of a file; --json has the object beside it."""
    file = tmp_path / "person.json"
    file.write_text(json.dumps({**SCHEMA, "additionalProperties": False}), "utf-8")
    options = ("--temperature", "0", "-n", "40", "-p", "Anna is 34.")
    done = run_cli("generate", smollm2_path, "--chat", "--json", "--schema", file, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result["parsed"]["age"], int)
    assert result["parsed"] == json.loads(result["text"])


def test_generate_by_grammar(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """A grammar's file is followed."""
    file = tmp_path / "list.gbnf"
    file.write_text('root ::= "- " [a-z]+ "."', "utf-8")
    listed = run_cli("generate", smollm2_path, "--grammar", file, "-n", "30", "-p", "A list:")
    assert listed.stdout.startswith("- ")


def test_mistakes_are_one_line(run_cli: CliRunner, smollm2_path: Path) -> None:
    """A wrong schema and a missing file give one line, no traceback, and exit code 1."""
    wrong = run_cli("generate", smollm2_path, "--schema", '{"not": {}}', "-p", "x")
    missing = run_cli("generate", smollm2_path, "--schema", "nothing.json", "-p", "x")
    assert [wrong.returncode, missing.returncode] == [1, 1]
    assert "the keyword 'not' is not supported" in wrong.stderr
    assert "nothing.json" in missing.stderr and "No such file" in missing.stderr
    assert not wrong.stdout and not missing.stdout


def test_batch_lines_with_forms(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """Each line may have its own form; one that cannot be kept to is that line's error."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"id": "a", "prompt": "Anna is 34.", "schema": SCHEMA},
        {"id": "b", "prompt": "Sky:", "choices": ["red", "blue"]},
        {"id": "c", "prompt": "x", "schema": {"not": {}}},
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    run_cli("batch", smollm2_path, source, target, "-n", "60")
    results = {line["id"]: line for line in map(json.loads, target.read_text("utf-8").splitlines())}
    assert results["a"]["text"].startswith('{"age": ')
    assert results["b"]["parsed"] in ("red", "blue")
    assert "the keyword 'not'" in results["c"]["error"]
