"""Chat templates, names and licences of converted checkpoints; GGUF files as sources."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType, GGUFWriter
from reference import family_tokenizers as tokenizers
from reference.family import MEMBERS
from reference.family_member import CHAT_TEMPLATE
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert.metadata import MetadataItem, number, octets, unsigned
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.model.general import folder_name, size_label
from edgellama.convert.sources.json_fields import read_fields
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.convert.sources.source_tensor import ArrayTensor
from edgellama.convert.vocabulary.chat_template_source import chat_template_items
from edgellama.quant.errors import InvalidOptionError, ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile

BY_NAME = {member.name: member for member in MEMBERS}
KEY = "tokenizer.chat_template"


def described(folder: Path, **options: Any) -> ModelDescription:
    """The description of a folder or file."""
    with open_checkpoint(folder) as checkpoint:
        return describe(checkpoint, **options)


def templates(folder: Path) -> dict[str, object]:
    """The templates of a folder's files."""
    items = chat_template_items(folder, read_fields(folder / "tokenizer_config.json"))
    return {key: item.value for key, item in items.items()}


def test_template_in_the_settings(tmp_path: Path) -> None:
    """A template that is a string is the model's."""
    metadata = described(BY_NAME["llama-2"].write(tmp_path / "model")).metadata
    assert metadata[KEY] == MetadataItem(CHAT_TEMPLATE, GGUFValueType.STRING)


def test_named_templates(tmp_path: Path) -> None:
    """Of a list of templates the default is the model's, and the others go by name."""
    named = [
        {"name": "default", "template": "one"},
        {"name": "tool_use", "template": "two"},
        {"name": "rag-2", "template": "three"},
    ]
    tokenizers.write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert templates(tmp_path) == {
        f"{KEY}.rag_2": "three",
        f"{KEY}.tool_use": "two",
        "tokenizer.chat_templates": ["rag_2", "tool_use"],
        KEY: "one",
    }


def test_templates_in_files(tmp_path: Path) -> None:
    """Files of templates win over the settings, and those over chat_template.json."""
    tokenizers.write_json(tmp_path / "chat_template.json", {"chat_template": "from json"})
    assert templates(tmp_path) == {KEY: "from json"}
    tokenizers.write_json(tmp_path / "tokenizer_config.json", {"chat_template": "from settings"})
    assert templates(tmp_path) == {KEY: "from settings"}
    (tmp_path / "chat_template.jinja").write_text("from a \u00fcber file\n", "utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    assert templates(tmp_path) == {
        f"{KEY}.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
        KEY: "from a \u00fcber file\n",
    }


def test_no_template(tmp_path: Path) -> None:
    """Without a template there is no key, and one that is no text is refused."""
    assert templates(tmp_path) == {}
    tokenizers.write_json(tmp_path / "tokenizer_config.json", {"chat_template": 3})
    with pytest.raises(ModelFileError, match="chat_template is 3; allowed: a string"):
        templates(tmp_path)


@pytest.mark.parametrize(
    ("count", "label"),
    [(6_738_415_616, "6.7B"), (134_515_008, "135M"), (13_015_864_320, "13B"), (43_000, "43K")],
)
def test_size_label(count: int, label: str) -> None:
    """Weights are counted with two digits or as many as the unit needs, as llama.cpp does."""

    class Counted(ArrayTensor):
        """A tensor of any number of elements."""

        def __init__(self) -> None:
            super().__init__("x", np.zeros(1, np.float32))
            self.shape = (count,)

    assert size_label([Counted()]) == label


def test_name_and_licence(tmp_path: Path) -> None:
    """The folder or the caller names the model; the model card's front matter tells the licence."""
    folder = BY_NAME["llama-2"].write(tmp_path / "My-Llama-2")
    card = "---\nlanguage: [en]\nlicense: llama2\nlicense_name: 'x y'\n---\nlicense: none\n"
    (folder / "README.md").write_text(card, "utf-8")
    metadata = described(folder).metadata
    assert metadata["general.name"].value == "My-Llama-2"
    assert metadata["general.license"].value == "llama2"
    assert metadata["general.license.name"].value == "x y"
    assert metadata["general.size_label"].value == "43K"
    assert described(folder, name="Other").metadata["general.name"].value == "Other"


