"""The format table against ggml's own, and its row arithmetic."""

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from edgellama.quant.errors import ContextLengthError, EdgellamaError, ModelFileError
from edgellama.quant.formats import FORMATS_BY_ID, FORMATS_BY_NAME, RETIRED_FORMATS, Format


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
