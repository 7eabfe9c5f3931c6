"""The format table against ggml's own, and its row arithmetic."""

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from edgellama.kernels_cpu.layouts import (
    BLOCK,
    RECORD_BYTES,
    gemm_scratch_bytes,
    panel_scale_bytes,
    panel_scales_at,
    records_bytes,
)
from edgellama.kernels_cpu.signatures import (
    ONE_THREAD_SIGNATURES,
    SIGNATURES,
    Kernel,
    kernels_by_name,
)
from edgellama.quant.errors import ContextLengthError, EdgellamaError, ModelFileError
from edgellama.quant.formats import (
    BLOCK_ORDERS,
    FLOAT_FORMATS,
    FORMATS_BY_ID,
    FORMATS_BY_NAME,
    QUANTIZED_FORMATS,
    RETIRED_FORMATS,
    WRITABLE_FORMATS,
    Format,
    Quants,
    centre_of_order,
    orders_of,
)


def test_table_equals_ggml() -> None:
    """Every format of the gguf package is listed with its id, block size and block bytes."""
    ours = {f.name: (f.ggml_id, f.block_size, f.block_bytes) for f in FORMATS_BY_ID.values()}
    theirs = {t.name: (int(t), *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType}
    # A newer gguf package may know more; what it knows of ours must agree.
    assert {name: theirs[name] for name in ours if name in theirs} == {
        name: entry for name, entry in ours.items() if name in theirs
    }
    assert len(set(ours) & set(theirs)) >= 31


def test_both_indices_hold_the_same_formats() -> None:
    """The index by id and the index by name hold the same objects, and no retired id."""
    assert set(FORMATS_BY_ID.values()) == set(FORMATS_BY_NAME.values())
    assert len(FORMATS_BY_ID) == len(FORMATS_BY_NAME)
    assert all(key == f.ggml_id for key, f in FORMATS_BY_ID.items())
    assert all(key == f.name for key, f in FORMATS_BY_NAME.items())
    assert not set(RETIRED_FORMATS) & set(FORMATS_BY_ID)


@pytest.mark.parametrize(
    ("name", "num_elements", "row_bytes"),
    [("F32", 3, 12), ("Q4_0", 64, 36), ("Q4_K", 256, 144), ("Q6_K", 0, 0), ("Q8_0", 4096, 4352)],
)
def test_row_bytes(name: str, num_elements: int, row_bytes: int) -> None:
    """A row of whole blocks has blocks x block_bytes bytes."""
    assert FORMATS_BY_NAME[name].row_bytes(num_elements) == row_bytes


@pytest.mark.parametrize(("name", "num_elements"), [("Q4_0", 33), ("Q4_K", 128), ("F32", -1)])
def test_row_of_partial_blocks_is_refused(name: str, num_elements: int) -> None:
    """A row that is not whole blocks is refused, naming the count, the format and the multiple."""
    with pytest.raises(ModelFileError, match=rf"{num_elements} .*{name}.*multiples of \d+"):
        FORMATS_BY_NAME[name].row_bytes(num_elements)


def test_impossible_format_is_refused() -> None:
    """A format without elements or bytes cannot be built."""
    with pytest.raises(ValueError, match="impossible"):
        Format("X", 99, 0, 4)


def test_context_length_error_carries_the_counts() -> None:
    """The error keeps both counts as attributes and prints only its message."""
    error = ContextLengthError("too long", 10, 8)
    assert isinstance(error, EdgellamaError)
    assert (str(error), error.prompt_tokens, error.context_length) == ("too long", 10, 8)


def test_centres_are_half_the_range_or_nothing() -> None:
    """What products are made without is half the quants' range, or nothing beside a minimum whose
    products fit 16 bits."""
    centres = {name: FORMATS_BY_NAME[name].quants for name in QUANTIZED_FORMATS}
    assert {name: quants.centre for name, quants in centres.items() if quants} == {
        "Q4_0": 8, "Q4_1": 0, "Q5_0": 16, "Q5_1": 16, "Q8_0": 128, "Q2_K": 0, "Q3_K": 4,
        "Q4_K": 0, "Q5_K": 16, "Q6_K": 32, "IQ4_NL": 128, "IQ4_XS": 128,
        "IQ1_S": 32, "IQ1_M": 32, "IQ2_XXS": 128, "IQ2_XS": 128, "IQ2_S": 128, "IQ3_XXS": 128,
        "IQ3_S": 16, "TQ1_0": 32, "TQ2_0": 32, "MXFP4": 128,
    }  # fmt: skip
    assert [centre_of_order(order) for order in range(len(BLOCK_ORDERS))] == [4, 0, 32]


def test_orders_are_a_bit_each() -> None:
    """Formats that hold their quants in an order ask for it, others for none."""
    assert orders_of(["Q4_0", "F16", "IQ4_XS"]) == 0
    assert orders_of(["Q3_K", "Q2_K"]) == 1
    assert orders_of(QUANTIZED_FORMATS) == 7
    assert all(sorted(order) == list(range(8)) for order in BLOCK_ORDERS)


@pytest.mark.parametrize(
    "quants", [{"bits": 9, "group_size": 32}, {"bits": 4, "group_size": 8}, {"bits": 4, "order": 3}]
)
def test_impossible_quants_are_refused(quants: dict[str, int]) -> None:
    """Bits, group sizes and orders that no kernel could read are errors."""
    with pytest.raises(ValueError, match="impossible"):
        Quants(**{"group_size": 32, **quants})


def test_every_format_has_its_kernels() -> None:
    """What can be read has a kernel for each way, and what can be written one for each writer."""
    for name in (*FLOAT_FORMATS, *QUANTIZED_FORMATS):
        assert {Kernel(family, (name,)) for family in ("gemv", "gemm", "embed")} <= set(SIGNATURES)
    for name in WRITABLE_FORMATS:
        writers = {w for w in FORMATS_BY_NAME[name].writers if w != "copy"}
        assert {Kernel(writer, (name,)) for writer in writers} <= set(ONE_THREAD_SIGNATURES)


def test_names_of_kernels_tell_them_apart() -> None:
    """No two kernels share a file or a symbol."""
    assert len(kernels_by_name()) == len(SIGNATURES) + len(ONE_THREAD_SIGNATURES)
    assert all(
        kernel.name == name and name.isidentifier() for name, kernel in kernels_by_name().items()
    )


@pytest.mark.parametrize("columns", [32, 96, 256, 4096, 11008])
def test_activations_and_panels_have_room(columns: int) -> None:
    """A token's records are whole vectors, and a panel of any format fits the scratch."""
    assert records_bytes(columns) >= columns // BLOCK * RECORD_BYTES
    assert records_bytes(columns) % 8 == 0
    for panel_rows in (8, 16, 32):
        for group_size in (16, 32):
            scales = panel_scale_bytes(panel_rows, columns // group_size)
            end = panel_scales_at(panel_rows, columns) + 2 * scales
            assert end < gemm_scratch_bytes(panel_rows, columns, columns)
