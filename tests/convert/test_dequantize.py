"""Checkpoints that other programs quantized: told by their tensors, expanded as they would be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DATA
from raw_files import safetensors_bytes, torch_bytes

from edgellama.convert.dequantize import elements
from edgellama.convert.dequantize.column_reader import ColumnReader
from edgellama.convert.dequantize.packed_integers import BITS, num_words, unpack_rows
from edgellama.convert.dequantize.recognition import FloatTensors, float_tensors
from edgellama.convert.dequantize.settings import shared_size
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.convert.sources.source_tensor import ArrayTensor, SourceTensor
from edgellama.quant.errors import EdgellamaError, ModelFileError, UnsupportedModelError

GOLDEN = [
    DATA / name for name in ("dequantize_golden.npz", "small_float_golden.npz", "packed_golden.npz")
]
CASES = (
    *("gptq-2", "gptq-3", "gptq-4", "gptq-8", "gptq-4-act-order", "awq"),
    *("packed-4", "packed-4-zeros", "packed-8-zeros", "fp8-tensor", "fp8-blocks"),
    *("nf4", "nf4-nested", "fp4", "int8-rows", "awq-rows"),
    *("packed-5", "packed-6-zeros", "nvfp4", "mxfp4", "mxfp8", "torchao-int8", "torchao-fp8"),
    *("bitnet", "packed-1", "packed-4-signed-zeros"),
    *("packed-5-gaps", "packed-7-gaps", "packed-3-gaps-zeros", "packed-7-gaps-zeros"),
)
FP8_TABLES = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
MODULE = "model.layers.0.self_attn.q_proj"
E4M3 = {f"{MODULE}.weight": "F8_E4M3"}
DTYPES = {
    "nvfp4": {f"{MODULE}.weight_scale": "F8_E4M3"},
    "torchao-fp8": {f"{MODULE}._weight_qdata": "F8_E4M3"},
    **dict.fromkeys(("fp8-tensor", "fp8-blocks", "mxfp8"), E4M3),
}
Arrays = Mapping[str, Any]


def of_bits(*bits: int) -> dict[str, Any]:
    """What compressed-tensors says of the bits of its integers, a group each."""
    return {"config_groups": {f"group_{b}": {"weights": {"num_bits": b}} for b in bits}}


SETTINGS = {
    "awq-rows": {"group_size": 32},
    **dict.fromkeys(("packed-7-gaps", "packed-7-gaps-zeros"), of_bits(4, 7)),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What auto_gptq, compressed-tensors, transformers, torch and torchao computed."""
    return read_golden()


def read_golden() -> dict[str, Any]:
    """All golden arrays by their names."""
    return {name: array for path in GOLDEN for name, array in np.load(path).items()}


def parts_of(golden: Mapping[str, Any], case: str) -> tuple[dict[str, Any], Any]:
    """A golden case's tensors by their names in a model, and what they expand to."""
    found = {
        name.partition("/")[2]: array
        for name, array in golden.items()
        if name.startswith(f"{case}/")
    }
    expected = found.pop("expected")
    return {f"{MODULE}.{part}": array for part, array in found.items()}, expected


def expanded(
    folder: Path,
    arrays: Arrays,
    dtypes: Mapping[str, str] | None = None,
    settings: object = None,
) -> FloatTensors:
    """The float tensors of a checkpoint with these arrays and this quantization_config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}), "ascii")
    content = safetensors_bytes.saved(arrays, dtypes=dtypes)
    (folder / "model.safetensors").write_bytes(content)
    with open_checkpoint(folder) as checkpoint:
        return float_tensors(checkpoint)


def values(tensor: SourceTensor, first: int = 0, last: int | None = None) -> Any:
    """Rows of an F32 tensor."""
    end = tensor.num_rows if last is None else last
    assert tensor.format.name == "F32"
    rows = tensor.rows(first, end)
    assert rows.flags.c_contiguous and rows.shape == (end - first, tensor.row_bytes)
    return rows.view(np.float32).reshape(end - first, tensor.num_columns)


@pytest.mark.parametrize("case", CASES)
def test_as_the_published_programs_expand(
    case: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Every method gives its own program's values, in whatever runs of rows they are read."""
    arrays, expected = parts_of(golden, case)
    found = expanded(tmp_path, arrays, DTYPES.get(case), SETTINGS.get(case))
    assert list(found.tensors) == [f"{MODULE}.weight"]
    tensor = found.tensors[f"{MODULE}.weight"]
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(values(tensor), expected)
    for first, last in ((0, 1), (1, 4), (5, 21), (7, 8), (9, 9), (23, 24), (0, 24)):
        np.testing.assert_array_equal(values(tensor, first, last), expected[first:last])
    (note,) = found.notes
    assert note.startswith("1 matrices are stored as ")


