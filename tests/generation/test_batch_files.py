"""The files of a batch: ids once each, whole lines alone, whatever ended the last run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellama.cli.commands import batch_files
from edgellama.cli.commands.batch_files import BatchInput, BatchOutput, LineIds, parse_line

IDS = st.one_of(st.text(max_size=3), st.integers(-3, 3), st.just(1.5))
LINES = [
    {"id": "ä", "text": 'a "b" \n c', "finish_reason": "stop", "usage": {}},
    {"id": 2, "error": "what is wrong"},
    {"id": "last", "text": "x" * 300, "finish_reason": "length", "usage": {}},
]


@given(ids=st.lists(IDS, max_size=40))
def test_ids_are_a_set(ids: list[Any]) -> None:
    """An id is new once; 1 and "1" are two, also behind many others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_files, "RECENT_IDS", 4)
        found, known = LineIds(), set()
        for line_id in ids:
            key = json.dumps(line_id)
            assert found.add(line_id) == (key not in known)
            known.add(key)
            assert len(found) == len(known)


def test_ids_take_little_memory() -> None:
    """A hundred thousand ids take 8 bytes each, and a few more."""
    ids = LineIds()
    for number in range(200_000):
        ids.add(f"line {number}")
    assert len(ids) == 200_000
    assert ids._sorted.nbytes + 64 * len(ids._recent) < 8 * 200_000 + 64 * batch_files.RECENT_IDS
    assert not ids.add("line 0")
    assert not ids.add("line 199999")


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """Let a run write lines."""
    output = BatchOutput(str(path), retry_errors=False)
    for line in lines:
        output.write(line)
    output.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1))
def test_cut_anywhere(tmp_path: Path, share: float) -> None:
    """After a cut at any byte, whole lines are done, the rest comes again, nothing twice."""
    path = tmp_path / "out.jsonl"
    path.unlink(missing_ok=True)
    write(path, LINES)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    output = BatchOutput(str(path), retry_errors=False)
    for line in LINES:
        if output.done.add(line["id"]):
            output.write(line)
    output.close()
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert found == LINES


def test_errors_are_run_again_when_asked(tmp_path: Path) -> None:
    """Without their lines, errors are no longer done."""
    path = tmp_path / "out.jsonl"
    write(path, LINES)
    output = BatchOutput(str(path), retry_errors=True)
    assert [output.done.add(line["id"]) for line in LINES] == [False, True, False]
    output.write({"id": 2, "text": "now"})
    output.close()
    ids = [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]
    assert ids == ["ä", "last", 2]


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF\x03\0",
        b"a text\nwithout ids\n",
        b'{"name": 1}\n',
        b"[1]\n",
        b"\xff",
        b'{"id":1}\n{"x"',
    ],
)
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    """What no batch has written is refused and stays as it is."""
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(click.ClickException, match="no output of a batch"):
        BatchOutput(str(path), retry_errors=False)
    assert path.read_bytes() == content


@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n"])
def test_lines_of_a_file(tmp_path: Path, last: bytes) -> None:
    """Lines without an id have their number, empty ones are passed over."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "x"}\n\n{"prompt": "y"}\r\n{"prompt": "z"}' + last)
    source = BatchInput(str(path))
    lines = [line for line in source.lines() if line is not None]
    assert [(line.id, line.content) for line in lines] == [
        ("a", {"prompt": "x"}),
        (3, {"prompt": "y"}),
        (4, {"prompt": "z"}),
    ]
    assert source.num_lines in (4, 5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"nonsense", "line 7 is no JSON"),
        (b"\xff\xfe", "line 7 is no JSON, 'utf-8' codec can't decode byte 0xff in position 0"),
        (b"[" * 100_000, "line 7 is no JSON"),
        (b"[1]", "line 7 is no JSON object"),
        (b'{"id": [1]}', "line 7: id is"),
        (b'{"id": true}', "line 7: id is True"),
        (b'{"id": null}', "line 7: id is None"),
    ],
)
def test_wrong_lines(data: bytes, words: str) -> None:
    """What is no line of input has its number for an id, and says why."""
    line = parse_line(7, data)
    assert (line.id, line.content) == (7, None)
    assert words in line.error
    assert "id" in words or line.error.endswith('such as {"prompt": "Once upon a time"}')
