"""A thousand damaged torch files: each opens or is refused, quickly and in little memory."""

import random
from pathlib import Path

import pytest
from harness.traced_memory import traced_peak
from places import DATA
from raw_files.damage import MUTATIONS

from edgellama.convert.sources.torch_reader import read_torch
from edgellama.quant.errors import EdgellamaError

NUM_FILES = 60


def use_everything(path: Path) -> None:
    """Open ``path`` and touch every byte of every tensor that can be read."""
    for tensor in read_torch(path).values():
        try:
            num_bytes = tensor.num_bytes
        except EdgellamaError:
            continue
        assert num_bytes <= path.stat().st_size
        int(tensor.rows(0, tensor.num_rows).sum())


@pytest.mark.parametrize("file", ["torch_zip.bin", "torch_legacy.bin", "torch_nested.pth"])
@pytest.mark.parametrize("seed", MUTATIONS)
def test_damaged_files(tmp_path: Path, seed: str, file: str) -> None:
    """A damaged file opens or raises an EdgellamaError that names it."""
    rng = random.Random(f"{seed} {file}")
    original = (DATA / file).read_bytes()
    path = tmp_path / "damaged.bin"
    num_refused = 0
    with traced_peak() as peak:
        for _ in range(NUM_FILES):
            content = bytearray(original)
            for _ in range(rng.randint(1, 3)):
                if len(content) > 8:
                    MUTATIONS[seed](rng, content)
            path.write_bytes(content)
            try:
                use_everything(path)
            except EdgellamaError as error:
                num_refused += 1
                assert str(error).startswith(f"{path}: ")
                assert str(error).isascii() and str(error).isprintable()
    assert num_refused > NUM_FILES // 5
    assert peak.num_bytes < 4_000_000
