"""How files are mapped, beyond what their readers' tests show."""

from __future__ import annotations

import mmap
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from edgellama.quant.mapped_file import map_file


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_huge_pages_are_asked_for(tmp_path: Path) -> None:
    """The system may map a file by huge pages, wherever it is built with them."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("a system without huge pages")
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    mapping = map_file(path, "a file")
    regions = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = next(after for before, after in pairwise(regions) if str(path) in before)
    assert "hg" in flags.splitlines()[0].split()
    mapping.close()
