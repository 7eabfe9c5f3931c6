"""Tables for people and for programs: the same names, and no rate that memory cannot have."""

from __future__ import annotations

import pytest

from edgellama.cli.output import bench_table, footprint_table, profile_table
from edgellama.cli.output.tables import Column, markdown, size, to_read
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


def test_a_table_that_is_too_wide_stands_on_its_side() -> None:
    """Rows stand beside each other, as many as fit, and each value is there once."""
    columns = [Column("name", is_number=False), Column("size_bytes", size), Column("count")]
    rows = [{"name": f"m{i}", "size_bytes": 10**i, "count": None} for i in range(5, 9)]
    wide = markdown(rows, columns)
    assert markdown(rows, columns, 200) == wide
    width = len(wide.splitlines()[0])
    assert markdown(rows, columns, width) == wide
    narrow = markdown(rows, columns, width - 1)
    assert all(len(line) < width for line in narrow.splitlines())
    columns.append(Column("a_long_title_that_people_read"))
    assert markdown(rows, columns, 56).splitlines()[:3] == [
        "| name                          |       m5 |     m6 |",
        "|-------------------------------|---------:|-------:|",
        "| size                          | 100.0 kB | 1.0 MB |",
    ]
    assert [narrow.count(f"m{i}") for i in range(5, 9)] == [1] * 4
    assert markdown(rows, columns, 1).count("| size ") == 4


def test_names_steer_no_terminal() -> None:
    """Control characters of a model's name are not written."""
    assert "\x1b" in markdown([{"name": "a\x1b[2J"}], [Column("name")])
    assert to_read([{"name": "a\x1b[2J"}], [Column("name")]).splitlines()[2] == "| a\ufffd[2J |"


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
