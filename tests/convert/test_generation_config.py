"""generation_config.json: more end tokens and recommended sampling, from a checkpoint to a chat."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st
from reference.family import MEMBERS
from reference.family_tokenizers import write_json

from edgellama.convert import convert
from edgellama.convert.model.description import describe
from edgellama.convert.model.generation_config import FILE, end_token_items, sampling_items
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.llama import Llama
from edgellama.quant.errors import InvalidOptionError, ModelFileError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.sampling_keys import PREFIX, SAMPLING_KEYS, recommended_sampling
from edgellama.quant.vocabulary.special_tokens import END_TOKENS_KEY
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import load_tokenizer

MEMBER = next(member for member in MEMBERS if member.name == "llama-2")


def folder(tmp_path: Path, generation: dict[str, Any], **config: Any) -> Path:
    """A small Llama 2 with this generation_config.json and changes of its config.json."""
    path = MEMBER.write(tmp_path / "model")
    own = json.loads((path / "config.json").read_text("utf-8"))
    write_json(path / "config.json", {**own, **config})
    write_json(path / FILE, generation)
    return path


def converted(source: Path, **arguments: Any) -> Path:
    """The folder or file as an F32 file of its own."""
    output = source.with_name(f"{source.stem}-converted.gguf")
    convert(source, output, type="f32", num_threads=1, overwrite=True, **arguments)
    return output


def sampling(values: dict[str, Any]) -> dict[str, Any]:
    """The options that a generation_config.json with these values recommends."""
    items = sampling_items(Fields(values, FILE))
    return recommended_sampling({key: item.value for key, item in items.items()})


@pytest.mark.parametrize(
    ("config", "generation", "more"),
    [
        ([2, 5, 7], None, {5, 7}),
        (2, [2, 5], {5}),
        (2, 9, {9}),
        ([5, 2], [7, 2], {5, 7}),
        (2, 2, set()),
        (None, [2, -1], set()),
    ],
    ids=str,
)
def test_every_end_token_ends(config: Any, generation: Any, more: set[int], tmp_path: Path) -> None:
    """Each id of eos_token_id in either file ends a reply, and survives a second conversion."""
    path = folder(tmp_path, {"eos_token_id": generation}, eos_token_id=config)
    for output in (once := converted(path), converted(once, name="again")):
        with GGUFFile(output) as file:
            special = load_tokenizer(file.metadata).special
            assert special.eos_id == 2
            assert special.end_of_generation == {2} | more
            assert (END_TOKENS_KEY in file.metadata) == bool(more)


def test_an_end_token_without_a_role_is_eos() -> None:
    """Where the tokenizer declares no EOS, the first id of the lists is it."""
    configs = [Fields({}, "config.json"), Fields({"eos_token_id": [4, 6]}, FILE)]
    items = end_token_items(configs, {"bos": 1}, 8)
    assert items["tokenizer.ggml.eos_token_id"].value == 4
    assert items[END_TOKENS_KEY].value == [6]


def test_end_tokens_that_are_none(caplog: pytest.LogCaptureFixture) -> None:
    """Ids beyond the vocabulary are left out and said; what is no id is an error."""
    with caplog.at_level(logging.WARNING):
        assert not end_token_items([Fields({"eos_token_id": [2, 99]}, FILE)], {"eos": 2}, 8)
    assert "eos_token_id 99 is left out" in caplog.text
    for wrong in ("2", [True], [2.0]):
        with pytest.raises(ModelFileError, match=r"generation_config.json: eos_token_id"):
            end_token_items([Fields({"eos_token_id": wrong}, FILE)], {}, 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            {"temperature": 0.6, "top_p": 0.9},
        ),
        (
            {"temperature": 1, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05},
            {"temperature": 1.0, "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.05},
        ),
        ({"top_k": -1, "top_p": None}, {"top_k": 0}),
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, {"temperature": 0.0}),
        (
            {"do_sample": False, "repetition_penalty": 1.2},
            {"temperature": 0.0, "repeat_penalty": 1.2},
        ),
        ({"eos_token_id": 2, "max_length": 4096}, {}),
    ],
    ids=str,
)
def test_recommended_sampling(values: dict[str, Any], expected: dict[str, Any]) -> None:
    """What generation_config.json lists comes back; do_sample false is temperature 0."""
    assert sampling(values) == expected


def test_sampling_that_makes_no_sense(caplog: pytest.LogCaptureFixture) -> None:
    """Impossible values are left out, with the file's name and what is allowed."""
    with caplog.at_level(logging.WARNING):
        assert sampling({"temperature": -1, "top_k": 1.5, "top_p": "x"}) == {}
    assert "generation_config.json: temperature is -1, which is left out" in caplog.text
    assert len(caplog.records) == 3


