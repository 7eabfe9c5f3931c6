"""Conversions of tiny models: what is written, how exact it is, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from reference.tiny_models import Array, TinyLlama, random_weights, write_llama, write_tiny_llama

from edgellama.convert import convert, pipeline, plan
from edgellama.convert.imatrix import write_imatrix
from edgellama.convert.output import writer
from edgellama.convert.output.chunks import CHUNK_ELEMENTS
from edgellama.quant.errors import ConversionError, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.gguf.part import read_part

TINY = TinyLlama(width=256, feed_forward=512, vocab_size=300, layers=2, rope_freqs=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of F32 weights that is only read."""
    return write_tiny_llama(tmp_path_factory.mktemp("source") / "tiny.gguf", TINY)


def values_of(path: Path) -> dict[str, Array]:
    """Every tensor as f32, by the gguf package."""
    with GGUFFile(path) as file:
        return {
            t.name: quants.dequantize(
                np.array(t.data).reshape(*t.shape[:-1], -1), GGMLQuantizationType(t.format.ggml_id)
            )
            for t in file.tensors.values()
        }


@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"])
def test_tensors_are_those_of_the_gguf_package(
    source: Path, tmp_path: Path, type_name: str
) -> None:
    """Every tensor is what the gguf package quantizes it to, and vectors stay F32."""
    weights = random_weights(TINY)
    report = convert(source, tmp_path / "out.gguf", type=type_name, pure=True, num_threads=2)
    kind = GGMLQuantizationType[type_name.upper()]
    with GGUFFile(report.path) as file:
        assert list(file.tensors) == [tensor.name for tensor in report.tensors]
        assert set(file.tensors) == set(weights)
        for name, values in weights.items():
            expected = quants.quantize(values, kind) if values.ndim == 2 else values
            assert file.tensors[name].format.name == (kind.name if values.ndim == 2 else "F32")
            assert file.tensors[name].shape == values.shape
            assert file.tensors[name].data.tobytes() == expected.tobytes()


def test_metadata_is_kept_and_completed(source: Path, tmp_path: Path) -> None:
    """The source's metadata comes back, with the type, and what the user sets goes before it."""
    given = {"general.author": "me", "llama.context_length": "512", "custom.number": "1.5"}
    report = convert(source, tmp_path / "out.gguf", type="q8_0", metadata=given, name="Mine")
    with GGUFFile(source) as before, GGUFFile(report.path) as after:
        changed = {"general.name", "llama.context_length"}
        for key in set(before.metadata) - changed:
            old, new = before.metadata[key], after.metadata[key]
            assert list(old) == list(new) if hasattr(old, "__len__") else old == new
        expected: dict[str, Any] = {
            "general.file_type": 7,
            "general.quantization_version": 2,
            "general.name": "Mine",
            "general.author": "me",
            "llama.context_length": 512,
            "custom.number": 1.5,
        }
        assert {key: after.metadata[key] for key in expected} == expected


