"""Tables for people and for programs: the same names, and no rate that memory cannot have."""

from __future__ import annotations

import pytest

from edgellama.cli.output import bench_table, footprint_table, profile_table
from edgellama.cli.output.tables import Column, markdown
from edgellama.measure.op_profile import OpTime
from edgellama.measure.op_work import Work


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("peak_memory_bytes", "peak memory"),
        ("predicted_kv_bytes", "KV"),
        ("num_threads", "threads"),
        ("tokens_per_second", "tokens/s"),
        ("decode_gb_per_second", "decode GB/s"),
        ("time_seconds", "time"),
        ("kv_type", "KV type"),
        ("bytes", "bytes"),
    ],
)
def test_a_title_is_the_key_in_words(key: str, title: str) -> None:
    """What people read is what programs read, without the unit that the values have."""
    assert Column(key).title == title


@pytest.mark.parametrize(
    "columns",
    [bench_table.COLUMNS, profile_table.COLUMNS, footprint_table.COLUMNS],
    ids=["bench", "profile", "footprint"],
)
def test_titles_differ(columns: tuple[Column, ...]) -> None:
    """No two columns of a table have the same title."""
    titles = [column.title for column in columns]
    assert len(set(titles)) == len(titles)


def test_bytes_from_a_cache_have_no_rate() -> None:
    """What seems to move more than a plain read of the weights shows no GB/s to anybody."""
    times = [
        OpTime("gemv", "x", "0", 1, 1e-3, Work(20_000_000, 1000)),
        OpTime("rope", "", "0", 1, 1e-6, Work(100_000, 0)),
    ]
    rows = profile_table.rows_of({"decode": times}, "op", 30.0)
    assert [row["is_from_cache"] for row in rows] == [False, True, False]
    assert [row["gb_per_second"] for row in rows] == [20.0, None, pytest.approx(20.08, abs=0.01)]
    table = markdown([profile_table.readable(row) for row in rows], profile_table.COLUMNS)
    cells = [line.split("|")[8].strip() for line in table.splitlines()]
    assert cells == ["GB/s", "-" * 11 + ":", "20.0", "from cache", "20.1"]