@given(st.dictionaries(st.sampled_from(list(SAMPLING_KEYS)), st.floats() | st.integers()))
def test_whatever_a_file_recommends_can_be_used(values: dict[str, float]) -> None:
    """Of any numbers under the keys, those that are kept are allowed sampling options."""
    metadata = {PREFIX + SAMPLING_KEYS[option].key: value for option, value in values.items()}
    SamplingOptions(**recommended_sampling(metadata))  # type: ignore[arg-type]


def test_keys_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """A file that gguf-py's own methods wrote recommends the same."""
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_sampling_temp(0.6)
    writer.add_sampling_top_k(20)
    writer.add_sampling_top_p(0.9)
    writer.add_sampling_min_p(0.1)
    writer.add_sampling_penalty_repeat(1.1)
    writer.add_sampling_penalty_last_n(-1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "model.gguf") as file:
        assert recommended_sampling(file.metadata) == {
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.9,
            "min_p": 0.1,
            "repeat_penalty": 1.1,
            "repeat_last_n": -1,
        }


def test_types_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """Numbers are written as the types that llama.cpp reads, also through --metadata."""
    path = folder(tmp_path, {"temperature": 0.6, "top_k": 20})
    with open_checkpoint(path) as checkpoint:
        items = describe(checkpoint).metadata
    assert items[f"{PREFIX}temp"].type.name == "FLOAT32"
    assert items[f"{PREFIX}top_k"].type.name == "INT32"
    output = converted(path, metadata={f"{PREFIX}top_k": "7", f"{PREFIX}min_p": "0.2"})
    with GGUFFile(output) as file:
        expected = {"temperature": 0.6, "top_k": 7, "min_p": 0.2}
        assert recommended_sampling(file.metadata) == expected
    with pytest.raises(InvalidOptionError, match="top_k=many"):
        converted(path, metadata={f"{PREFIX}top_k": "many"})


def test_chats_use_it(tmp_path: Path) -> None:
    """Llama.chat samples as the file recommends, unless an option says otherwise."""
    path = converted(folder(tmp_path, {"do_sample": False, "repetition_penalty": 1.5}))
    with Llama(path, num_threads=1) as llama:
        assert llama.sampling_defaults == {"temperature": 0.0, "repeat_penalty": 1.5}

        def reply(**options: Any) -> tuple[int, ...]:
            with llama.chat(max_tokens=8, **options) as chat:
                return chat.send("hello").tokens

        likeliest = reply(repeat_penalty=1.5, temperature=0)
        assert all(reply() == likeliest for _ in range(3))
        assert len({reply(temperature=50.0, seed=seed) for seed in range(4)}) > 1


def test_inspect_shows_it(tmp_path: Path, run_cli: CliRunner) -> None:
    """The summary has the sampling, for people and as JSON."""
    path = converted(folder(tmp_path, {"temperature": 0.6, "top_p": 0.9}))
    assert "sampling        temperature 0.6, top_p 0.9\n" in run_cli("inspect", path).stdout
    summary = json.loads(run_cli("inspect", path, "--json").stdout)
    assert summary["sampling"] == {"temperature": 0.6, "top_p": 0.9}
