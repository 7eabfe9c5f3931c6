"""What a given name means while the files at its path are replaced."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from edgellama.server.models.catalogue import Catalogue


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two files of one model."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    for index in range(2):
        writer.add_tensor(f"t{index}", np.full((2, 4), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("*.gguf"))


def test_each_part_of_a_split_model_may_be_replaced(parts: list[Path]) -> None:
    """The name means another model from when its second part is another file, and is whole."""
    models = Catalogue({"given": parts[0]}, only_given=True, aliases={})
    old = models.find("given")
    content = parts[1].read_bytes()
    kept = parts[1].rename(parts[1].with_suffix(".old"))
    assert models.holds(old)
    parts[1].write_bytes(content[:-8])
    assert models.holds(old)
    parts[1].write_bytes(content)
    assert not models.holds(old)
    assert kept.read_bytes() == content