@pytest.mark.parametrize(
    ("case", "params"),
    [
        ("meta-adaptor", {"lora_args": {"rank": 4, "scale": 2.0}, "quantization_args": {}}),
        ("meta-rotated", {"quantization_args": {"group_size": 32}}),
        ("meta-rotated", {"quantization_args": {"spinquant": True}}),
    ],
)
def test_of_meta(case: str, params: dict[str, Any], golden: dict[str, Any], tmp_path: Path) -> None:
    """Adaptors are added and rotations undone, of those matrices alone that have them."""
    arrays, expected = parts_of(golden, case)
    named = {
        name.replace(MODULE, module): array
        for name, array in arrays.items()
        for module in ("layers.0.feed_forward.w2", "output")
    }
    (tmp_path / "params.json").write_text(json.dumps({"dim": 64} | params), "ascii")
    (tmp_path / "consolidated.00.pth").write_bytes(torch_bytes.saved(named))
    with open_checkpoint(tmp_path) as checkpoint:
        found = float_tensors(checkpoint)
    assert set(found.tensors) == {"layers.0.feed_forward.w2.weight", "output.weight"}
    np.testing.assert_allclose(
        values(found.tensors["layers.0.feed_forward.w2.weight"]), expected, rtol=0, atol=2e-6
    )
    plain = arrays[f"{MODULE}.weight"] * arrays[f"{MODULE}.scales"].repeat(32, axis=1)
    is_plain = np.array_equal(values(found.tensors["output.weight"]), plain)
    assert is_plain == (case == "meta-rotated")


def test_no_rotation_where_params_say_so(golden: dict[str, Any], tmp_path: Path) -> None:
    """Matrices without SpinQuant's rotation stay; a rotation of an odd width is refused."""
    weight = np.arange(12, dtype=np.int8).reshape(2, 6)
    arrays = {
        "layers.0.feed_forward.w2.weight": weight,
        "layers.0.feed_forward.w2.scales": np.ones((2, 1), np.float32),
    }
    (tmp_path / "consolidated.00.pth").write_bytes(torch_bytes.saved(arrays))
    settings = {"dim": 6, "quantization_args": {"spinquant": False}}
    (tmp_path / "params.json").write_text(json.dumps(settings), "ascii")
    with open_checkpoint(tmp_path) as checkpoint:
        (tensor,) = float_tensors(checkpoint).tensors.values()
    np.testing.assert_array_equal(values(tensor), weight)
    settings = {"dim": 6, "quantization_args": {"spinquant": True}}
    (tmp_path / "params.json").write_text(json.dumps(settings), "ascii")
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(UnsupportedModelError, match="has rotated 6 columns of"),
    ):
        float_tensors(checkpoint)


