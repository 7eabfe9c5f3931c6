"""Thousands of damaged GGUF headers: each opens or is refused, quickly and in little memory."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from test_gguf_hostile import full_model
from traced_memory import traced_peak

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.gguf.file import GGUFFile, StringArray

NUM_FILES = 4000
NUMBERS = [
    *(0, 1, 2, 3, 7, 8, 9, 12, 13, 31, 32, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**32, 2**60, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 8, 2**64 - 1),
]
Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(rng: random.Random, content: bytearray) -> None:
    """Flips up to eight bits."""
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite_number(rng: random.Random, content: bytearray) -> None:
    """Writes an interesting number over four or eight bytes."""
    number = rng.choice(NUMBERS)
    code = "<Q" if number >= 2**32 or rng.random() < 0.5 else "<I"
    start = rng.randrange(len(content) - 8)
    struct.pack_into(code, content, start, number)


def nudge_number(rng: random.Random, content: bytearray) -> None:
    """Adds or subtracts a little from one byte that is not zero."""
    places = [i for i, byte in enumerate(content) if byte]
    place = rng.choice(places)
    content[place] = (content[place] + rng.randint(-9, 9)) % 256


def delete_bytes(rng: random.Random, content: bytearray) -> None:
    """Takes a few bytes out."""
    start = rng.randrange(len(content))
    del content[start : start + rng.randint(1, 40)]


def repeat_bytes(rng: random.Random, content: bytearray) -> None:
    """Copies a piece of the file to another place in it."""
    start, to = rng.randrange(len(content)), rng.randrange(len(content))
    content[to:to] = content[start : start + rng.randint(1, 80)]


def cut(rng: random.Random, content: bytearray) -> None:
    """Cuts the end off."""
    del content[rng.randrange(len(content)) :]


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (flip_bits, overwrite_number, nudge_number, delete_bytes, repeat_bytes, cut)
}


def use_everything(path: Path) -> None:
    """Opens ``path`` and touches every value and every byte of every tensor."""
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
