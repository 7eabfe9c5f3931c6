"""Rotary positions: the table against transformers' angles and a formula written out here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from places import DATA

from edgellama.engine.steps.rope import RopeTable
from edgellama.quant.rope_config import RopeConfig

GOLDEN: dict[str, Any] = json.loads((DATA / "rope_golden.json").read_text("utf-8"))


def rows(table: RopeTable, position: int, num_tokens: int) -> Any:
    """Cosines and sines (tokens, pairs), after a check of what is repeated and negated."""
    numbers = np.full((num_tokens + 1, table.row_numbers), np.nan, np.float32)
    table.fill(numbers, position, num_tokens)
    assert np.isnan(numbers[num_tokens]).all()
    cosines, sines = np.split(numbers[:num_tokens], 2, axis=1)
    np.testing.assert_array_equal(cosines[:, 0::2], cosines[:, 1::2])
    np.testing.assert_array_equal(sines[:, 0::2], -sines[:, 1::2])
    return cosines[:, 1::2], sines[:, 1::2]


def check(table: RopeTable, frequencies: Any, magnitude: float, position: int) -> None:
    """The table holds the cosines and sines of position times frequency."""
    cosines, sines = rows(table, position, 5)
    angles = np.arange(position, position + 5)[:, None] * np.asarray(frequencies, np.float64)
    # The golden frequencies are f32: their error grows with the position.
    tolerance = 2e-7 + 1e-7 * position
    np.testing.assert_allclose(cosines, magnitude * np.cos(angles), rtol=0, atol=tolerance)
    np.testing.assert_allclose(sines, magnitude * np.sin(angles), rtol=0, atol=tolerance)


@pytest.mark.parametrize("position", [0, 1, 100, 4000])
@pytest.mark.parametrize("name", ["yarn_64", "yarn_128", "linear_64"])
def test_scaling(name: str, position: int) -> None:
    """YaRN and linear scaling turn by the angles, and to the length, of transformers."""
    case = GOLDEN[name]
    config = RopeConfig(
        case["head_size"],
        case["base"],
        name.split("_")[0],
        case["factor"],
        original_context_length=case["original_context_length"],
    )
    check(RopeTable(config), case["frequencies"], case["magnitude"], position)


def test_divisors() -> None:
    """Llama 3.1's frequencies come out when its divisors are given, as a file stores them."""
    case = GOLDEN["llama3_128"]
    plain = case["base"] ** -(np.arange(64) / 64)
    divisors = (plain / case["frequencies"]).astype(np.float32)
    table = RopeTable(RopeConfig(128, case["base"]), divisors)
    for position in (0, 1, 1000):
        check(table, case["frequencies"], 1.0, position)


@pytest.mark.parametrize(("head_size", "base"), [(64, 10000.0), (80, 500000.0), (2, 10.0)])
def test_plain(head_size: int, base: float) -> None:
    """Without scaling pair i turns by base ** (-2 i / size) a position, exactly at any position."""
    frequencies = [base ** (-2 * i / head_size) for i in range(head_size // 2)]
    table = RopeTable(RopeConfig(head_size, base))
    assert table.row_numbers == 2 * head_size
    for position in (0, 7, 131_072):
        cosines, sines = rows(table, position, 2)
        for token in range(2):
            for i, frequency in enumerate(frequencies):
                angle = (position + token) * frequency
                assert cosines[token, i] == pytest.approx(np.cos(angle), abs=1e-7)
                assert sines[token, i] == pytest.approx(np.sin(angle), abs=1e-7)


def test_attention_factor() -> None:
    """The file's own factor is multiplied into cosines and sines, with and without YaRN."""
    plain = RopeTable(RopeConfig(64, 10000.0, attention_factor=0.5))
    check(plain, 10000.0 ** -(np.arange(32) / 32), 0.5, 3)
    case = GOLDEN["yarn_64"]
    config = RopeConfig(64, 10000.0, "yarn", 4.0, 0.25, 4096)
    check(RopeTable(config), case["frequencies"], 0.25 * case["magnitude"], 3)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_yarn_extrapolation(share: float) -> None:
    """Of what YaRN keeps of the frequencies a share is kept; without any it is linear scaling."""
    case = GOLDEN["yarn_64"]
    config = RopeConfig(64, 10000.0, "yarn", 4.0, 1.0, 4096, extrapolation=share)
    linear = 10000.0 ** -(np.arange(32) / 32) / 4.0
    mixed = linear + share * (np.array(case["frequencies"]) - linear)
    check(RopeTable(config), mixed, case["magnitude"] if share else 1.0, 3)


def test_yarn_without_stretching() -> None:
    """A factor of one changes nothing."""
    yarn = RopeTable(RopeConfig(64, 10000.0, "yarn", 1.0, 1.0, 4096))
    check(yarn, 10000.0 ** -(np.arange(32) / 32), 1.0, 50)
