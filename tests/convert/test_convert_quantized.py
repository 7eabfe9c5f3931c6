"""Whole checkpoints that other programs quantized become the file that their floats become."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from conftest import CliRunner
from gguf import GGUFWriter
from raw_files import safetensors_bytes, torch_bytes
from reference.family import MEMBERS
from reference.family_member import write_safetensors
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.convert import convert
from edgellama.quant.errors import ConversionError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Parts: TypeAlias = dict[str, Array]
BY_NAME = {member.name: member for member in MEMBERS}
MEMBER = BY_NAME["llama-3.1"]
GROUP = 16
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def nibbles(integers: Array) -> Array:
    """Eight integers of the last axis in each word, lowest first."""
    words = integers.reshape(*integers.shape[:-1], -1, 8).astype(np.uint32)
    packed: Array = (words << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32)
    return packed.view(np.int32)


def four_bits(weights: Array) -> tuple[Array, Array, Array, Array]:
    """Integers (rows, columns), zero points and scales (rows, groups), and what they stand for."""
    groups = weights.astype(np.float32).reshape(len(weights), -1, GROUP)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scales = ((high - low) / 15 + 1e-4).astype(np.float16).astype(np.float32)
    zeros = np.clip(np.round(-low / scales), 0, 15)
    integers = np.clip(np.round(groups / scales + zeros), 0, 15)
    floats = ((integers - zeros) * scales).reshape(weights.shape)
    return integers.reshape(weights.shape), zeros[..., 0], scales[..., 0], floats


def as_gptq(weights: Array) -> tuple[Parts, Array]:
    """GPTQ's parts and their floats."""
    integers, zeros, scales, floats = four_bits(weights)
    stored = (zeros - 1) % 16
    parts = {
        "qweight": np.ascontiguousarray(nibbles(integers).T),
        "qzeros": nibbles(np.ascontiguousarray(stored.T)),
        "scales": np.ascontiguousarray(scales.T.astype(np.float16)),
        "g_idx": (np.arange(weights.shape[1]) // GROUP).astype(np.int32),
        "bias": np.zeros(len(weights), np.float16),
    }
    return parts, floats


def as_awq(weights: Array) -> tuple[Parts, Array]:
    """AWQ's parts and their floats."""
    integers, zeros, scales, floats = four_bits(weights)

    def interleaved(columns: Array) -> Array:
        runs = columns.reshape(len(columns), -1, 8)[:, :, AWQ_ORDER]
        return nibbles(np.ascontiguousarray(runs.reshape(columns.shape)))

    parts = {
        "qweight": interleaved(np.ascontiguousarray(integers.T)),
        "qzeros": interleaved(np.ascontiguousarray(zeros.T)),
        "scales": np.ascontiguousarray(scales.T.astype(np.float16)),
    }
    return parts, floats


def as_fp8(weights: Array) -> tuple[Parts, Array]:
    """FP8 of powers of two alone, with a scale for each block of 16 x 16, and their floats."""
    rows, columns = weights.shape
    scales = np.random.default_rng(1).uniform(0.5, 2, (-(-rows // 16), -(-columns // 16)))
    scales = scales.astype(np.float32)
    exponents = np.clip(np.round(np.log2(np.abs(weights.astype(np.float32)) + 1e-9)), -6, 8)
    signs = weights < 0
    codes = ((exponents + 7).astype(np.uint8) << 3) | (signs.astype(np.uint8) << 7)
    numbers = (np.where(signs, -1, 1) * np.exp2(exponents)).astype(np.float32)
    spread = scales.repeat(16, 0)[:rows].repeat(16, 1)[:, :columns]
    return {"weight": codes, "weight_scale_inv": scales}, numbers * spread


METHODS: Mapping[str, Callable[[Array], tuple[Parts, Array]]] = {
    "GPTQ of 4 bits": as_gptq,
    "AWQ of 4 bits": as_awq,
    "FP8": as_fp8,
}


def write_model(folder: Path, title: str, config: Mapping[str, Any]) -> dict[str, Array]:
    """A member whose layers' matrices are quantized; its weights as floats."""
    MEMBER.write(folder)
    content = json.loads((folder / "config.json").read_text("ascii")) | dict(config)
    (folder / "config.json").write_text(json.dumps(content), "ascii")
    floats: dict[str, Array] = {}
    stored: dict[str, Array] = {}
    dtypes = {}
    for name, weights in MEMBER.weights().items():
        module, _, kind = name.rpartition(".")
        if ".layers." not in name or weights.ndim != 2:
            floats[name] = stored[name] = weights
            continue
        parts, floats[name] = METHODS[title](weights)
        stored |= {f"{module}.{part}": array for part, array in parts.items()}
        if title == "FP8":
            dtypes[f"{module}.{kind}"] = "F8_E4M3"
    content_bytes = safetensors_bytes.saved(stored, dtypes=dtypes)
    (folder / "model.safetensors").write_bytes(content_bytes)
    return floats


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    """Format and bytes of every tensor."""
    with GGUFFile(path) as file:
        return {t.name: (t.format.name, t.data.tobytes()) for t in file.tensors.values()}


@pytest.mark.parametrize("type_name", ["f32", "q8_0"])
@pytest.mark.parametrize("title", METHODS)
def test_the_file_is_that_of_the_floats(
    title: str, type_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A quantized checkpoint gives, byte for byte, the tensors that its expanded floats give."""
    floats = write_model(tmp_path / "quantized", title, {"quantization_config": {"bits": "?"}})
    MEMBER.write(tmp_path / "floats")
    write_safetensors(tmp_path / "floats" / "model.safetensors", floats)
    with caplog.at_level(logging.WARNING, "edgellama"):
        found = convert(
            tmp_path / "quantized", tmp_path / "a.gguf", type=type_name, verify=True, num_threads=2
        )
    expected = convert(tmp_path / "floats", tmp_path / "b.gguf", type=type_name)
    assert tensors_of(found.path) == tensors_of(expected.path)
    (note,) = found.notes
    assert note.startswith(f"14 matrices are stored as {title}: they are expanded before")
    assert expected.notes == () and len(caplog.records) == 1


@pytest.mark.parametrize("container", ["safetensors", "torch"])
def test_double_precision_is_rounded_once(container: str, tmp_path: Path) -> None:
    """A checkpoint of float64 gives the file of its float32, and says so."""
    floats = {name: weights.astype(np.float32) for name, weights in MEMBER.weights().items()}
    MEMBER.write(tmp_path / "single")
    write_safetensors(tmp_path / "single" / "model.safetensors", floats)
    MEMBER.write(tmp_path / "double")
    exact = {name: weights + 1e-9 * weights for name, weights in
             ((name, weights.astype(np.float64)) for name, weights in floats.items())}  # fmt: skip
    exact["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4)
    place = tmp_path / "double" / "model.safetensors"
    if container == "torch":
        place.unlink()
        place = place.with_name("pytorch_model.bin")
    saved = torch_bytes.saved if container == "torch" else safetensors_bytes.saved
    place.write_bytes(saved(exact))
    found = convert(tmp_path / "double", tmp_path / "a.gguf", type="q8_0", num_threads=2)
    expected = convert(tmp_path / "single", tmp_path / "b.gguf", type="q8_0")
    assert tensors_of(found.path) == tensors_of(expected.path)
    assert found.notes == (f"{len(floats)} tensors are float64: they are rounded to float32 "
                           "before they are converted",)  # fmt: skip


@pytest.mark.parametrize("type_name", ["copy", "q8_0"])
def test_double_precision_in_gguf_files(
    type_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of float64 become float32 there, too, even where all others are copied."""
    plain = write_tiny_llama(tmp_path / "plain.gguf", TinyLlama())
    add = GGUFWriter.add_tensor

    def added(writer: GGUFWriter, name: str, tensor: Any, **options: Any) -> None:
        if "norm" in name:
            add(writer, name, tensor.astype(np.float64))
        else:
            add(writer, name, tensor, **options)

    monkeypatch.setattr(GGUFWriter, "add_tensor", added)
    double = write_tiny_llama(tmp_path / "double.gguf", TinyLlama())
    found = convert(double, tmp_path / "a.gguf", type=type_name)
    expected = convert(plain, tmp_path / "b.gguf", type=type_name)
    assert tensors_of(found.path) == tensors_of(expected.path)
    assert found.notes[0].startswith("5 tensors are float64")


def test_double_precision_beyond_single_is_refused(tmp_path: Path) -> None:
    """A number that float32 has not is an error of its tensor, as infinity is."""
    MEMBER.write(tmp_path / "model")
    weights = {name: array.astype(np.float64) for name, array in MEMBER.weights().items()}
    weights["model.norm.weight"][3] = 1e39
    content = safetensors_bytes.saved(weights)
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(ConversionError, match=r"output_norm.*NaN or infinite.*column 3"):
        convert(tmp_path / "model", tmp_path / "a.gguf", type="f16")


def test_on_the_command_line(tmp_path: Path, run_cli: CliRunner) -> None:
    """What was expanded is one line on stderr; the file runs."""
    write_model(tmp_path / "model", "AWQ of 4 bits", {})
    done = run_cli("convert", tmp_path / "model", tmp_path / "out.gguf", "--type", "q4_0")
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path / 'out.gguf'}: q4_0")
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "14 matrices are stored as AWQ of 4 bits" in warnings[0]
    shown = run_cli("generate", tmp_path / "out.gguf", "-p", "abc", "-n", "2")
    assert shown.returncode == 0


def test_an_unknown_method_is_refused_on_the_command_line(
    tmp_path: Path, run_cli: CliRunner
) -> None:
    """The line names the method and what to do; nothing is written."""
    MEMBER.write(tmp_path / "model")
    weights = MEMBER.weights()
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = np.zeros((weights[name].size // 2, 1), np.uint8)
    weights["model.layers.0.mlp.up_proj.codebooks"] = np.zeros(9, np.uint8)
    (tmp_path / "model" / "model.safetensors").write_bytes(safetensors_bytes.saved(weights))
    done = run_cli("convert", tmp_path / "model", tmp_path / "out.gguf")
    assert done.returncode == 1 and not (tmp_path / "out.gguf").exists()
    (line,) = done.stderr.splitlines()
    assert "quantized by AQLM" in line and "convert the model that it was made from" in line


def test_matrices_of_bytes_without_a_method_are_refused(tmp_path: Path) -> None:
    """Integers that nothing explains are refused by their type."""
    MEMBER.write(tmp_path / "model")
    weights = MEMBER.weights()
    weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((48, 32), np.int8)
    (tmp_path / "model" / "model.safetensors").write_bytes(safetensors_bytes.saved(weights))
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight' has dtype 'I8'; allowed: F"):
        convert(tmp_path / "model", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
