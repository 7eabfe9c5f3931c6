"""Thousands of damaged GGUF headers: each opens or is refused, quickly and in little memory."""

import random
from pathlib import Path

import pytest
from harness.traced_memory import traced_peak
from raw_files.damage import MUTATIONS, flip_bits, nudge_number, overwrite_number
from test_gguf_hostile import full_model

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.gguf.file import GGUFFile, StringArray

NUM_FILES = 2000


def use_everything(path: Path) -> None:
    """Open ``path`` and touch every value and every byte of every tensor."""
    with GGUFFile(path) as file:
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                assert [text.encode("utf-8", "surrogateescape") for text in value] == (
                    value.as_bytes()
                )
            repr(value)
        for tensor in file.tensors.values():
            assert tensor.data.nbytes == tensor.num_bytes <= path.stat().st_size
            int(tensor.data.sum())


@pytest.mark.parametrize("seed", MUTATIONS)
def test_damaged_headers(tmp_path: Path, seed: str) -> None:
    """A damaged header opens or raises an EdgellamaError; no file takes much memory."""
    rng = random.Random(seed)
    original = full_model()
    header_bytes = original.index(b"output.weight") + 64
    num_refused = 0
    path = tmp_path / "damaged.gguf"
    with traced_peak() as peak:
        for _ in range(NUM_FILES // len(MUTATIONS)):
            header = bytearray(original[:header_bytes])
            MUTATIONS[seed](rng, header)
            if rng.random() < 0.3 and len(header) > 8:
                rng.choice([flip_bits, overwrite_number, nudge_number])(rng, header)
            path.write_bytes(header + original[header_bytes:])
            try:
                use_everything(path)
            except EdgellamaError as error:
                num_refused += 1
                assert str(path) in str(error)
    assert num_refused > NUM_FILES // len(MUTATIONS) // 5
    assert peak.num_bytes < 4_000_000
