"""What the engine would refuse is refused before it is written, and blamed on who gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from reference.family import MEMBERS
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert import plan
from edgellama.quant.errors import InvalidOptionError, ModelFileError, UnsupportedModelError

BY_NAME = {member.name: member for member in MEMBERS}
MODEL = TinyLlama()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as GGUF."""
    return write_tiny_llama(tmp_path_factory.mktemp("runnable") / "tiny.gguf", MODEL)


CONTRADICTIONS = {
    "llama.block_count=3": "llama.block_count=3; allowed: 2, which the tensors have",
    "llama.embedding_length=128": "allowed: 64",
    "llama.vocab_size=1000": "allowed: 288",
    "llama.feed_forward_length=100": "allowed: 96",
    "llama.attention.head_count=8": "allowed: 4",
    "llama.attention.head_count_kv=4": "allowed: 2",
    "llama.attention.key_length=32": "allowed: 16",
    "llama.attention.layer_norm_rms_epsilon=2": "epsilon is 2.0; it must be between 0 and 1, with",
    "llama.rope.dimension_count=32": "rotates 32 of 16 elements of a head, with metadata llama",
    "llama.rope.scaling.type=su": "rope scaling 'su' cannot run; supported",
    "llama.rope.scaling.type=longrope": "tensor rope_factors_short.weight is missing",
    "llama.rope.freq_base=-1": "rope base -1.0",
    "llama.context_length=0": "context_length is 0; it must be from 1",
    "llama.expert_count=8": "mixtures of experts cannot run",
    "tokenizer.ggml.bos_token_id=288": "bos_token_id is 288; 0 to 287",
    "tokenizer.ggml.model=bert": "tokenizer.ggml.model is 'bert'; known: gpt2, llama, t5",
}


@pytest.mark.parametrize(("assignment", "message"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_metadata_that_contradicts(path: Path, assignment: str, message: str) -> None:
    """A key that the file could not be loaded with is named, and what is allowed."""
    key, _, value = assignment.partition("=")
    with pytest.raises(InvalidOptionError) as caught:
        plan(path, type="q8_0", metadata={key: value})
    assert key in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "llama.context_length=1000",
        "llama.rope.freq_base=5e5",
        "llama.block_count=2",
        "a.b=1",
        "acme.vocab_size=5",
    ],
)
def test_metadata_that_fits(path: Path, assignment: str) -> None:
    """What the tensors leave open may be chosen, and what they say may be repeated."""
    key, _, value = assignment.partition("=")
    planned = plan(path, type="q8_0", metadata={key: value})
    assert planned.files[0].metadata[key].value == float(value)


def changed(path: Path, target: Path, changes: dict[str, Any], without: str = "") -> Path:
    """A copy of a GGUF file with other values of some keys, and without a tensor."""
    reader = GGUFReader(path)
    writer = GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        value = changes.get(key, field.contents())
        if not key.startswith("GGUF.") and key != "general.architecture" and value is not None:
            kind = field.types[0]
            writer.add_key_value(
                key, value, kind, field.types[-1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        if tensor.name != without:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    return target


SOURCES: dict[str, dict[str, Any]] = {
    "epsilon is 1.5": {"changes": {"llama.attention.layer_norm_rms_epsilon": 1.5}},
    "metadata llama.block_count is None": {"changes": {"llama.block_count": None}},
    "tensor blk.2.attn_norm.weight is missing": {"changes": {"llama.block_count": 3}},
    "tensor blk.1.ffn_up.weight is missing": {"changes": {}, "without": "blk.1.ffn_up.weight"},
    "token_type holds 9; 1 to 6": {"changes": {"tokenizer.ggml.token_type": [9] * 288}},
}


@pytest.mark.parametrize(("message", "options"), SOURCES.items(), ids=SOURCES)
def test_sources_that_do_not_run(
    path: Path, tmp_path: Path, message: str, options: dict[str, Any]
) -> None:
    """A GGUF file that the engine would refuse is not converted to another such."""
    source = changed(path, tmp_path / "changed.gguf", **options)
    with pytest.raises(ModelFileError) as caught:
        plan(source, type="q8_0")
    assert str(caught.value).startswith(f"{source}: ")
    assert message in str(caught.value)


def test_a_source_may_be_mended(path: Path, tmp_path: Path) -> None:
    """Metadata given by hand can be what a source lacks."""
    source = changed(path, tmp_path / "changed.gguf", {"llama.block_count": None})
    planned = plan(source, type="q8_0", metadata={"llama.block_count": 2})
    assert planned.files[0].metadata["llama.block_count"].value == 2


def test_epsilon_of_a_folder(tmp_path: Path) -> None:
    """A configuration whose numbers are in range for JSON, but for no model."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("ascii"))
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.0}), "ascii")
    with pytest.raises(ModelFileError, match=r"epsilon is 1\.0; it must be between 0 and 1"):
        plan(folder, type="q8_0")


def test_byte_tokens_that_are_not_all_there(tmp_path: Path) -> None:
    """A SentencePiece model with some byte tokens, but not all, could not be loaded."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace(b"<0x41>", b"<0x4Z>"))
    with pytest.raises((ModelFileError, UnsupportedModelError), match="byte token"):
        plan(folder, type="q8_0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.freq_base", 1e-50),
        ("llama.rope.freq_base", "1e39"),
        ("llama.attention.layer_norm_rms_epsilon", 1e-60),
    ],
)
def test_numbers_that_32_bits_do_not_hold(path: Path, key: str, value: object) -> None:
    """What would be stored as 0 or as infinite is refused as that, before anything is written."""
    with pytest.raises(InvalidOptionError, match=f"with metadata {key}="):
        plan(path, type="q8_0", metadata={key: value})
