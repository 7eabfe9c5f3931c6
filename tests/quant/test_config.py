"""The model's sizes from metadata: read from real files, refused when they cannot be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.program.step_sizes import step_tokens
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.gguf.strangers import reason_of
from edgellama.quant.model_config import ARCHITECTURES, CONVERTIBLE, ModelConfig
from edgellama.quant.rope_config import RopeConfig

MISSING = object()
PATH = Path("some/model.gguf")
METADATA = {
    "general.architecture": "llama",
    "llama.context_length": 2048,
    "llama.embedding_length": 128,
    "llama.block_count": 3,
    "llama.feed_forward_length": 320,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 1000,
}


def config_of(**changes: Any) -> ModelConfig:
    """The configuration of made-up metadata; keys with ``__`` for the dots after ``llama.``."""
    metadata: dict[str, Any] = dict(METADATA)
    for name, value in changes.items():
        key = (
            "general.architecture" if name == "architecture" else "llama." + name.replace("__", ".")
        )
        metadata.pop(key, None)
        if value is not MISSING:
            metadata[key] = value
    file: Any = SimpleNamespace(path=PATH, metadata=metadata, tensors={})
    return ModelConfig.from_gguf(file)


def test_defaults() -> None:
    """Keys that files may leave out have the values that the format gives them."""
    config = config_of()
    assert (config.head_count_kv, config.head_size, config.vocab_size) == (4, 32, 1000)
    assert config.rope == RopeConfig(32, 10000.0, original_context_length=2048)
    assert (config.query_length, config.key_length) == (128, 128)


def test_very_wide_models_take_shorter_steps() -> None:
    """A step has 512 tokens, and fewer where their activations would take too much memory.

    A prompt is cut at whole pages, so that it could never be read in shorter steps than a page.
    """
    widths = (64, 1024, 16384, 131072)
    sizes = [
        step_tokens(config_of(embedding_length=width, feed_forward_length=4 * width))
        for width in widths
    ]
    assert sizes == [512, 512, 128, 128]


def test_real_file(tmp_path: Path) -> None:
    """A file written by the ``gguf`` package is read as it was meant."""
    model = TinyLlama(
        width=96, heads=4, kv_heads=2, head_size=40, layers=3, feed_forward=128, vocab_size=290,
        context_length=777, rope_base=5e5, rope_scaling="yarn", rope_factor=4.0,
        rope_original_context=333, rms_epsilon=1e-6,
    )  # fmt: skip
    with GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file:
        config = ModelConfig.from_gguf(file)
    assert config == ModelConfig(
        vocab_size=290, context_length=777, embedding_length=96, block_count=3,
        feed_forward_length=128, head_count=4, head_count_kv=2, head_size=40,
        rms_epsilon=float(np.float32(1e-6)), rope=RopeConfig(40, 5e5, "yarn", 4.0, 1.0, 333),
    )  # fmt: skip


def test_optional_keys() -> None:
    """Head sizes, shared heads, partial rotation and scaling are taken from their keys."""
    config = config_of(
        attention__key_length=80, attention__value_length=80, attention__head_count_kv=2,
        rope__dimension_count=40, rope__freq_base=500000.0, rope__scaling__type="linear",
        rope__scaling__factor=2.5, rope__scaling__attn_factor=0.5,
    )  # fmt: skip
    assert (config.head_size, config.head_count_kv, config.key_length) == (80, 2, 160)
    assert config.rope == RopeConfig(40, 500000.0, "linear", 2.5, 0.5, 2048)


@pytest.mark.parametrize(("value", "expected"), [(MISSING, None), (0, None), (4096, 4096)])
def test_sliding_window(value: object, expected: int | None) -> None:
    """A window is a size; without the key, and with 0, every token sees all before it."""
    assert config_of(attention__sliding_window=value).sliding_window == expected


@pytest.mark.parametrize("value", [-1, (1 << 24) + 1, 4096.0, "4096"])
def test_an_impossible_sliding_window(value: object) -> None:
    """A window that is no size is refused by the key's name, or by what it is."""
    with pytest.raises(ModelFileError, match=r"sliding.window is .*4096|sliding window is -1|1677"):
        config_of(attention__sliding_window=value)