def test_name_in_the_hubs_cache() -> None:
    """A snapshot in the hub's cache is named after its repository."""
    path = Path("/cache/models--meta-llama--Llama-3.2-1B/snapshots") / ("0123456789" * 4)
    assert folder_name(path) == "Llama-3.2-1B"


def test_gguf_passes_through(tmp_path: Path) -> None:
    """A GGUF file's keys and tensors are described as they are, but for what the writer decides."""
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    values: list[tuple[str, Any, GGUFValueType]] = [
        ("a.u8", 200, GGUFValueType.UINT8),
        ("a.i16", -3, GGUFValueType.INT16),
        ("a.u64", 5, GGUFValueType.UINT64),
        ("a.f64", 0.1, GGUFValueType.FLOAT64),
        ("a.flag", True, GGUFValueType.BOOL),
        ("a.text", "\u00fc", GGUFValueType.STRING),
        ("general.file_type", 2, GGUFValueType.UINT32),
        ("general.quantization_version", 2, GGUFValueType.UINT32),
        ("split.count", 1, GGUFValueType.UINT16),
    ]
    for key, value, kind in values:
        writer.add_key_value(key, value, kind)
    writer.add_array("a.list", ["x", "y"])
    writer.add_key_value("a.shorts", [1, 2], GGUFValueType.ARRAY, GGUFValueType.INT16)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    description = described(path)
    found = {key: (item.value, item.type) for key, item in description.metadata.items()}
    for key, value, kind in values[:6]:
        assert found[key] == (value, kind)
    assert [*description.metadata["a.list"].value] == ["x", "y"]  # type: ignore[misc]
    assert description.metadata["a.list"].item_type == GGUFValueType.STRING
    assert description.metadata["a.shorts"].item_type == GGUFValueType.INT16
    assert set(found) == {key for key, _, _ in values[:6]} | {
        "general.architecture",
        "a.list",
        "a.shorts",
    }
    (tensor,) = description.tensors
    assert (tensor.name, tensor.shape, tensor.format.name) == ("token_embd.weight", (4, 32), "F16")


def test_gguf_with_options(tmp_path: Path) -> None:
    """Name and split pattern of a GGUF source can be set anew."""
    path = write_tiny_llama(tmp_path / "model.gguf", TinyLlama())
    metadata = described(path, name="New", pre="smollm").metadata
    assert metadata["general.name"].value == "New"
    assert metadata["tokenizer.ggml.pre"].value == "smollm"
    with pytest.raises(InvalidOptionError, match="no split pattern is called 'nothing'"):
        described(path, pre="nothing")
    with pytest.raises(InvalidOptionError, match="allowed: printable text"):
        described(path, name="a\nb")
    with GGUFFile(path) as file:
        assert set(metadata) - set(file.metadata) == {"general.name"}


def test_gguf_of_another_architecture(tmp_path: Path) -> None:
    """A GGUF file of another architecture is refused by its name."""
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "gemma2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="architecture 'gemma2' cannot be converted"):
        described(path)


def test_impossible_values_are_no_metadata() -> None:
    """Values that their GGUF type cannot hold are refused when they are made."""
    for value in (-1, 1 << 32):
        with pytest.raises(ValueError, match="32-bit unsigned"):
            unsigned(value)
    with pytest.raises(ValueError, match="not finite"):
        number(float("inf"))
    with pytest.raises(ValueError, match="items of type"):
        MetadataItem([1], GGUFValueType.ARRAY)
    assert octets(b"\x01\xff").value.tolist() == [1, 255]  # type: ignore[attr-defined]


def test_tokens_without_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A token that the embedding has no row for is left out with a warning."""
    with caplog.at_level(logging.WARNING):
        described(BY_NAME["vicuna"].write(tmp_path / "model"))
    assert "1 added token(s) left out, the first '<pad>'" in caplog.text
