"""Which of a repository's files a reference means: names, types and fragments, parts together."""

from __future__ import annotations

import pytest

from edgellama.models.model_files import choose_files, models_meant
from edgellama.models.well_known import HubReference, parse_hub_reference

SMALL, LARGE = "small-Q4_K_M.gguf", "small-Q6_K.gguf"
LARGER = "small-Q6_K_L.gguf"
PARTS = [f"big/big-F16-0000{number}-of-00002.gguf" for number in (1, 2)]
FILES = [LARGE, PARTS[1], SMALL, LARGER, PARTS[0]]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (SMALL, [[SMALL]]),
        ("SMALL-q6_k", [[LARGE]]),
        ("q6_k", [[LARGE]]),
        ("q6_k_l", [[LARGER]]),
        ("Q4_K", [[SMALL]]),
        ("q6", [[LARGE], [LARGER]]),
        ("f16", [PARTS]),
        ("big/", [PARTS]),
        (PARTS[1], [PARTS]),
        ("q5_k", []),
        (None, [PARTS, [SMALL], [LARGE], [LARGER]]),
    ],
)
def test_files_that_are_meant(wanted: str | None, found: list[list[str]]) -> None:
    """What is more exact goes first, a fragment last; a model in parts is all of its parts."""
    assert choose_files(wanted, FILES) == found


@pytest.mark.parametrize(
    ("text", "files", "found"),
    [
        ("hf:a/b", FILES, [[SMALL]]),
        ("hf:a/b", [LARGE, LARGER], [[LARGE], [LARGER]]),
        ("hf:a/b", [LARGE], [[LARGE]]),
        ("hf:a/b:q6", FILES, [[LARGE], [LARGER]]),
    ],
)
def test_a_reference_without_a_file(text: str, files: list[str], found: list[list[str]]) -> None:
    """Of several models it means the one of the usual type, if there is one."""
    reference: HubReference = parse_hub_reference(text)
    assert models_meant(reference, files) == found
