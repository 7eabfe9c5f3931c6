"""Recipes against the formats that llama.cpp chose, and what a user's own choices do."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from gguf import LlamaFileType
from harness.kernels import model_of
from places import DATA
from reference.tiny_models import TinyLlama

from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.recipes import (
    OTHER_FILE_TYPES,
    RECIPES,
    TENSOR_FORMATS,
    FormatOptions,
    Recipe,
    choose_format,
    find_recipe,
    find_tensor_format,
)

GOLDEN = json.loads((DATA / "recipe_golden.json").read_text("utf-8"))
MODEL = replace(model_of(512, heads=8, kv_heads=2), block_count=32)
Q4_K_M = FormatOptions(RECIPES["q4_k_m"])


def chosen_format(
    name: str,
    shape: tuple[int, ...],
    options: FormatOptions,
    *,
    is_tied: bool = False,
    has_imatrix: bool = False,
) -> str:
    """The format that a tensor of MODEL gets."""
    found = choose_format(name, shape, options, MODEL, is_tied=is_tied, has_imatrix=has_imatrix)
    return found.name


def unroll(runs: str) -> list[str]:
    """``A*2 B*1`` as [A, A, B]."""
    pairs = [run.split("*") for run in runs.split()]
    return list(itertools.chain.from_iterable([name] * int(count) for name, count in pairs))


@pytest.mark.parametrize("case", GOLDEN["formats"])
def test_every_tensor_gets_the_format_of_llama_cpp(case: str) -> None:
    """Every type's format of every matrix is the one that llama-quantize chose."""
    model_name, _, imatrix = case.partition("+")
    model = TinyLlama(**GOLDEN["models"][model_name])
    shapes = model.matrix_shapes()
    sizes = replace(
        MODEL, block_count=model.layers, head_count=model.heads, head_count_kv=model.kv_heads
    )
    assert set(GOLDEN["formats"][case]) == set(RECIPES)
    for type_name, roles in GOLDEN["formats"][case].items():
        assert {name.split(".")[-1] for name in shapes} == set(roles)
        for role, runs in roles.items():
            names = [name for name in shapes if name.split(".")[-1] == role]
            options = FormatOptions(find_recipe(type_name))
            chosen = [
                choose_format(
                    f"{name}.weight",
                    shapes[name],
                    options,
                    sizes,
                    is_tied=model.tied,
                    has_imatrix=bool(imatrix),
                ).name
                for name in names
            ]
            assert chosen == unroll(runs), (type_name, role)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_file_types_are_those_of_llama_cpp(recipe: Recipe) -> None:
    """The number of each type is the one that the gguf package knows under its name."""
    prefix = "ALL" if recipe.name == "f32" else "MOSTLY"
    assert LlamaFileType[f"{prefix}_{recipe.name.upper()}"] == recipe.file_type


def test_other_file_types_are_those_of_llama_cpp() -> None:
    """Types that are only read have llama.cpp's numbers, and none is also written."""
    assert {
        LlamaFileType[f"MOSTLY_{name.upper()}"]: name for name in OTHER_FILE_TYPES.values()
    } == OTHER_FILE_TYPES
    assert not OTHER_FILE_TYPES.keys() & {recipe.file_type for recipe in RECIPES.values()}


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.0.attn_norm.weight"])
def test_norms_and_vectors_are_f32(name: str) -> None:
    """One-dimensional tensors and norms are F32, whatever is asked for."""
    everything = (re.compile(""), FORMATS_BY_NAME["Q4_0"])
    options = replace(Q4_K_M, tensor_formats=(everything,))
    assert chosen_format(name, (4096,), options) == "F32"
    assert chosen_format(name, (1, 4096), options) == "F32"
    assert chosen_format("blk.0.attn_q.bias", (64, 64), options) == "F32"


def test_the_first_pattern_that_is_found_counts() -> None:
    """Patterns go before the recipe, in the user's order, and are searched for anywhere."""
    options = replace(
        Q4_K_M,
        tensor_formats=(
            (re.compile(r"blk\.1\..*down"), FORMATS_BY_NAME["F16"]),
            (re.compile("ffn"), FORMATS_BY_NAME["Q8_0"]),
        ),
    )
    chosen = {
        name: chosen_format(name, (512, 512), options)
        for name in ("blk.1.ffn_down.weight", "blk.2.ffn_down.weight", "blk.8.attn_v.weight")
    }
    assert list(chosen.values()) == ["F16", "Q8_0", "Q4_K"]


@pytest.mark.parametrize("is_tied", [False, True])
def test_output_and_embedding_formats_go_before_all(is_tied: bool) -> None:
    """The two options name one tensor each; a tied output is the embedding."""
    options = replace(
        Q4_K_M,
        tensor_formats=((re.compile(""), FORMATS_BY_NAME["Q2_K"]),),
        output_format=FORMATS_BY_NAME["F16"],
    )
    embedding = chosen_format("token_embd.weight", (512, 512), options, is_tied=is_tied)
    assert embedding == ("F16" if is_tied else "Q2_K")
    assert chosen_format("output.weight", (512, 512), options, has_imatrix=True) == "F16"
    both = replace(options, embedding_format=FORMATS_BY_NAME["BF16"])
    assert chosen_format("token_embd.weight", (512, 512), both, is_tied=is_tied) == "BF16"


def test_pure_leaves_out_the_mix() -> None:
    """With the pure option every matrix gets the type's own format, or its fallback."""
    options = replace(Q4_K_M, is_pure=True)
    names = ("token_embd.weight", "output.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight")
    assert {chosen_format(name, (8, 512), options, has_imatrix=True) for name in names} == {"Q4_K"}
    assert {chosen_format(name, (8, 288), options, has_imatrix=True) for name in names} == {"Q5_0"}
    assert {chosen_format(name, (8, 80), options, has_imatrix=True) for name in names} == {"F16"}


@pytest.mark.parametrize("columns", [1, 32, 80, 96, 256, 288, 512])
def test_rows_are_always_whole_blocks(columns: int) -> None:
    """No type, mix or wish gives a matrix a format that its rows do not fit."""
    names = [f"blk.0.{role}.weight" for role in ("attn_v", "attn_q", "attn_output", "ffn_down")]
    wishes: list[dict[str, Any]] = [{}, {"is_pure": True}]
    wishes += [{"tensor_formats": ((re.compile(""), f),)} for f in TENSOR_FORMATS.values()]
    for recipe, wish in itertools.product(RECIPES.values(), wishes):
        for name in [*names, "output.weight", "token_embd.weight"]:
            options = FormatOptions(recipe, **wish)
            chosen = chosen_format(name, (8, columns), options)
            assert columns % FORMATS_BY_NAME[chosen].block_size == 0


@pytest.mark.parametrize(
    ("given", "found"), [("Q4_K_M", "q4_k_m"), ("q4_k", "q4_k_m"), ("IQ4_xs", "iq4_xs")]
)
def test_types_are_found_in_any_case(given: str, found: str) -> None:
    """Types are named in any case, and the K-quants without a size are the medium ones."""
    assert find_recipe(given) is RECIPES[found]


def test_unknown_types_are_refused_with_the_list() -> None:
    """A type that does not exist, or one tensor as a mix, is refused with what is allowed."""
    with pytest.raises(InvalidOptionError, match=r"'q9_z'.*q4_k_s, q4_k_m"):
        find_recipe("q9_z")
    with pytest.raises(InvalidOptionError, match=r"'q4_k_m'.*q4_k, q5_k"):
        find_tensor_format("q4_k_m")
    assert find_tensor_format("Q4_K") is FORMATS_BY_NAME["Q4_K"]