def test_results_do_not_depend_on_threads(source: Path, tmp_path: Path) -> None:
    """Bytes and errors are the same for any number of threads."""
    model = replace(TINY, vocab_size=2 * CHUNK_ELEMENTS // TINY.width + 7, layers=1)
    large = write_tiny_llama(tmp_path / "large.gguf", model)
    results = []
    for num_threads in (1, 2, 3):
        report = convert(
            large, tmp_path / f"{num_threads}.gguf", type="q4_1", num_threads=num_threads, pure=True
        )
        results.append((report.path.read_bytes(), report.tensors))
    assert results[0] == results[1] == results[2]


def test_a_report_replaces_nothing_else(source: Path, tmp_path: Path) -> None:
    """The report's path is refused if it is a source, an output, or there already."""
    output, there = tmp_path / "out.gguf", tmp_path / "there.json"
    there.write_text("mine", "utf-8")
    before = source.read_bytes()
    for path in (source, output, tmp_path / "out.gguf.partial"):
        with pytest.raises(InvalidOptionError, match="report"):
            convert(source, output, type="q8_0", report=path, overwrite=True)
    with pytest.raises(ConversionError, match="there already"):
        convert(source, output, type="q8_0", report=there)
    assert (source.read_bytes(), there.read_text("utf-8")) == (before, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.json"]
    convert(source, output, type="q8_0", report=there, overwrite=True)
    assert json.loads(there.read_text("utf-8"))["files"] == [str(output)]


def test_the_report_tells_the_errors(source: Path, tmp_path: Path) -> None:
    """Errors per tensor and in all are those of the written values; JSON holds the same."""
    path = tmp_path / "report.json"
    report = convert(source, tmp_path / "out.gguf", type="q4_0", pure=True, report=path)
    before, after = values_of(source), values_of(report.path)
    for tensor in report.tensors:
        errors = (after[tensor.name] - before[tensor.name]).astype(np.float64)
        rmse = np.sqrt(np.mean(errors**2))
        worst = np.sqrt(np.mean(errors.reshape(-1, 32) ** 2, axis=1)).max()
        assert tensor.rmse == pytest.approx(rmse, rel=1e-5)
        assert tensor.worst_block_error == pytest.approx(worst, rel=1e-5)
        size = np.sqrt(np.mean(before[tensor.name].astype(np.float64) ** 2))
        assert tensor.relative_rmse == pytest.approx(rmse / size, rel=1e-5)
    errors = np.concatenate([(after[n] - before[n]).ravel() for n in before]).astype(np.float64)
    assert report.rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    assert report.bits_per_weight == 8 * sum(t.num_bytes for t in report.tensors) / errors.size
    written = json.loads(path.read_text("utf-8"))
    assert written["tensors"][0]["rmse"] == report.tensors[0].rmse
    assert written["files"] == [str(report.path)]
    assert written["relative_rmse"] == report.relative_rmse > 0


def test_the_plan_is_what_is_written(source: Path, tmp_path: Path) -> None:
    """A plan names the formats, the sizes and the files that a conversion then has."""
    planned = plan(source, tmp_path / "out.gguf", type="q4_0", pure=True)
    assert not list(tmp_path.iterdir())
    report = convert(source, tmp_path / "out.gguf", type="q4_0", pure=True)
    assert [t.format.name for t in planned.tensors] == [t.format for t in report.tensors]
    assert planned.num_bytes == report.num_bytes == report.path.stat().st_size
    assert planned.bits_per_weight == report.bits_per_weight


def test_parts_join_to_the_whole(source: Path, tmp_path: Path) -> None:
    """A model in parts has the tensors of the one in a file, and parts of the size asked for."""
    whole = convert(source, tmp_path / "whole.gguf", type="q8_0")
    parts = convert(source, tmp_path / "out.gguf", type="q8_0", split_max_size=500_000, verify=True)
    count = len(parts.files)
    assert count > 2
    names = [f"out-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    assert [path.name for path in parts.files] == names
    with GGUFFile(whole.path) as one, GGUFFile(parts.path) as many:
        assert list(one.tensors) == list(many.tensors)
        for name, tensor in one.tensors.items():
            assert np.array_equal(tensor.data, many.tensors[name].data)
        assert many.metadata["split.count"] == count
        own = {key: value for key, value in many.metadata.items() if not key.startswith("split.")}
        assert list(map(repr, own.items())) == list(map(repr, one.metadata.items()))
    for path in parts.files[1:]:
        assert all(key.startswith("split.") for key in read_part(path).metadata)
    header_bytes = 20_000
    assert max(path.stat().st_size for path in parts.files) < 500_000 + header_bytes


@pytest.mark.parametrize(
    ("size", "num_bytes"), [("2G", 2 * 10**9), ("500m", 5 * 10**8), (12345, 12345)]
)
def test_sizes_of_parts(size: str | int, num_bytes: int) -> None:
    """Sizes are numbers of bytes, or texts in powers of 1000."""
    from edgellama.convert.options import read_options

    assert read_options(None, {"split_max_size": size}).split_max_bytes == num_bytes


@pytest.mark.parametrize("type_name", ["f16", "q8_0"])
def test_tensors_of_the_same_format_are_copied(tmp_path: Path, type_name: str) -> None:
    """What already has the format keeps its bytes, without an error."""
    model = replace(TINY, weight_format=type_name.upper())
    source = write_tiny_llama(tmp_path / "source.gguf", model)
    report = convert(source, tmp_path / "out.gguf", type=type_name)
    with GGUFFile(source) as before, GGUFFile(report.path) as after:
        for name, tensor in before.tensors.items():
            assert np.array_equal(tensor.data, after.tensors[name].data)
    assert report.relative_rmse == 0


def test_formats_without_kernels_are_read(tmp_path: Path) -> None:
    """What no kernel reads is expanded by the gguf package, to the same values."""
    model = replace(TINY, weight_format="NVFP4", formats={"token_embd": "F16"})
    source = write_tiny_llama(tmp_path / "source.gguf", model)
    report = convert(source, tmp_path / "out.gguf", type="f32", verify=True)
    before, after = values_of(source), values_of(report.path)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    assert report.relative_rmse == 0


def test_mixes_reach_the_file(source: Path, tmp_path: Path) -> None:
    """The default type writes the formats of its recipe, and they are what they claim to be."""
    report = convert(source, tmp_path / "out.gguf", verify=True)
    formats = {tensor.name: tensor.format for tensor in report.tensors}
    assert report.type == "q4_k_m"
    assert formats["output.weight"] == "Q6_K"
    assert formats["blk.0.attn_q.weight"] == "Q4_K"
    before, after = values_of(source), values_of(report.path)
    for tensor in report.tensors:
        errors = after[tensor.name].astype(np.float64) - before[tensor.name]
        assert tensor.rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-4, abs=1e-9)
        assert tensor.relative_rmse < {"Q4_K": 0.09, "Q6_K": 0.03, "F32": 1e-9}[tensor.format]


def test_rows_that_are_no_blocks_are_half_precision(tmp_path: Path) -> None:
    """Widths that no block divides, and odd numbers of rows, become F16, exact to its precision."""
    model = replace(TINY, width=80, feed_forward=100, vocab_size=301, biases=True)
    source = write_tiny_llama(tmp_path / "source.gguf", model)
    report = convert(source, tmp_path / "out.gguf", type="q4_k_m", verify=True)
    assert {tensor.format for tensor in report.tensors} == {"F16", "F32"}
    before, after = values_of(source), values_of(report.path)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=2**-11, atol=1e-7)


def test_importance_reaches_the_quantizers(source: Path, tmp_path: Path) -> None:
    """Columns that an importance matrix names have smaller errors than without it."""
    name = "blk.0.ffn_up.weight"
    importance = np.full(TINY.width, 1e-3)
    importance[::8] = 1.0
    imatrix = tmp_path / "im.gguf"
    write_imatrix(imatrix, {name: importance * 100}, num_tokens=100, chunk_tokens=10, datasets=[])
    original = values_of(source)[name][:, ::8]
    errors = []
    for number, path in enumerate((None, imatrix)):
        report = convert(source, tmp_path / f"{number}.gguf", type="q4_0", pure=True, imatrix=path)
        errors.append(np.square(values_of(report.path)[name][:, ::8] - original).sum())
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("sums", "message"),
    [({"other.weight": 256}, "names no tensor"), ({"blk.0.ffn_up.weight": 32}, "has 32 columns")],
)
def test_importance_of_another_model_is_refused(
    source: Path, tmp_path: Path, sums: dict[str, int], message: str
) -> None:
    """An importance matrix whose names or columns do not fit is refused."""
    imatrix = tmp_path / "im.gguf"
    rows = {name: np.ones(count) for name, count in sums.items()}
    write_imatrix(imatrix, rows, num_tokens=10, chunk_tokens=10, datasets=[])
    with pytest.raises(InvalidOptionError, match=message):
        convert(source, tmp_path / "out.gguf", type="q4_0", imatrix=imatrix)


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float, text: str) -> None:
    """NaN and infinity are refused with tensor, count and first place, and nothing is left."""
    weights = random_weights(TINY)
    weights["blk.1.ffn_up.weight"][5, 17] = bad
    weights["blk.1.ffn_up.weight"][300, 0] = bad
    source = write_llama(tmp_path / "source.gguf", TINY, weights)
    with pytest.raises(
        ConversionError,
        match=rf"source\.gguf: tensor blk\.1\.ffn_up\.weight has 2 .*{text}.*row 5, column 17",
    ):
        convert(source, tmp_path / "out.gguf", type="q8_0")
    assert list(tmp_path.iterdir()) == [source]


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    """A weight that F16 cannot hold is no infinity in the file but an error; BF16 holds it."""
    weights = random_weights(TINY)
    weights["blk.0.attn_q.weight"][0, 0] = 1e6
    source = write_llama(tmp_path / "source.gguf", TINY, weights)
    with pytest.raises(ConversionError, match=r"blk\.0\.attn_q\.weight.*too large for F16"):
        convert(source, tmp_path / "out.gguf", type="f16")
    report = convert(source, tmp_path / "out.gguf", type="bf16")
    assert report.relative_rmse < 0.01


