"""The look at a file's first key: what it says, and that nothing that lies there is an error."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.quant.gguf.first_key import stated_architecture


def test_what_writers_state(tmp_path: Path) -> None:
    """The architecture of a whole file is found; of a file that ends within it, none is."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(architecture="qwen3"))
    assert stated_architecture(path) == "qwen3"
    whole = path.read_bytes()
    for end in (0, 3, 24, 50, whole.index(b"qwen3") + 2):
        path.write_bytes(whole[:end])
        assert stated_architecture(path) is None
    assert stated_architecture(tmp_path) is None
    assert stated_architecture(tmp_path / "absent.gguf") is None


@pytest.mark.parametrize("length", [0, 64, 65, 1 << 40, (1 << 64) - 1])
def test_lengths_that_lie(length: int, tmp_path: Path) -> None:
    """A name of any length is read up to 64 bytes, and one that is longer is none."""
    head = b"GGUF" + struct.pack("<IqqQ", 3, 0, 1, 20) + b"general.architecture"
    path = tmp_path / "lying.gguf"
    path.write_bytes(head + struct.pack("<IQ", 8, length) + b"x" * 100)
    assert stated_architecture(path) == ("x" * length if length <= 64 else None)


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever a file holds, the look ends without an error."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(content)
    assert stated_architecture(path) is None
