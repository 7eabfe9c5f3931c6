"""Finding and decoding the strings of a vocabulary: right on any bytes."""

import random
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files.gguf_bytes import ARRAY, model, pair, string, strings, u32, u64, write

from edgellama.quant.errors import ModelFileError
from edgellama.quant.gguf import strings as gguf_strings
from edgellama.quant.gguf.file import GGUFFile, StringArray
from edgellama.quant.gguf.strings import RawStrings, string_ends

NUM_TOKENS, NUM_MERGES = 128_256, 280_147  # Llama 3


def ends_one_by_one(raw: bytes, count: int) -> list[int]:
    """Where the strings of ``raw`` end, found in the most obvious way."""
    ends: list[int] = []
    end = 0
    while len(ends) < count and end + 8 <= len(raw):
        end += 8 + struct.unpack_from("<Q", raw, end)[0]
        if end > len(raw):
            break
        ends.append(end)
    return ends


ITEM = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"", bytes(7), bytes(8), bytes(30), b"\x01" + bytes(7), b"x" * 255, b"y" * 256]
    ),
)


@settings(deadline=None, max_examples=100)
@given(items=st.lists(ITEM, max_size=60), cut=st.integers(0, 40), more=st.integers(0, 3))
def test_ends_are_those_of_the_obvious_loop(items: list[bytes], cut: int, more: int) -> None:
    """The vectorised search finds what the plain loop finds, on cut files and lying counts too."""
    raw = b"".join(map(string, items))
    raw = raw[: max(0, len(raw) - cut)]
    count = len(items) + more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf_strings, "MIN_STRINGS_PER_WINDOW", 3)
        patch.setattr(gguf_strings, "MIN_STRINGS_FOR_WINDOWS", 0)
        patch.setattr(gguf_strings, "WINDOW_BYTES", 96)
        assert list(string_ends(memoryview(raw), count)) == ends_one_by_one(raw, count)


@given(items=st.lists(ITEM, max_size=30))
def test_lengths_are_those_of_the_strings(items: list[bytes]) -> None:
    """The bytes of all strings are told at once."""
    assert RawStrings.of(items).lengths().tolist() == list(map(len, items))


@pytest.mark.parametrize("seed", range(4))
def test_ends_over_many_windows(seed: int) -> None:
    """Windows at full size agree with the plain loop: short tokens, long ones, zeros between."""
    rng = random.Random(seed)
    odd = [b"", bytes(9), b"z" * 300, bytes([1, *bytes(7)])]
    items = [
        rng.choice(odd) if rng.random() < seed * 1e-3 else rng.randbytes(rng.randint(1, 12))
        for _ in range(30_000)
    ]
    raw = b"".join(map(string, items))
    assert list(string_ends(memoryview(raw), len(items))) == ends_one_by_one(raw, len(items))


def test_length_past_64_bits_of_address_stops(tmp_path: Path) -> None:
    """A length near 2**64 after thousands of good strings is refused with its index and value."""
    value = u32(8) + u64(9001) + string("ab") * 9000 + u64(2**64 - 1) + bytes(64)
    with pytest.raises(ModelFileError, match=r"string 9000 of 9001.*18446744073709551615"):
        GGUFFile(write(tmp_path, model([pair("tokens", ARRAY, value)])))


def test_string_array_is_a_sequence() -> None:
    """Indices, slices, iteration, membership and length work as those of a list of str."""
    texts = ["", "a", "é", "🙂🙂", "last"]
    raw = b"".join(map(string, texts))
    items = StringArray(raw, array("q", ends_one_by_one(raw, len(texts))))
    assert list(items) == texts
    assert [items[i] for i in range(-5, 5)] == texts + texts
    assert items[1:4] == texts[1:4]
    assert items[::-2] == texts[::-2]
    assert len(items) == 5 and "é" in items and items.index("last") == 4
    for index in (5, -6):
        with pytest.raises(IndexError):
            items[index]


def test_llama3_vocabulary_is_read_in_a_third_of_a_second(tmp_path: Path) -> None:
    """A file with Llama 3's numbers of tokens and merges opens, all of it right."""
    rng = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyzĠéж語"
    words = ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(20_000)]
    words += ["Ġ" * 128, "=" * 300]  # as in the real vocabulary: longer than one byte can say
    tokens = rng.choices(words, k=NUM_TOKENS)
    merges = list(
        map(" ".join, zip(*[iter(rng.choices(words, k=2 * NUM_MERGES))] * 2, strict=True))
    )
    pairs = [
        pair("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        pair("tokenizer.ggml.token_type", ARRAY, u32(5) + u64(NUM_TOKENS) + bytes(4 * NUM_TOKENS)),
        pair("tokenizer.ggml.merges", ARRAY, strings(merges)),
    ]
    path = write(tmp_path, model(pairs))
    file = GGUFFile(path)
    read = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.merges"]
    assert isinstance(read[0], StringArray) and isinstance(read[1], StringArray)
    assert list(read[0]) == tokens
    assert list(read[1]) == merges