def test_existing_files_are_kept(source: Path, tmp_path: Path) -> None:
    """A file that is there is replaced only if that is asked for, and never the source."""
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    with pytest.raises(ConversionError, match=r"is there already; overwrite=True"):
        convert(source, output, type="q8_0")
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]
    convert(source, output, type="q8_0", overwrite=True)
    with GGUFFile(output):
        pass
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    before = source.read_bytes()
    for same in (source, link):
        with pytest.raises(ConversionError, match="is the source itself"):
            convert(source, same, type="q8_0", overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are POSIX's")
def test_what_is_no_file_is_not_replaced(source: Path, tmp_path: Path) -> None:
    """A device or a pipe is no output, whatever may be replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConversionError, match="pipe is a device or a pipe; allowed: a file"):
        convert(source, pipe, type="q8_0", overwrite=True)
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_outputs_of_any_name(source: Path, tmp_path: Path) -> None:
    """A name that is no UTF-8 is a name."""
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf"))
    try:
        output.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    convert(source, output, type="q8_0", overwrite=True)
    with GGUFFile(output):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": "q9"}, r"'q9'.*q4_k_m"),
        ({"tensor_types": [("ffn", "q9")]}, r"'q9'.*q8_0"),
        ({"tensor_types": [("ffn(", "q8_0")]}, r"'ffn\(' is no regular expression"),
        ({"output_tensor_type": "q4_k_m"}, r"'q4_k_m'"),
        ({"num_threads": 0}, r"num_threads is 0; allowed: 1 and more"),
        ({"split_max_size": "2T"}, r"'2T'.*500M"),
        ({"split_max_size": 0}, r"a part is 0; allowed: 1 byte"),
        ({"metadata": {"tokenizer.ggml.tokens": "a"}}, r"tokenizer\.ggml\.tokens is an array"),
        ({"metadata": {"general.file_type": "1"}}, r"general\.file_type follows"),
        ({"metadata": {"llama.block_count": "two"}}, r"llama\.block_count=two.*UINT32"),
        ({"metadata": {"no key": "1"}}, r"'no key'"),
        ({"report": "/no/such/folder/r.json"}, r"no folder /no/such/folder"),
    ],
)
def test_bad_options_are_refused(
    source: Path, tmp_path: Path, arguments: Any, message: str
) -> None:
    """A wrong option is refused before anything is written, with what is allowed."""
    with pytest.raises(InvalidOptionError, match=message):
        convert(source, tmp_path / "out.gguf", **arguments)
    assert not list(tmp_path.iterdir())


def test_patterns_that_match_nothing_are_told(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pattern that is found in no name is warned of."""
    plan(source, type="q8_0", tensor_types=[("ffn_donw", "q8_0"), ("ffn_up", "f16")])
    assert [record.getMessage() for record in caplog.records] == [
        "tensor type 'ffn_donw' matches no tensor"
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Some-Model.Q4_1.gguf", "Some-Model-Q8_0.gguf"),
        ("model-f16.gguf", "model-Q8_0.gguf"),
        ("plain.gguf", "plain-Q8_0.gguf"),
        ("Big-Q4_K_M-00001-of-00001.gguf", "Big-Q8_0.gguf"),
    ],
)
def test_default_names(source: Path, tmp_path: Path, name: str, expected: str) -> None:
    """Without an output the file is named after the source and the type, in the current folder."""
    copy = tmp_path / name
    copy.write_bytes(source.read_bytes())
    assert plan(copy, type="q8_0").output == Path(expected)
    assert plan(copy, type="q8_0", name="A b/c").output == Path("A-b-c-Q8_0.gguf")