@pytest.mark.parametrize("case", ["gptq-4", "awq"])
def test_from_torch_files(case: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """Packed integers are read from torch's files, too."""
    arrays, expected = parts_of(golden, case)
    (tmp_path / "config.json").write_text("{}", "ascii")
    (tmp_path / "pytorch_model.bin").write_bytes(torch_bytes.saved(arrays))
    with open_checkpoint(tmp_path) as checkpoint:
        (tensor,) = float_tensors(checkpoint).tensors.values()
    np.testing.assert_array_equal(values(tensor), expected)


@pytest.mark.parametrize("name", FP8_TABLES)
def test_values_of_small_floats(name: str, golden: dict[str, Any]) -> None:
    """All 256 codes of each type are torch's."""
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(elements.as_floats(codes, name), golden[f"values/{name}"])


def test_fp8_by_hand() -> None:
    """E4M3: 0x38 is 1, 0x3C is 1.5, 0x01 is 2^-9, 0x7E is 448, 0xB8 is -1, 0x7F is no number."""
    codes = np.array([0x38, 0x3C, 0x01, 0x7E, 0xB8, 0x7F], np.uint8)
    found = elements.as_floats(codes, "F8_E4M3").tolist()
    assert found[:5] == [1, 1.5, 2**-9, 448, -1] and np.isnan(found[5])


@pytest.mark.parametrize(
    ("scale", "dtype", "factors"),
    [
        (np.float32(2), "F32", [[2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]),
        (np.array([2], np.float32), "F32", [[2] * 3] * 4),
        (np.array([1, 2, 3, 4], np.float16), "F16", [[1] * 3, [2] * 3, [3] * 3, [4] * 3]),
        (np.array([[1], [2], [3], [4]], np.float32), "F32", [[1] * 3, [2] * 3, [3] * 3, [4] * 3]),
        (np.array([[0x4040]], np.uint16), "BF16", [[3] * 3] * 4),
        (np.array([[1, 2], [3, 4]], np.float32), "F32", [[1, 1, 2]] * 2 + [[3, 3, 4]] * 2),
        (np.array([[127, 128], [126, 129]], np.uint8), "F8_E8M0",
         [[1, 1, 2]] * 2 + [[0.5, 0.5, 4]] * 2),
        (np.array([[1, 2, 3]] * 4, np.float32), "F32", [[1, 2, 3]] * 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
def test_scales(scale: Any, dtype: str, factors: Any, name: str, tmp_path: Path) -> None:
    """One scale is for all, a vector for rows, a matrix for blocks; any of float types."""
    codes = np.full((4, 3), 0x38, np.uint8)
    arrays = {f"{MODULE}.weight": codes, f"{MODULE}.{name}": np.asarray(scale)}
    arrays[f"{MODULE}.input_scale"] = np.ones((), np.float32)
    found = expanded(tmp_path, arrays, {**E4M3, f"{MODULE}.{name}": dtype})
    assert list(found.tensors) == [f"{MODULE}.weight"]
    assert values(found.tensors[f"{MODULE}.weight"]).tolist() == factors


def test_the_stated_block_decides(tmp_path: Path) -> None:
    """Where shapes leave a choice, the block that config.json states is the block."""
    codes = np.full((200, 4), 0x38, np.uint8)
    scale = np.array([[1], [2]], np.float32)
    arrays = {f"{MODULE}.weight": codes, f"{MODULE}.weight_scale_inv": scale}
    borders = (([100, 4], 100), ([150, 8], 150), (None, 128), (["x"], 128), ([10**30, 4], 128))
    for block, border in borders:
        settings = {"weight_block_size": block}
        found = expanded(tmp_path, arrays, E4M3, settings).tensors[f"{MODULE}.weight"]
        assert np.flatnonzero(np.diff(values(found)[:, 0])).tolist() == [border - 1]


def test_fp8_without_any_scale(tmp_path: Path) -> None:
    """FP8 that was only cast is taken as it is, and told; one scale missing is an error."""
    codes = np.full((2, 4), 0x3C, np.uint8)
    found = expanded(tmp_path, {f"{MODULE}.weight": codes}, E4M3)
    assert values(found.tensors[f"{MODULE}.weight"]).tolist() == [[1.5] * 4] * 2
    assert "FP8 without scales" in found.notes[0]
    arrays = {f"{MODULE}.weight": codes, "a.weight": codes, "a.weight_scale": np.float32(1)}
    with pytest.raises(ModelFileError, match=r"q_proj'\.weight_scale is missing"):
        expanded(tmp_path, arrays, {**E4M3, "a.weight": "F8_E4M3"})


def test_int8_with_zero_points(tmp_path: Path) -> None:
    """Rows of int8 have a scale, and perhaps a zero point, each."""
    arrays = {
        f"{MODULE}.weight": np.array([[1, -2], [3, -128]], np.int8),
        f"{MODULE}.weight_scale": np.array([[0.5], [2]], np.float32),
        f"{MODULE}.weight_zero_point": np.array([[1], [-1]], np.int8),
    }
    found = expanded(tmp_path, arrays).tensors[f"{MODULE}.weight"]
    assert values(found).tolist() == [[0, -1.5], [8, -254]]


def gptq_parts(zero: int) -> dict[str, Any]:
    """8 rows of 8 columns of 4-bit fives whose stored zero points are all alike."""
    return {
        f"{MODULE}.qweight": np.full((1, 8), 0x55555555, np.int32),
        f"{MODULE}.qzeros": np.array([[zero * 0x11111111]], np.uint32).view(np.int32),
        f"{MODULE}.scales": np.full((1, 8), 0.5, np.float16),
    }


@pytest.mark.parametrize(
    ("zero", "settings", "expected"),
    [
        (7, None, 5 - 8),
        (8, None, 5 - 8),
        (3, None, 5 - 4),
        (15, None, 5 - 0),
        (3, {"checkpoint_format": "gptq"}, 5 - 4),
        (3, {"checkpoint_format": "gptq_v2"}, 5 - 3),
        (8, {"checkpoint_format": "gptq"}, 5 - 9),
        (8, {"checkpoint_format": "gptq", "sym": True}, 5 - 8),
        (7, {"checkpoint_format": "gptq_v2"}, 5 - 7),
        (7, {"checkpoint_format": ["?"], "sym": "?"}, 5 - 8),
    ],
)
def test_versions_of_gptq(zero: int, settings: object, expected: int, tmp_path: Path) -> None:
    """The first version stores zero points less one, modulo 16: told by symmetry or the config."""
    found = expanded(tmp_path, gptq_parts(zero), settings=settings)
    assert values(found.tensors[f"{MODULE}.weight"]).tolist() == [[0.5 * expected] * 8] * 8


def test_the_version_in_a_file_of_its_own(tmp_path: Path) -> None:
    """What config.json does not say may stand in quantize_config.json."""
    (tmp_path / "quantize_config.json").write_text('{"checkpoint_format": "gptq_v2"}', "ascii")
    found = expanded(tmp_path, gptq_parts(3))
    assert values(found.tensors[f"{MODULE}.weight"])[0, 0] == 1.0


def test_biases_of_zeros_that_gptq_adds_are_left_out(tmp_path: Path) -> None:
    """A bias that adds nothing is none; another stays."""
    zeros = gptq_parts(7) | {f"{MODULE}.bias": np.zeros(8, np.float16)}
    assert list(expanded(tmp_path, zeros).tensors) == [f"{MODULE}.weight"]
    ones = gptq_parts(7) | {f"{MODULE}.bias": np.ones(8, np.float16)}
    assert list(expanded(tmp_path, ones).tensors) == [f"{MODULE}.weight", f"{MODULE}.bias"]


@pytest.mark.parametrize(
    "settings", [None, {}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp8", [1]]
)
def test_plain_weights_stay_as_they_are(settings: object, tmp_path: Path) -> None:
    """Whatever config.json says, plain floats are the weights, and scales beside them nothing."""
    weight = np.arange(8, dtype=np.float16).reshape(2, 4)
    arrays = {f"{MODULE}.weight": weight, f"{MODULE}.weight_scale": np.ones(1, np.float32)}
    for held in (arrays, {f"{MODULE}.weight": weight}):
        found = expanded(tmp_path, held, settings=settings)
        assert list(found.tensors) == [f"{MODULE}.weight"] and found.notes == ()
        content = found.tensors[f"{MODULE}.weight"].rows(0, 2)
        assert content.tobytes() == weight.tobytes()


FOREIGN: dict[str, tuple[str, str]] = {
    "scaled_zeros": ("AWQ for its fast GEMV kernels", r"model.dequantize\(\)"),
    "bitmask": ("a sparse format of compressed-tensors", "convert the model that it was made from"),
    "scale_packed": ("Marlin's sparse format", "convert the model that it was made from"),
    "biases": ("MLX", "mlx_lm convert"),
    "W_q": ("HQQ", "convert the model that it was made from"),
    "codebooks": ("AQLM", "convert the model that it was made from"),
    "q_invperm": ("EXL2", "convert the model that it was made from"),
    "trellis": ("EXL3", "convert the model that it was made from"),
    "pre_quant_scale": ("int4 of ModelOpt", "convert the model that it was made from"),
    "weight._data": ("Quanto or torchao", "convert the model that it was made from"),
}


@pytest.mark.parametrize("suffix", FOREIGN)
def test_other_methods_are_named(suffix: str, tmp_path: Path) -> None:
    """A method that is not converted is named by what it left, with what to do, in one line."""
    title, way_out = FOREIGN[suffix]
    arrays = {f"{MODULE}.weight": np.zeros((4, 1), np.uint8), f"{MODULE}.{suffix}": np.ones(2)}
    dtypes = {f"{MODULE}.{suffix}": "F64"}
    with pytest.raises(UnsupportedModelError, match=f"quantized by {title}, .*{way_out}") as caught:
        expanded(tmp_path, arrays, dtypes)
    assert f"'{MODULE}.{suffix}'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [*FOREIGN, "SCB", "weight_format", "weight.absmax", "scales"])
def test_what_other_methods_left_beside_plain_weights(suffix: str, tmp_path: Path) -> None:
    """A model that was dequantized is plain, whatever still lies beside its weights."""
    weight = np.ones((4, 4), np.float16)
    arrays = {f"{MODULE}.weight": weight, f"{MODULE}.{suffix}": np.ones(2, np.float32)}
    found = expanded(tmp_path, arrays)
    assert list(found.tensors) == [f"{MODULE}.weight"] and found.notes == ()


def test_vectors_of_fp8(tmp_path: Path) -> None:
    """Norms that were cast with all the rest are vectors still."""
    found = expanded(tmp_path, {"model.norm.weight": np.full(4, 0x3C, np.uint8)},
                     {"model.norm.weight": "F8_E4M3"})  # fmt: skip
    tensor = found.tensors["model.norm.weight"]
    assert tensor.shape == (4,) and values(tensor).tolist() == [[1.5] * 4]


def test_zero_points_of_fp8(tmp_path: Path) -> None:
    """Zero points that early compressed-tensors files have beside FP8 are zeros of any type."""
    arrays = {
        f"{MODULE}.weight": np.full((2, 4), 0x38, np.uint8),
        f"{MODULE}.weight_scale": np.array([2], np.float32),
        f"{MODULE}.weight_zero_point": np.zeros((), np.uint8),
    }
    found = expanded(tmp_path, arrays, {**E4M3, f"{MODULE}.weight_zero_point": "F8_E4M3"})
    assert values(found.tensors[f"{MODULE}.weight"]).tolist() == [[2.0] * 4] * 2


def without(case: str, part: str, golden: Mapping[str, Any]) -> dict[str, Any]:
    """A golden case's tensors less one."""
    arrays, _ = parts_of(golden, case)
    del arrays[f"{MODULE}.{part}"]
    return arrays


@pytest.mark.parametrize(
    ("case", "part"),
    [("gptq-4", "scales"), ("gptq-4", "qzeros"), ("awq", "scales"), ("packed-4", "weight_scale")],
)
def test_missing_parts(case: str, part: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """A part without which a matrix cannot be expanded is missed by name."""
    with pytest.raises(ModelFileError, match=rf"'{MODULE}\.{part}' is missing"):
        expanded(tmp_path, without(case, part, golden))


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("weight.absmax", np.zeros(3, np.float32), "no weight.absmax of 15 F32 numbers"),
        ("weight.quant_map", np.zeros(3, np.float32), "no weight.quant_map of 16 F32 numbers"),
        ("weight", np.zeros((4, 1), np.uint8), "another number of bytes than 24 x 40 need"),
        ("weight.quant_state.bitsandbytes__nf4", None, "has no weight.quant_state.bitsandbytes__"),
        ("weight.quant_state.bitsandbytes__nf4", b"[" * 99999, "nests JSON too deep"),
        ("weight.quant_state.bitsandbytes__nf4", b'{"shape": [0, -1]}', "a shape that is none"),
        (
            "weight.quant_state.bitsandbytes__nf4",
            b'{"shape": [24, 40], "blocksize": 0}',
            "blocksize is 0; allowed",
        ),
    ],
)
def test_wrong_parts_of_bitsandbytes(
    part: str, changed: Any, message: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """A part of bitsandbytes' that is missing or lies is named, with what is needed."""
    arrays, _ = parts_of(golden, "nf4")
    if changed is None:
        del arrays[f"{MODULE}.{part}"]
    else:
        is_text = isinstance(changed, bytes)
        arrays[f"{MODULE}.{part}"] = np.frombuffer(changed, np.uint8) if is_text else changed
    with pytest.raises(ModelFileError, match=message):
        expanded(tmp_path, arrays)


def test_reordered_int8_of_bitsandbytes(golden: dict[str, Any], tmp_path: Path) -> None:
    """Rows that bitsandbytes has reordered for a card are refused, with the layout's number."""
    arrays, _ = parts_of(golden, "int8-rows")
    arrays[f"{MODULE}.weight_format"] = np.full((), 2, np.uint8)
    with pytest.raises(UnsupportedModelError, match="in layout 2 of bitsandbytes; supported: 0"):
        expanded(tmp_path, arrays)


@given(st.data())
def test_parts_that_do_not_fit(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Whatever shape or type one part has, the outcome is a matrix or one line of ours."""
    case = data.draw(st.sampled_from(CASES))
    arrays, _ = parts_of(read_golden(), case)
    name = data.draw(st.sampled_from(sorted(arrays)))
    shape = data.draw(st.lists(st.integers(0, 40), max_size=3))
    dtype = data.draw(st.sampled_from([np.int32, np.float16, np.int8, np.int64]))
    arrays[name] = np.full(shape, data.draw(st.integers(-3, 9)), dtype)
    dtypes = {part: kind for part, kind in DTYPES.get(case, {}).items() if part != name}
    try:
        found = expanded(tmp_path_factory.mktemp("model"), arrays, dtypes)
        for tensor in found.tensors.values():
            tensor.rows(0, tensor.num_rows)
    except EdgellamaError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(BITS), st.integers(1, 70), st.randoms(use_true_random=False))
def test_unpacking_undoes_packing(bits: int, count: int, random: Any) -> None:
    """Integers that were put into words one after the other come out as they were."""
    integers = [random.randrange(1 << bits) for _ in range(count)]
    packed = sum(value << (number * bits) for number, value in enumerate(integers))
    raw = packed.to_bytes(4 * num_words(count, bits), "little")
    words = np.frombuffer(raw, np.int32)[None]
    whole = np.pad(words, ((0, 0), (0, -words.shape[1] % bits)))
    assert unpack_rows(whole, bits)[0, :count].tolist() == integers


@pytest.mark.parametrize("bits", [3, 5, 7])
def test_zero_points_with_gaps_in_runs_of_rows(bits: int, tmp_path: Path) -> None:
    """Words of zero points lie across rows, whichever rows are read."""
    rng = np.random.default_rng(bits)
    rows, columns, in_word = 100, 160, 32 // bits
    integers = rng.integers(0, 1 << bits, (rows, columns))
    zeros = rng.integers(0, 1 << bits, (rows, 10))

    def packed(numbers: Any) -> Any:
        filled = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % in_word)))
        words = filled.reshape(len(numbers), -1, in_word).astype(np.uint32)
        shifts = np.arange(in_word, dtype=np.uint32) * np.uint32(bits)
        return (words << shifts).sum(2, dtype=np.uint32).view(np.int32)

    arrays = {
        f"{MODULE}.weight_packed": packed(integers),
        f"{MODULE}.weight_scale": np.ones((rows, 10), np.float16),
        f"{MODULE}.weight_shape": np.array([rows, columns], np.int64),
        f"{MODULE}.weight_zero_point": packed(zeros.T).T.copy(),
    }
    (tensor,) = expanded(tmp_path, arrays, None, of_bits(bits)).tensors.values()
    expected = integers - np.repeat(zeros, 16, axis=1)
    for first, last in ((0, rows), (31, 34), (45, 99), (64, 65), (99, 100)):
        np.testing.assert_array_equal(values(tensor, first, last), expected[first:last])


@pytest.mark.parametrize(
    "settings",
    [
        *({"config_groups": groups} for groups in (7, [7], {"a": 7}, {"a": {"weights": 7}})),
        *({"config_groups": {"a": {"weights": {"num_bits": b}}}} for b in ("7", True, -7, 1e9)),
    ],
)
def test_bits_that_are_not_stated_are_the_usual(
    settings: object, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Where shapes leave a choice between 7 and 8 bits, only a number in the right place counts."""
    arrays, _ = parts_of(golden, "packed-7-gaps")
    assert "of 8 bits" in expanded(tmp_path, arrays, None, settings).notes[0]


def test_bits_of_which_two_are_stated(golden: dict[str, Any], tmp_path: Path) -> None:
    """Where the configuration leaves the same choice, nothing is guessed."""
    arrays, _ = parts_of(golden, "packed-7-gaps")
    with pytest.raises(ModelFileError, match="words for 8 and 7 bits alike"):
        expanded(tmp_path, arrays, None, of_bits(7, 8))


@pytest.mark.parametrize("case", ["packed-4-signed-zeros", "packed-3-gaps-zeros"])
def test_zero_points_of_another_shape(case: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """They are told, packed or not."""
    arrays, _ = parts_of(golden, case)
    zeros = arrays[f"{MODULE}.weight_zero_point"]
    for wrong in (zeros[:-1], zeros[:, :-1], zeros[0]):
        with pytest.raises(ModelFileError, match="a shape that does not fit the scales"):
            expanded(tmp_path, arrays | {f"{MODULE}.weight_zero_point": wrong})


@given(st.integers(1, 2000), st.integers(1, 300))
def test_shared_size_gives_the_count(length: int, size: int) -> None:
    """The size that is found always gives the count that is there, and a fitting hint is taken."""
    count = -(-length // size)
    found = shared_size(length, count, None)
    assert found is not None and -(-length // found) == count
    assert shared_size(length, count, size) == size


def test_columns_by_slabs() -> None:
    """Columns are the matrix's, however wide the slabs are."""
    matrix = np.arange(60, dtype=np.float32).reshape(5, 12)
    tensor = ArrayTensor("m", matrix)
    for slab_bytes in (1, 40, 100, 1 << 20):
        reader = ColumnReader(slab_bytes)
        for first, last in ((0, 12), (3, 4), (2, 9), (11, 12), (0, 1)):
            assert np.array_equal(reader.columns(tensor, first, last), matrix[:, first:last])


def test_a_number_for_the_whole_matrix(golden: dict[str, Any], tmp_path: Path) -> None:
    """ModelOpt multiplies NVFP4 by what compressed-tensors divides by, under other names."""
    arrays, expected = parts_of(golden, "nvfp4")
    divisor = arrays.pop(f"{MODULE}.weight_global_scale")
    arrays[f"{MODULE}.weight"] = arrays.pop(f"{MODULE}.weight_packed")
    arrays[f"{MODULE}.weight_scale_2"] = 1 / divisor[0]
    arrays[f"{MODULE}.input_scale"] = np.float32(3)
    found = expanded(tmp_path, arrays, DTYPES["nvfp4"])
    np.testing.assert_allclose(values(found.tensors[f"{MODULE}.weight"]), expected, rtol=1e-6)
    assert list(found.tensors) == [f"{MODULE}.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale": np.ones((24, 3), np.uint8)}, "do not fit"),
        ({"weight_scale": np.ones(24, np.uint8)}, "do not fit"),
        ({"weight_global_scale": np.zeros(1, np.float32)}, "one number above 0"),
        ({"weight_global_scale": np.full(1, np.nan, np.float32)}, "one number above 0"),
        ({"weight_global_scale": np.ones(2, np.float32)}, "one number above 0"),
    ],
)
def test_four_bit_floats_that_do_not_fit(
    changes: Arrays, message: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    """Scales of another number of groups, and no number for the whole matrix, are told."""
    arrays, _ = parts_of(golden, "nvfp4")
    arrays |= {f"{MODULE}.{part}": array for part, array in changes.items()}
    dtypes = {} if "weight_scale" in changes else DTYPES["nvfp4"]
    with pytest.raises(ModelFileError, match=message):
        expanded(tmp_path, arrays, dtypes)


def test_torchao_of_four_bits(tmp_path: Path) -> None:
    """What torchao packs otherwise is refused by its name."""
    arrays = {
        f"{MODULE}._weight_qdata": np.ones((24, 16), np.uint8),
        f"{MODULE}._weight_scale": np.ones((24, 1), np.float32),
    }
    with pytest.raises(UnsupportedModelError, match=r"quantized by torchao.*_weight_qdata"):
        expanded(tmp_path, arrays)


def test_the_scale_of_bitnet_multiplies_in_its_newer_layer(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    """config.json's linear_class says which of transformers' two layers a checkpoint is for."""
    arrays, expected = parts_of(golden, "bitnet")
    scale = float(arrays[f"{MODULE}.weight_scale"][0])
    found = expanded(tmp_path, arrays, settings={"linear_class": "autobitlinear"})
    values_ = values(found.tensors[f"{MODULE}.weight"])
    np.testing.assert_allclose(values_, expected * scale**2, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_of_bitnet_that_is_none(
    scale: float, golden: dict[str, Any], tmp_path: Path
) -> None:
    """It is told before anything is divided by it."""
    arrays, _ = parts_of(golden, "bitnet")
    arrays[f"{MODULE}.weight_scale"] = np.array([scale], np.float32)
    with pytest.raises(ModelFileError, match="needed: a number above 0"):
        expanded(tmp_path, arrays)
