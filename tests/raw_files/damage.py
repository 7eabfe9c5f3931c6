"""Ways to damage a file's bytes at random, for tests of what reads them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

NUMBERS = [
    *(0, 1, 2, 3, 7, 8, 9, 12, 13, 31, 32, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**32, 2**60, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 8, 2**64 - 1),
]
Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(rng: random.Random, content: bytearray) -> None:
    """Flip up to eight bits."""
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite_number(rng: random.Random, content: bytearray) -> None:
    """Write an interesting number over four or eight bytes."""
    number = rng.choice(NUMBERS)
    code = "<Q" if number >= 2**32 or rng.random() < 0.5 else "<I"
    start = rng.randrange(len(content) - 8)
    struct.pack_into(code, content, start, number)


def nudge_number(rng: random.Random, content: bytearray) -> None:
    """Add or subtract a little from one byte that is not zero."""
    places = [i for i, byte in enumerate(content) if byte]
    place = rng.choice(places)
    content[place] = (content[place] + rng.randint(-9, 9)) % 256


def delete_bytes(rng: random.Random, content: bytearray) -> None:
    """Take a few bytes out."""
    start = rng.randrange(len(content))
    del content[start : start + rng.randint(1, 40)]


def repeat_bytes(rng: random.Random, content: bytearray) -> None:
    """Copy a piece of the file to another place in it."""
    start, to = rng.randrange(len(content)), rng.randrange(len(content))
    content[to:to] = content[start : start + rng.randint(1, 80)]


def cut(rng: random.Random, content: bytearray) -> None:
    """Cut the end off."""
    del content[rng.randrange(len(content)) :]


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (flip_bits, overwrite_number, nudge_number, delete_bytes, repeat_bytes, cut)
}