def test_legacy_scale() -> None:
    """Old files say ``rope.scale_linear`` for linear scaling."""
    rope = config_of(rope__scale_linear=4.0).rope
    assert (rope.scaling, rope.factor) == ("linear", 4.0)


def test_factor_alone_is_linear() -> None:
    """A factor without a type is linear scaling, as in llama.cpp; "none" means what it says."""
    assert config_of(rope__scaling__factor=4.0).rope.scaling == "linear"
    assert config_of(rope__scaling__factor=4.0, rope__scaling__type="none").rope.scaling == "none"


def test_yarn_factors() -> None:
    """YaRN's keys of llama.cpp are obeyed; a negative extrapolation is the usual one."""
    rope = config_of(
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__attn_factor=0.5,
        rope__scaling__yarn_attn_factor=3.0,
        rope__scaling__yarn_ext_factor=0.25,
    ).rope
    assert (rope.attention_factor, rope.extrapolation) == (1.5, 0.25)
    usual = config_of(rope__scaling__type="yarn", rope__scaling__yarn_ext_factor=-1.0).rope
    assert usual.extrapolation == 1.0


def test_dynamic_scaling() -> None:
    """Our own key gives dynamic scaling; the context is so many times the file's."""
    config = ModelConfig.from_metadata({**METADATA, "edgellama.rope.dynamic_factor": 2.5})
    length = config_of().context_length
    assert config.context_length == int(2.5 * length)
    assert config.rope == RopeConfig(32, 10000.0, "dynamic", 2.5, 1.0, length)
    assert (config.rope.dynamic_from, config_of().rope.dynamic_from) == (length, None)


def test_counts_per_layer() -> None:
    """A count given for every layer is accepted where all agree, and refused where not."""
    equal = config_of(attention__head_count_kv=np.array([2, 2, 2], np.int32))
    assert equal.head_count_kv == 2
    with pytest.raises(ModelFileError, match="head_count_kv"):
        config_of(attention__head_count_kv=np.array([2, 4, 2], np.int32))
    with pytest.raises(ModelFileError, match="head_count_kv"):
        config_of(attention__head_count_kv=np.array([], np.int32))
    with pytest.raises(ModelFileError, match="head_count_kv"):
        config_of(attention__head_count_kv=np.array([2.5, 2.5, 2.5], np.float32))


@pytest.mark.parametrize("architecture", ["gpt2", "phi3", "", 7, MISSING])
def test_other_architectures(architecture: Any) -> None:
    """Anything but a Llama is refused with the file, what it is and what can run."""
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf.*architecture.*llama"):
        config_of(architecture=architecture)


def test_mixture_of_experts() -> None:
    """Experts are refused; a count of zero is a dense model."""
    assert config_of(expert_count=0).block_count == 3
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf.*experts"):
        config_of(expert_count=8)


