"""Files from before split patterns were written: recognised or told, and repaired by a command."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from reference.description_file import write_description
from reference.family import MEMBERS
from reference.vocabularies import LLAMA3_RANKS, fetch, llama3_metadata

from edgellama.convert import convert
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.vocabulary.file_pattern import PRE
from edgellama.text.tokenizer import load_tokenizer

TEXT = 'He said "the well-known don\'t" (of the).'


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama 3 without tokenizer.ggml.pre, its matrices of several types."""
    folder = tmp_path_factory.mktemp("old")
    member = next(member for member in MEMBERS if member.name == "llama-3")
    with open_checkpoint(member.write(folder / "model")) as checkpoint:
        description = describe(checkpoint)
        metadata = {key: item for key, item in description.metadata.items() if key != PRE}
        whole = write_description(
            folder / "f32.gguf", ModelDescription(metadata, description.tensors)
        )
    types = [("attn_output", "q8_0"), ("attn_q", "q4_0")]
    convert(whole, folder / "old.gguf", type="f16", tensor_types=types, num_threads=1)
    return folder / "old.gguf"


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]]]:
    """A file's metadata, arrays as lists, and every tensor's format and bytes."""
    with GGUFFile(path) as file:
        metadata = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in file.metadata.items()
            if not key.endswith((".tokens", ".merges"))
        }
        tensors = {
            name: (tensor.format.name, tensor.data.tobytes())
            for name, tensor in file.tensors.items()
        }
    return metadata, tensors


def test_llama_3_is_recognised_by_its_vocabulary(caplog: pytest.LogCaptureFixture) -> None:
    """Llama 3's words and merges are cut as Llama 3's, which is said; no others are."""
    known = llama3_metadata(fetch(LLAMA3_RANKS))
    old = {key: value for key, value in known.items() if key != PRE}
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(old, "old.gguf")
    assert "old.gguf: tokenizer.ggml.pre is missing; the vocabulary is Llama 3's" in caplog.text
    assert tokenizer.encode(TEXT) == load_tokenizer(known).encode(TEXT)
    guessed = load_tokenizer(old | {PRE: "default"}, "old.gguf")
    assert "old.gguf: tokenizer.ggml.pre is 'default'; the vocabulary is Llama 3's" in caplog.text
    assert guessed.encode(TEXT) == tokenizer.encode(TEXT)
    tokens, merges = old["tokenizer.ggml.tokens"], old["tokenizer.ggml.merges"]
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    for change in (
        {"tokenizer.ggml.merges": merges[:-1]},
        {"tokenizer.ggml.tokens": [*tokens[:9], "other", *tokens[10:]]},
    ):
        caplog.clear()
        load_tokenizer(old | change)
        assert "seldom the model's own" in caplog.text


def test_more_special_tokens_change_nothing() -> None:
    """Fine-tunes of Llama 3 that add tokens are recognised, too."""
    known = llama3_metadata(fetch(LLAMA3_RANKS))
    more: Any = known["tokenizer.ggml.tokens"], known["tokenizer.ggml.token_type"]
    known |= {"tokenizer.ggml.tokens": [*more[0], "<|im_start|>", "<|im_end|>"]}
    known |= {"tokenizer.ggml.token_type": [*more[1], 3, 3]}
    old = {key: value for key, value in known.items() if key != PRE}
    assert load_tokenizer(old).encode(TEXT) == load_tokenizer(known).encode(TEXT)


def test_the_command_that_is_named_repairs_the_file(
    old_file: Path, run_cli: CliRunner, tmp_path: Path
) -> None:
    """The warning's command writes a file that is the same but for its pattern, with no warning."""
    result = run_cli("tokenize", old_file, TEXT)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"edgellama: warning: {old_file}: tokenizer.ggml.pre is missing")
    command = shlex.split(line.partition("repair it: ")[2])
    assert command[0] == "edgellama"
    repair = run_cli(*command[1:], "-t", "1")
    assert (repair.returncode, repair.stderr) == (0, "")
    repaired = tmp_path / "empty" / "new.gguf"
    assert run_cli("tokenize", repaired, TEXT).stderr == ""
    (old_metadata, old_tensors), (metadata, tensors) = read(old_file), read(repaired)
    assert tensors == old_tensors
    assert {form for form, _ in tensors.values()} == {"F32", "F16", "Q8_0", "Q4_0"}
    assert metadata.pop(PRE) == "llama-bpe"
    assert metadata == old_metadata


def test_in_python_a_call_is_named(old_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who loads the file in Python reads of a call."""
    with caplog.at_level(logging.WARNING), GGUFFile(old_file) as file:
        load_tokenizer(file.metadata, file.path)
    assert f'convert({str(old_file)!r}, "new.gguf", type="copy", pre="llama-bpe")' in caplog.text


def test_a_conversion_says_it_too(old_file: Path, run_cli: CliRunner) -> None:
    """Converting an old file without --pre warns, and with it does not."""
    arguments = ("convert", old_file, "out.gguf", "--type", "f16", "-t", "1", "--overwrite")
    assert "say which it is with --pre NAME" in run_cli(*arguments).stderr
    assert run_cli(*arguments, "--pre", "llama3").stderr == ""


@pytest.mark.parametrize("name", ["tensor_types", "pure", "output_tensor_type"])
def test_a_copy_has_no_other_types(name: str, old_file: Path, tmp_path: Path) -> None:
    """A copy with other types for some tensors is none, nor is one of a checkpoint."""
    value: Any = {"tensor_types": [("ffn", "q8_0")], "pure": True}.get(name, "q8_0")
    arguments: Any = {"type": "copy", name: value}
    with pytest.raises(InvalidOptionError, match=f"type copy with {name}"):
        convert(old_file, tmp_path / "out.gguf", **arguments)
    with pytest.raises(InvalidOptionError, match="is no GGUF file"):
        convert(old_file.parent / "model", tmp_path / "out.gguf", type="copy")
