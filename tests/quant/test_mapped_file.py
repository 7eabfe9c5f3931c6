"""How files are mapped, beyond what their readers' tests show."""

from __future__ import annotations

import mmap
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from edgellama.quant.mapped_file import give_back, map_file


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_huge_pages_are_asked_for(tmp_path: Path) -> None:
    """The system may map a file by huge pages, wherever it is built with them."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("a system without huge pages")
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    mapping = map_file(path, "a file")
    assert [("hg" in flags, "nh" in flags) for flags in region_flags(path)] == [(True, False)]
    give_back(mapping, mmap.PAGESIZE + 1)
    # What was given back does not return in a page of 2 MB with what is behind it.
    assert [("hg" in flags, "nh" in flags) for flags in region_flags(path)] == [
        (False, True),
        (True, False),
    ]
    assert mapping[:4] == bytes(4)
    mapping.close()


def region_flags(path: Path) -> list[list[str]]:
    """The flags of this process's mappings of a file, in the file's order."""
    regions = Path("/proc/self/smaps").read_text().split("VmFlags:")
    return [
        after.splitlines()[0].split() for before, after in pairwise(regions) if str(path) in before
    ]
