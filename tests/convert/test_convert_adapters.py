"""Adapters merged into a model's weights while it is converted, against NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from reference.adapter_files import (
    EMBEDDING,
    Factors,
    added_to,
    random_gguf_factors,
    write_gguf_adapter,
)
from reference.tiny_models import TinyLlama, random_weights, write_tiny_llama

from edgellama import Llama
from edgellama.convert import convert, plan
from edgellama.engine.engine import Engine
from edgellama.quant.errors import (
    ConversionError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
)
from edgellama.quant.gguf.file import GGUFFile

TINY = TinyLlama(width=256, feed_forward=512, vocab_size=300, layers=2)
ALPHA = 8.0
Array = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of F32 weights and two adapters, only read."""
    folder = tmp_path_factory.mktemp("adapters")
    write_tiny_llama(folder / "tiny.gguf", TINY)
    for name, factors in FACTORS.items():
        write_gguf_adapter(folder / f"{name}.gguf", factors, alpha=ALPHA)
    return folder


FACTORS: dict[str, Factors] = {
    "one": random_gguf_factors(TINY, 16, 1),
    "two": random_gguf_factors(TINY, 5, 2, names=["blk.0.attn_q", "output", EMBEDDING]),
}
SCALES = {"one": 0.5, "two": -1.5}


def merged_weights() -> dict[str, Array]:
    """What the tensors are with both adapters, f64."""
    ranks = {"one": 16, "two": 5}
    added = [(FACTORS[name], scale * ALPHA / ranks[name]) for name, scale in SCALES.items()]
    return added_to(random_weights(TINY), *added)


def adapters_in(folder: Path) -> list[tuple[Path, float]]:
    """Both adapters with their scales."""
    return [(folder / f"{name}.gguf", scale) for name, scale in SCALES.items()]


@pytest.mark.parametrize("type_name", ["f32", "f16", "q8_0", "q4_0"])
def test_merged_weights_are_quantized(folder: Path, tmp_path: Path, type_name: str) -> None:
    """Every matrix is the sum, in the type that is asked for; the rest stays."""
    report = convert(
        folder / "tiny.gguf",
        tmp_path / "merged.gguf",
        type=type_name,
        pure=True,
        adapters=adapters_in(folder),
        verify=True,
    )
    kind = GGMLQuantizationType[type_name.upper()]
    with GGUFFile(report.path) as file:
        for name, values in merged_weights().items():
            tensor = file.tensors[name]
            is_matrix = values.ndim == 2
            assert tensor.format.name == (kind.name if is_matrix else "F32")
            stored = np.array(tensor.data).reshape(*values.shape[:-1], -1)
            found = quants.dequantize(stored, GGMLQuantizationType(tensor.format.ggml_id))
            exact = values.astype(np.float32)
            expected = quants.dequantize(quants.quantize(exact, kind), kind) if is_matrix else exact
            if type_name == "f32":
                np.testing.assert_allclose(found, values, rtol=0, atol=1e-6 * np.abs(values).max())
            else:
                # A weight at the edge of two quants may fall to either side, few do.
                assert np.mean(found != expected) < 1e-3
                np.testing.assert_allclose(found, expected, rtol=0, atol=np.abs(values).max() / 7)


@pytest.mark.parametrize("weight_format", ["Q8_0", "Q4_K"])
def test_a_quantized_source(tmp_path: Path, weight_format: str) -> None:
    """The source's weights are expanded, added to, and quantized anew."""
    model = dataclasses.replace(TINY, weight_format=weight_format)
    source = write_tiny_llama(tmp_path / "tiny.gguf", model)
    factors = random_gguf_factors(model, 4, names=["blk.1.ffn_down"])
    adapter = write_gguf_adapter(tmp_path / "a.gguf", factors, alpha=ALPHA)
    path = convert(source, tmp_path / "m.gguf", type="f32", adapters=[(adapter, 1.0)]).path
    with GGUFFile(source) as before, GGUFFile(path) as after:
        for name in ("blk.1.ffn_down", "blk.0.ffn_down"):
            tensor = before.tensors[f"{name}.weight"]
            rows = np.array(tensor.data).reshape(tensor.shape[0], -1)
            values = quants.dequantize(rows, GGMLQuantizationType[tensor.format.name])
            if name in factors:
                a, b = factors[name]
                values = values + ALPHA / 4 * b.astype(np.float64) @ a.astype(np.float64)
            found = after.tensors[f"{name}.weight"].data.view(np.float32).reshape(values.shape)
            np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)