REQUIRED = [key.removeprefix("llama.") for key in METADATA if key.startswith("llama.")]


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("value", [MISSING, "text", True, -1, 0, 1 << 40, None, float("nan")])
def test_required_numbers(key: str, value: Any) -> None:
    """A required value that is missing, of another kind or impossible is refused by its name."""
    with pytest.raises(ModelFileError) as caught:
        config_of(**{key.replace(".", "__"): value})
    text = str(caught.value)
    assert text.startswith(str(PATH))
    last = key.rsplit(".", 1)[-1]
    names = {last, "epsilon" if "epsilon" in key else last}
    assert any(name in text for name in names), text


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"attention__head_count_kv": 3}, ModelFileError, "4 query heads .* 3 key heads"),
        ({"attention__head_count_kv": 0}, ModelFileError, "head_count_kv is 0"),
        ({"attention__head_count_kv": 8}, ModelFileError, "4 query heads .* 8"),
        ({"attention__head_count": 1000}, ModelFileError, "attention.key_length is 0"),
        ({"attention__key_length": 0}, ModelFileError, "attention.key_length is 0"),
        ({"attention__value_length": 64}, UnsupportedModelError, "different sizes"),
        ({"rope__dimension_count": 64}, ModelFileError, "rotates 64 of 32"),
        ({"rope__dimension_count": 31}, UnsupportedModelError, "count 31; it must be even"),
        ({"rope__dimension_count": 0}, UnsupportedModelError, "count 0; it must be even"),
        ({"rope__freq_base": 0.0}, ModelFileError, "base 0.0"),
        ({"rope__freq_base": float("inf")}, ModelFileError, "freq_base"),
        ({"rope__freq_base": "big"}, ModelFileError, "freq_base"),
        ({"rope__scaling__factor": 0.0}, ModelFileError, "factor 0.0"),
        ({"rope__scaling__factor": -2.0}, ModelFileError, "factor -2.0"),
        ({"attention__temperature_scale": -1.0}, ModelFileError, "temperature_scale is -1.0"),
        ({"attention__temperature_scale": np.nan}, ModelFileError, "temperature_scale"),
        *(
            (
                {
                    "attention__temperature_scale": 0.1,
                    "rope__scaling__original_context_length": length,
                },
                ModelFileError,
                f"temperature_scale with original context length {length}; it must be from 1",
            )
            for length in (0, -5)
        ),
        ({"rope__scaling__type": "su"}, UnsupportedModelError, "su.*yarn, longrope"),
        (
            {"rope__scaling__type": "longrope", "rope__scaling__original_context_length": 0},
            ModelFileError,
            "LongRoPE with original context length 0",
        ),
        ({"rope__scaling__type": "dynamic"}, UnsupportedModelError, "dynamic.*none, linear, yarn"),
        ({"rope__scaling__yarn_ext_factor": 1.5}, ModelFileError, "extrapolation 1.5"),
        ({"rope__scaling__type": 3}, ModelFileError, "scaling.type"),
        ({"rope__scaling__attn_factor": 0.0}, ModelFileError, "attention factor 0.0"),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__original_context_length": 0},
            ModelFileError,
            "original context",
        ),
        ({"rope__scaling__type": "yarn", "rope__freq_base": 1.0}, ModelFileError, "base 1.0"),
        ({"attention__layer_norm_rms_epsilon": 1.5}, ModelFileError, "epsilon is 1.5"),
    ],
)
def test_impossible_values(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    """Values that contradict each other, or that nothing could compute, are refused clearly."""
    with pytest.raises(error, match=rf"model\.gguf.*{text}"):
        config_of(**changes)


def test_frozen() -> None:
    """A configuration cannot change under the programs that were built from it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_of().block_count = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("olmo2", "'olmo2' cannot run: queries and keys have norms of their own, .*; supported: "),
        ("qwen3moe", "'qwen3moe' cannot run: layers are mixtures of experts; supported: llama"),
        ("clip", "'clip' cannot run: it is the part of a model that sees or hears; supported"),
        ("elsewhere", "'elsewhere' cannot run; supported: llama"),
        (["llama"], r"\['llama'\] cannot run; supported: llama"),
    ],
)
def test_what_other_architectures_do_otherwise(architecture: object, reason: str) -> None:
    """A refusal says why, if it is known."""
    with pytest.raises(UnsupportedModelError, match=reason):
        ModelConfig.from_metadata({"general.architecture": architecture})


def test_no_llama_is_called_another() -> None:
    """What runs or becomes a Llama's file has no reason not to."""
    assert not any(map(reason_of, (*ARCHITECTURES, *CONVERTIBLE)))


def test_the_part_that_sees_is_no_model() -> None:
    """Whoever opens it is sent to the text model's file."""
    with pytest.raises(UnsupportedModelError) as caught:
        ModelConfig.from_metadata({"general.type": "mmproj"})
    assert "give the file of its text model" in caught.value.in_terminal