def test_progress_reaches_the_end(source: Path, tmp_path: Path) -> None:
    """Progress names every tensor and counts every stage's bytes up to the total."""
    seen: list[pipeline.ConversionProgress] = []
    report = convert(source, tmp_path / "out.gguf", type="q8_0", verify=True, progress=seen.append)
    for stage in ("converting", "verifying"):
        events = [event for event in seen if event.stage == stage]
        assert {event.tensor for event in events} == {tensor.name for tensor in report.tensors}
        assert [event.bytes_done for event in events] == sorted(e.bytes_done for e in events)
        assert events[-1].bytes_done == events[-1].bytes_total == report.source_bytes


def damage(path: Path, needle: bytes, change: bytes) -> None:
    """Replaces the first ``needle`` in a file."""
    content = path.read_bytes()
    assert needle in content
    path.write_bytes(content.replace(needle, change, 1))


@pytest.mark.parametrize("what", ["data", "metadata", "table"])
def test_verify_finds_what_is_not_as_written(
    source: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that differs on disk, wherever it is, fails the verification and leaves no file."""
    output = tmp_path / "out.gguf"

    def spoil() -> None:
        partial = writer.partial_path(output)
        if what == "data":
            content = bytearray(partial.read_bytes())
            content[-5000] ^= 1
            partial.write_bytes(content)
        elif what == "metadata":
            damage(partial, b"<|im_start|>", b"<|im_stort|>")
        else:
            damage(partial, b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")

    real_verify: Callable[..., None] = pipeline.verify_files

    def spoiled_verify(*arguments: Any) -> None:
        spoil()
        real_verify(*arguments)

    monkeypatch.setattr(pipeline, "verify_files", spoiled_verify)
    with pytest.raises(ConversionError, match="verification failed"):
        convert(source, output, type="q8_0", verify=True)
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_is_named(source: Path, tmp_path: Path) -> None:
    """A folder that nothing can be written to, or that is not there, is one clear error."""
    with pytest.raises(ConversionError, match=re.escape(str(tmp_path / "none"))):
        convert(source, tmp_path / "none" / "out.gguf", type="q8_0")
    with pytest.raises(ConversionError, match="cannot be written"):
        convert(source, "/proc/out.gguf", type="q8_0")


def test_a_full_disk_is_seen_before_the_start(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for the result is refused with both sizes, before anything is written."""
    from edgellama.convert.planning import planner as planning

    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: type("U", (), {"free": 10**5}))
    with pytest.raises(ConversionError, match=r"MB are needed; the disk has 0 MB free"):
        convert(source, tmp_path / "out.gguf", type="q8_0")
    assert not list(tmp_path.iterdir())
