"""Meta's folders, converted: the same model as the Hugging Face folder with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import torch_bytes
from reference.description_file import values_of
from reference.family import MEMBERS
from reference.family_meta import meta_weights, write_meta

from edgellama.convert.model import hparams
from edgellama.convert.model.description import ModelDescription, describe
from edgellama.convert.model.hparams import meta_release
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.quant.errors import ModelFileError, UnsupportedModelError

BY_NAME = {member.name: member for member in MEMBERS if member.params is not None}
CASES = [
    (name, shards) for name in BY_NAME for shards in (1, 2) if (name, shards) != ("llama-2-70b", 2)
]
# Meta's file has ranks alone, of which every split is a merge, and there is no chat template and
# no config.json with end tokens. Spaces beside special tokens only transformers' classes decide.
OWN = {"general.name", "tokenizer.ggml.merges", "tokenizer.chat_template"}
OWN |= {"edgellama.tokenizer.end_token_ids", "edgellama.tokenizer.prepend_scheme"}


def described(folder: Path) -> ModelDescription:
    """The description of a folder."""
    with open_checkpoint(folder) as checkpoint:
        return describe(checkpoint)


def plain(description: ModelDescription) -> dict[str, object]:
    """The metadata as plain values."""
    items = description.metadata.items()
    return {k: list(i.value) if i.item_type is not None else i.value for k, i in items}  # type: ignore[call-overload]


@pytest.mark.parametrize(("name", "num_shards"), CASES)
def test_same_as_hugging_face(name: str, num_shards: int, tmp_path: Path) -> None:
    """Tensors, sizes and vocabulary are those of the Hugging Face folder, however many shards."""
    member = BY_NAME[name]
    expected = described(member.write(tmp_path / "hugging-face"))
    found = described(write_meta(member, tmp_path / "meta" / "7B", num_shards))
    assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
    for ours, theirs in zip(found.tensors, expected.tensors, strict=True):
        np.testing.assert_array_equal(values_of(ours), values_of(theirs))
    different = {
        key
        for key in {**plain(found), **plain(expected)}
        if plain(found).get(key) != plain(expected).get(key)
    }
    assert different - OWN == set()


RELEASES: list[tuple[str, int, float, dict[str, Any]]] = [
    ("Llama 1", 2048, 1, {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-6}),
    ("Llama 1", 2048, 1, {"dim": 8192, "n_layers": 80, "n_heads": 64, "norm_eps": 1e-5}),
    ("Llama 2", 4096, 1, {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5}),
    (
        *("Llama 2", 4096, 1),
        {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "norm_eps": 1e-5},
    ),
    (
        *("Code Llama", 16384, 1),
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "rope_theta": 1e6},
    ),
    (
        *("Llama 3", 8192, 1),
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "rope_theta": 5e5},
    ),
    (
        *("Llama 3.1", 131072, 8),
        {"dim": 16384, "n_layers": 126, "n_heads": 128, "norm_eps": 1e-5, "rope_theta": 5e5}
        | {"use_scaled_rope": True},
    ),
    (
        *("Llama 3.2", 131072, 32),
        {"dim": 2048, "n_layers": 16, "n_heads": 32, "norm_eps": 1e-5, "rope_theta": 5e5}
        | {"use_scaled_rope": True},
    ),
    (
        *("Mistral", 32768, 1),
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "hidden_dim": 14336}
        | {"head_dim": 128, "n_kv_heads": 8, "rope_theta": 1e6},
    ),
    (
        *("Mistral", 131072, 1),
        {"dim": 5120, "n_layers": 40, "n_heads": 32, "norm_eps": 1e-5, "hidden_dim": 32768}
        | {"head_dim": 128, "n_kv_heads": 8, "rope_theta": 1e9, "max_seq_len": 131072},
    ),
]


@pytest.mark.parametrize(("name", "context_length", "factor", "params"), RELEASES)
def test_releases(name: str, context_length: int, factor: float, params: dict[str, Any]) -> None:
    """A published params.json tells its release, and so context length and scaling."""
    release = meta_release(Fields(params, "params.json"))
    llama3 = release.scaling.stretch
    assert (release.name, release.context_length) == (name, context_length)
    assert (1 if llama3 is None else llama3.factor) == factor


def test_a_mistral_may_say_that_its_output_is_tied() -> None:
    """Its own folders hold no output then."""
    params = {"dim": 8, "n_layers": 1, "n_heads": 1, "norm_eps": 1e-5, "hidden_dim": 8}
    for says in (True, False):
        release = meta_release(Fields(params | {"tied_embeddings": says}, "params.json"))
        assert release.tied is says


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"moe": {"num_experts": 8}}, UnsupportedModelError, "a mixture of experts (moe)"),
        ({"yarn": {"factor": 16}}, UnsupportedModelError, "scaled by YaRN"),
        ({"vision_chunk_size": 448}, UnsupportedModelError, "a model with vision"),
        ({"quantization_args": {"scheme": "fp8"}}, UnsupportedModelError, "quantized as 'fp8'"),
        ({"rope_theta": 12345.0}, UnsupportedModelError, "12345 is of no known release"),
        ({"n_layers": 1}, ModelFileError, "is of layer 1; allowed: 0 to 0"),
        (
            {"n_layers": 3},
            ModelFileError,
            "layers.2.attention_norm.weight, layers.2.attention.wq.weight",
        ),
        ({"n_heads": 5}, ModelFileError, "n_heads is 5; allowed: a divisor of dim 32"),
        ({"vocab_size": 300}, ModelFileError, "shape 400 x 32; needed: 300 x 32"),
        ({"norm_eps": None}, ModelFileError, "norm_eps"),
    ],
)
def test_refusals(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    """What is no Llama, or does not fit its tensors, is one line that names it."""
    folder = write_meta(BY_NAME["llama-2"], tmp_path / "7B")
    params = json.loads((folder / "params.json").read_text("ascii")) | changes
    (folder / "params.json").write_text(json.dumps(params), "ascii")
    with pytest.raises(error) as caught:
        described(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_shard_is_missing(tmp_path: Path) -> None:
    """Where the shards that are there end too early, the error asks for another."""
    folder = write_meta(BY_NAME["llama-2"], tmp_path / "7B", 2)
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(ModelFileError, match=r"needed: 400 x 32: is a shard missing\?"):
        described(folder)


def test_tied_output_of_meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of Llama 3.2, which Meta saves though it is the embedding, is left out; one that
    differs is kept and told.
    """
    monkeypatch.setattr(hparams, "_LLAMA_3_2_SIZES", ((32, 2),))
    member = BY_NAME["llama-3.1-meta"]
    folder = write_meta(member, tmp_path / "1B")
    assert "output.weight" in [tensor.name for tensor in described(folder).tensors]
    (note,) = described(folder).notes
    assert "output.weight differs from tok_embeddings.weight, although Llama 3.2 of this" in note
    weights = meta_weights(member)
    weights["output.weight"] = weights["tok_embeddings.weight"]
    (folder / "consolidated.00.pth").unlink()
    (folder / "consolidated.00.pth").write_bytes(torch_bytes.saved(weights))
    assert "output.weight" not in [tensor.name for tensor in described(folder).tensors]
