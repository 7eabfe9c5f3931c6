"""How tensors are divided among the files of a conversion, and how many files there may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellama.convert.planning import split
from edgellama.convert.planning.conversion_plan import PlannedFile, PlannedTensor
from edgellama.convert.sources.source_tensor import ArrayTensor
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import FORMATS_BY_NAME

OUTPUT = Path("model.gguf")


def planned(num_bytes: list[int], max_bytes: int | None) -> tuple[PlannedFile, ...]:
    """The files of tensors of these sizes."""
    tensors = [
        PlannedTensor(
            ArrayTensor(str(number), np.zeros((1, size // 4), np.float32)), FORMATS_BY_NAME["F32"]
        )
        for number, size in enumerate(num_bytes)
    ]
    return split.plan_files(OUTPUT, {}, tensors, max_bytes)


@pytest.mark.parametrize(
    ("num_bytes", "max_bytes", "groups"),
    [
        ([64, 64, 64], None, ["012"]),
        ([64, 64, 64], 192, ["012"]),
        ([64, 64, 64], 128, ["01", "2"]),
        ([64, 64, 64], 127, ["0", "1", "2"]),
        ([64, 4, 64], 96, ["01", "2"]),  # 4 bytes take 32, so that the next tensor is aligned
        ([64, 512, 64], 128, ["0", "1", "2"]),
        ([512, 32, 32], 64, ["0", "12"]),
    ],
)
def test_groups(num_bytes: list[int], max_bytes: int | None, groups: list[str]) -> None:
    """A part has as many tensors as fit, one at least; a single part has the output's own name."""
    files = planned(num_bytes, max_bytes)
    assert ["".join(tensor.name for tensor in file.tensors) for file in files] == groups
    count = len(groups)
    names = [f"model-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    assert [file.path.name for file in files] == (names if count > 1 else ["model.gguf"])


def test_more_parts_than_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many parts as can be numbered are allowed, and no more."""
    monkeypatch.setattr(split, "MAX_PARTS", 3)
    assert len(planned([64] * 3, 64)) == 3
    with pytest.raises(InvalidOptionError, match="4 files; allowed: 3"):
        planned([64] * 4, 64)


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("2G", 2 * 10**9), (" 500m ", 5 * 10**8), ("1M", 10**6)]
)
def test_sizes(text: str, num_bytes: int) -> None:
    """Sizes are whole numbers of megabytes or gigabytes, in powers of 1000."""
    assert split.parse_split_size(text) == num_bytes


@pytest.mark.parametrize("text", ["0G", "2", "1.5G", "-1M", "2T", "", "G"])
def test_impossible_sizes(text: str) -> None:
    """Other sizes are refused, and nothing is no size."""
    with pytest.raises(InvalidOptionError, match="500M or 2G"):
        split.parse_split_size(text)