def test_the_merged_model_says_what_the_adapted_one_says(folder: Path, tmp_path: Path) -> None:
    """The texts are those of the model with the same adapters at run time."""
    scales = {f"{name}.gguf": scale for name, scale in SCALES.items()}
    path = convert(
        folder / "tiny.gguf", tmp_path / "m.gguf", type="f32", adapters=adapters_in(folder)
    ).path
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 20}
    with Llama(folder / "tiny.gguf", num_threads=1) as llama:
        plain = llama.generate("abc", **options).text
        adapters = {llama.load_adapter(folder / name): scale for name, scale in scales.items()}
        adapted = llama.generate("abc", adapters=adapters, **options).text
    with Llama(path, num_threads=1) as llama:
        assert llama.generate("abc", **options).text == adapted != plain


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_an_adapter_fits_the_file_that_it_is_merged_into(architecture: str, tmp_path: Path) -> None:
    """Also where the rows of queries and keys get another order, as those of Qwen 2's files do."""
    model = dataclasses.replace(TINY, architecture=architecture)
    source = write_tiny_llama(tmp_path / "tiny.gguf", model)
    fields = {"general.architecture": architecture}
    adapter = write_gguf_adapter(tmp_path / "a.gguf", FACTORS["one"], metadata=fields)
    merged = convert(source, tmp_path / "m.gguf", type="f32", adapters=[(adapter, 0.5)]).path
    tokens, logits = [1, *range(40, 70)], []
    for path, scales in ((source, {"a": 0.5}), (merged, {}), (source, {})):
        with GGUFFile(path) as file, Engine(file, kv_type="f32") as engine:
            if scales:
                engine.adapters.load(adapter)
            cache = engine.new_cache(adapters=engine.adapters.adapter_set(scales))
            logits.append(engine.forward(tokens, cache, logits="all"))
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4)
    assert np.abs(logits[2] - logits[0]).max() > 0.1


def test_a_scale_of_zero_adds_nothing(folder: Path, tmp_path: Path) -> None:
    """The file is that of a conversion without the adapter."""
    plain = convert(folder / "tiny.gguf", tmp_path / "plain.gguf", type="q8_0").path
    adapters = [(folder / "one.gguf", 0.0)]
    zero = convert(folder / "tiny.gguf", tmp_path / "zero.gguf", type="q8_0", adapters=adapters)
    assert zero.path.read_bytes() == plain.read_bytes()


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    """Another model's adapter, none at all, a copy, and a scale that is no number."""
    other = dataclasses.replace(TINY, width=512)
    foreign = write_gguf_adapter(tmp_path / "foreign.gguf", random_gguf_factors(other, 4))
    source, output = folder / "tiny.gguf", tmp_path / "out.gguf"
    for adapters, error, text in (
        ([(foreign, 1.0)], ModelFileError, "which do not fit"),
        ([(tmp_path / "none.gguf", 1.0)], ModelNotFoundError, "no such file"),
        ([(folder / "one.gguf", float("nan"))], InvalidOptionError, "is nan; allowed"),
        ([(source, 1.0)], Exception, "needed: a LoRA adapter"),
    ):
        with pytest.raises(error, match=text):
            plan(source, output, adapters=adapters)
        with pytest.raises(error, match=text):
            convert(source, output, adapters=adapters)
    with pytest.raises(InvalidOptionError, match="type copy with adapters"):
        plan(source, output, type="copy", adapters=[(folder / "one.gguf", 1.0)])
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.gguf"]


def test_resuming_with_another_adapter(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun with one adapter does not go on with another."""
    from edgellama.convert import pipeline

    source, output = folder / "tiny.gguf", tmp_path / "out.gguf"

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "rename_files", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(source, output, type="q8_0", adapters=[(folder / "one.gguf", 1.0)])
    with pytest.raises(ConversionError, match="begun"):
        convert(source, output, type="q8_0", adapters=[(folder / "one.gguf", 2.0)], resume=True)


def test_the_command(run_cli: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    """--lora FILE:SCALE gives the file that the call gives."""
    source = folder / "tiny.gguf"
    lora = [word for path, scale in adapters_in(folder) for word in ("--lora", f"{path}:{scale}")]
    done = run_cli("convert", source, tmp_path / "c.gguf", "--type", "q4_0", *lora)
    assert done.returncode == 0, done.stderr
    called = convert(source, tmp_path / "p.gguf", type="q4_0", adapters=adapters_in(folder)).path
    assert (tmp_path / "c.gguf").read_bytes() == called.read_bytes()
    done = run_cli("convert", source, tmp_path / "d.gguf", "--lora", source)
    assert (done.returncode, done.stdout) == (1, "")
    assert "needed: a LoRA adapter" in done.stderr and "Traceback" not in done.stderr
