"""The output against the embedding: tied in the configuration, different in the file, and back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.family import MEMBERS
from reference.family_member import write_safetensors
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert import convert, plan
from edgellama.quant.errors import ModelFileError
from edgellama.quant.gguf.file import GGUFFile

BY_NAME = {member.name: member for member in MEMBERS}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def other_head(weights: dict[str, Any], row: int = -1) -> Any:
    """The embedding with one element of one row changed."""
    head = weights[EMBEDDING].copy()
    head[row, 3] += np.float16(1)
    return head


def output_of(path: Path) -> Any:
    """The output of a GGUF file, None if it is tied."""
    with GGUFFile(path) as file:
        tensor = file.tensors.get("output.weight")
        return None if tensor is None else np.array(tensor.data).view(np.float16)


@pytest.mark.parametrize("row", [0, 1, -1])
def test_a_head_that_differs_is_kept_and_told(
    row: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One element is enough; the report and one warning say that the head was kept."""
    folder = BY_NAME["smollm2"].write(tmp_path / "model")
    weights = BY_NAME["smollm2"].weights()
    weights[HEAD] = other_head(weights, row)
    write_safetensors(folder / "model.safetensors", weights)
    with caplog.at_level(logging.WARNING, "edgellama"):
        report = convert(folder, tmp_path / "out.gguf", type="f16", report=tmp_path / "report.json")
    assert np.array_equal(output_of(report.path).ravel(), weights[HEAD].ravel())
    (note,) = report.notes
    assert note.startswith(f"{HEAD} differs from {EMBEDDING}, although tie_word_embeddings is true")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["notes"] == [note]
    assert [record.message for record in caplog.records] == [f"{folder}: {note}"]
    assert plan(folder, tmp_path / "other.gguf").notes == report.notes


@pytest.mark.parametrize("format_name", ["float16", "float32"])
def test_a_head_that_equals_the_embedding_stays_tied(format_name: str, tmp_path: Path) -> None:
    """A copy is left out without a word, also one that is stored otherwise."""
    folder = BY_NAME["smollm2"].write(tmp_path / "model")
    weights = BY_NAME["smollm2"].weights()
    weights[HEAD] = weights[EMBEDDING].astype(format_name)
    write_safetensors(folder / "model.safetensors", weights)
    report = convert(folder, tmp_path / "out.gguf", type="f16")
    assert output_of(report.path) is None and report.notes == ()


def test_a_tied_model_that_was_saved_by_its_head(tmp_path: Path) -> None:
    """Of the two names of one matrix, a file may hold either."""
    folder = BY_NAME["smollm2"].write(tmp_path / "model")
    weights = BY_NAME["smollm2"].weights()
    embedding = weights.pop(EMBEDDING)
    write_safetensors(folder / "model.safetensors", weights | {HEAD: embedding})
    report = convert(folder, tmp_path / "out.gguf", type="f16")
    assert output_of(report.path) is None
    with GGUFFile(report.path) as file:
        assert file.tensors["token_embd.weight"].data.tobytes() == embedding.tobytes()


def test_an_untied_model_without_a_head_is_refused(tmp_path: Path) -> None:
    """The error names the tensor and the way out; nothing is written."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    weights = BY_NAME["llama-2"].weights()
    del weights[HEAD]
    write_safetensors(folder / "model.safetensors", weights)
    with pytest.raises(
        ModelFileError, match=r'lm_head\.weight is missing.*"tie_word_embeddings": t'
    ):
        convert(folder, tmp_path / "out.gguf", type="f16")
    assert not (tmp_path / "out.gguf").exists()


def test_an_untied_model_with_equal_head_keeps_it(tmp_path: Path) -> None:
    """What the configuration calls untied has an output of its own, equal or not."""
    folder = BY_NAME["llama-2"].write(tmp_path / "model")
    weights = BY_NAME["llama-2"].weights()
    weights[HEAD] = weights[EMBEDDING]
    write_safetensors(folder / "model.safetensors", weights)
    report = convert(folder, tmp_path / "out.gguf", type="f16")
    assert np.array_equal(output_of(report.path).ravel(), weights[HEAD].ravel())


@pytest.mark.parametrize("has_output", [False, True])
def test_gguf(has_output: bool, tmp_path: Path) -> None:
    """A GGUF file has no word about it: an output that is there is kept, and only that."""
    model = TinyLlama(tied=not has_output)
    write_tiny_llama(tmp_path / "in.gguf", model)
    report = convert(tmp_path / "in.gguf", tmp_path / "out.gguf", type="f16")
    assert (output_of(report.path) is not None) == has_output and report.notes == ()
