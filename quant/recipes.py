"""Recipes: which format each tensor of a Llama gets for a type such as ``q4_k_m``.

The mixes and fallbacks are those of llama.cpp's llama-quantize for the llama architecture, so that
a file has the size and quality that its name promises. ``kernels_cpu.quantizers`` computes the
bytes of a format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import FLOAT_FORMATS, FORMATS_BY_NAME, WRITABLE_FORMATS, Format
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.quant.model_config import ModelConfig

TENSOR_FORMATS: Mapping[str, Format] = MappingProxyType(
    {name.lower(): FORMATS_BY_NAME[name] for name in WRITABLE_FORMATS}
)
"""What a single tensor can be written as, by the name that a user gives."""

_OUTPUT_FORMAT = "Q6_K"
_RAGGED_OUTPUT_FORMAT = "Q8_0"
# Llama 2 and 3 70B: attn_v is an eighth of attn_q there, so more bits cost next to nothing.
_LAYERS_OF_70B = 80
_RAISED_IN_70B: Mapping[str, str] = MappingProxyType({"Q3_K": "Q5_K", "Q4_K": "Q5_K"})
_MANY_HEADS_A_GROUP = 4
_LAYER = re.compile(r"blk\.(\d+)\.")
_ROLES = re.compile(r"attn_v\.weight|attn_output\.weight|ffn_down")


@dataclass(frozen=True)
class Place:
    """Where in which model a matrix stands, and whether its columns' importance is known."""

    layer: int
    model: ModelConfig
    has_imatrix: bool

    def is_in_first(self, divisor: int) -> bool:
        """Whether the layer is in the first 1/divisor of the model."""
        return self.layer < self.model.block_count // divisor

    @property
    def wants_more_bits(self) -> bool:
        """The first and last eighth of the layers, and every third between."""
        eighth = self.model.block_count // 8
        is_late = self.layer >= 7 * self.model.block_count // 8
        return self.layer < eighth or is_late or (self.layer - eighth) % 3 == 2

    @property
    def shares_keys(self) -> bool:
        """Whether attn_v is small beside the rest of the layer."""
        return self.model.heads_per_group >= _MANY_HEADS_A_GROUP

    @property
    def is_in_70b(self) -> bool:
        """Whether the model has the depth of the 70B models, with grouped heads."""
        return self.model.block_count == _LAYERS_OF_70B and self.model.heads_per_group > 1


Choice = Callable[[Place], "str | None"]
"""The format of a matrix at a place, None for the recipe's own."""


def _always(name: str) -> Choice:
    return lambda place: name


def _more_bits(name: str) -> Choice:
    return lambda place: name if place.wants_more_bits else None


def _first_layers(count: int, name: str, otherwise: str | None = None) -> Choice:
    return lambda place: name if place.layer < count else otherwise


def _first_part(divisor: int, name: str, otherwise: str | None = None) -> Choice:
    return lambda place: name if place.is_in_first(divisor) else otherwise


def _grouped(name: str, otherwise: str | None = None) -> Choice:
    return lambda place: name if place.shares_keys else otherwise


def _first_eighth_if(has_imatrix: bool, name: str) -> Choice:
    return lambda place: name if place.has_imatrix is has_imatrix and place.is_in_first(8) else None


@dataclass(frozen=True)
class Recipe:
    """A type that a whole model is written as; ``file_type`` is its number in the metadata.

    ``divergence``: what it is expected to cost in quality, the mean Kullback-Leibler divergence
    from the unquantized model that llama.cpp publishes for Llama 3 8B without importance
    matrices, in nats (tools/perplexity/README.md there); its order holds for other models, its
    size does not. ``choices`` overrides ``format`` by the matrix's role: attn_v, attn_output,
    ffn_down.
    """

    name: str
    file_type: int
    format: str
    divergence: float = 0.0
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.format in FLOAT_FORMATS


def _attention_and_down(attn_v: Choice, attn_output: str, ffn_down: Choice) -> dict[str, Choice]:
    return {"attn_v": attn_v, "attn_output": _always(attn_output), "ffn_down": ffn_down}


_MORE_BITS = {"attn_v": _more_bits("Q6_K"), "ffn_down": _more_bits("Q6_K")}
_IQ4 = {"attn_v": _grouped("Q5_K"), "ffn_down": _first_eighth_if(False, "Q5_K")}

_TABLE = (
    Recipe("f32", 0, "F32"),
    Recipe("f16", 1, "F16"),
    Recipe("bf16", 32, "BF16"),
    Recipe("q8_0", 7, "Q8_0", 0.0014),
    Recipe("q4_0", 2, "Q4_0", 0.0736, {"ffn_down": _first_eighth_if(True, "Q4_1")}),
    Recipe("q4_1", 3, "Q4_1", 0.0725),
    Recipe("q5_0", 8, "Q5_0", 0.0230, {"ffn_down": _first_eighth_if(True, "Q5_1")}),
    Recipe("q5_1", 9, "Q5_1", 0.0185),
    Recipe(
        *("q2_k", 10, "Q2_K", 0.4573),
        _attention_and_down(_grouped("Q4_K", "Q3_K"), "Q3_K", _always("Q3_K")),
    ),
    Recipe("q3_k_s", 11, "Q3_K", 0.2364),
    Recipe(
        *("q3_k_m", 12, "Q3_K", 0.1038),
        _attention_and_down(
            _first_layers(2, "Q5_K", "Q4_K"), "Q4_K", _first_part(16, "Q5_K", "Q4_K")
        ),
    ),
    Recipe(
        *("q3_k_l", 13, "Q3_K", 0.0886),
        _attention_and_down(_always("Q5_K"), "Q5_K", _always("Q5_K")),
    ),
    Recipe(
        *("q4_k_s", 14, "Q4_K", 0.0440),
        {"attn_v": _first_layers(4, "Q5_K"), "ffn_down": _first_part(8, "Q5_K")},
    ),
    Recipe("q4_k_m", 15, "Q4_K", 0.0320, _MORE_BITS),
    Recipe("q5_k_s", 16, "Q5_K", 0.0172),
    Recipe("q5_k_m", 17, "Q5_K", 0.0111, _MORE_BITS),
    Recipe("q6_k", 18, "Q6_K", 0.0057),
    # Published files of these types are made with importance matrices; made without, they are just
    # behind q4_k_s.
    Recipe("iq4_nl", 25, "IQ4_NL", 0.0480, _IQ4),
    Recipe("iq4_xs", 30, "IQ4_XS", 0.0490, _IQ4),
)
COPY = Recipe("copy", -1, "")
"""Every tensor stays as a GGUF file has it, and so does ``general.file_type``; no type to convert
a checkpoint to."""
OTHER_FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s",
        26: "iq3_s", 27: "iq3_m", 28: "iq2_s", 29: "iq2_m", 31: "iq1_m", 36: "tq1_0", 37: "tq2_0",
    }
)  # fmt: skip
"""Types that others write and that no recipe does, by their number in the metadata: llama.cpp's."""
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _TABLE})
_ALIASES: Mapping[str, str] = MappingProxyType(
    {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
)


def find_recipe(name: str) -> Recipe:
    """The recipe of a type's name in any case; InvalidOptionError, with the list, if none."""
    lower = name.lower() if isinstance(name, str) else ""
    recipe = RECIPES.get(_ALIASES.get(lower, lower))
    if recipe is None:
        raise InvalidOptionError(f"no type is called {shown(name)}; allowed: {', '.join(RECIPES)}")
    return recipe


def find_recipe_or_copy(name: str) -> Recipe:
    """The same, with ``COPY`` by its name."""
    is_copy = isinstance(name, str) and name.lower() == COPY.name
    return COPY if is_copy else find_recipe(name)


def find_tensor_format(name: str) -> Format:
    """The format that a tensor's type names; InvalidOptionError, with the list, if none."""
    found = TENSOR_FORMATS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        allowed = ", ".join(TENSOR_FORMATS)
        raise InvalidOptionError(f"no tensor type is called {shown(name)}; allowed: {allowed}")
    return found


@dataclass(frozen=True)
class FormatOptions:
    """What a user decides: a recipe, and formats that go before it.

    ``tensor_formats`` holds patterns that are searched for in the names of matrices; the first
    that is found counts. ``is_pure`` leaves out the mix.
    """

    recipe: Recipe
    tensor_formats: tuple[tuple[re.Pattern[str], Format], ...] = ()
    output_format: Format | None = None
    embedding_format: Format | None = None
    is_pure: bool = False


def choose_format(
    name: str,
    shape: tuple[int, ...],
    options: FormatOptions,
    model: ModelConfig,
    *,
    is_tied: bool,
    has_imatrix: bool,
) -> Format:
    """The format of the tensor ``name`` of a model; vectors and norms are F32.

    ``is_tied``: the embedding is the output; ``has_imatrix``: columns' importance is known.

    What the user asked for goes first, then the recipe; where the rows are not whole blocks of
    the result, its fallback.
    """
    if len(shape) < 2 or not name.endswith("weight") or "_norm.weight" in name:
        return FORMATS_BY_NAME["F32"]
    is_output = name == ("token_embd.weight" if is_tied else "output.weight")
    wanted = _users_format(name, options, is_output)
    if wanted is None and is_output:
        wanted = _output_format(options, shape[-1])
    if wanted is None:
        wanted = FORMATS_BY_NAME[_mixed(name, options, model, has_imatrix)]
    return fitting_format(wanted, shape[-1])


def fitting_format(wanted: Format, num_columns: int) -> Format:
    """``wanted`` if rows of ``num_columns`` are whole blocks of it, else what replaces it."""
    chosen = wanted
    while num_columns % chosen.block_size:
        chosen = FORMATS_BY_NAME[chosen.fallback]
    return chosen


def _users_format(name: str, options: FormatOptions, is_output: bool) -> Format | None:
    if name == "token_embd.weight" and options.embedding_format is not None:
        return options.embedding_format
    if is_output and options.output_format is not None:
        return options.output_format
    for pattern, tensor_format in options.tensor_formats:
        if pattern.search(name):
            return tensor_format
    return None


def _output_format(options: FormatOptions, num_columns: int) -> Format | None:
    """What a mix takes for the output matrix; None for a recipe that is no mix."""
    recipe = options.recipe
    if recipe.is_float or options.is_pure:
        return None
    own = FORMATS_BY_NAME[recipe.format]
    if num_columns % own.block_size:
        return FORMATS_BY_NAME[_RAGGED_OUTPUT_FORMAT]
    return own if recipe.format == "Q8_0" else FORMATS_BY_NAME[_OUTPUT_FORMAT]


def _mixed(name: str, options: FormatOptions, model: ModelConfig, has_imatrix: bool) -> str:
    recipe = options.recipe
    layer, role = _LAYER.match(name), _ROLES.search(name)
    if recipe.is_float or options.is_pure or layer is None or role is None:
        return recipe.format
    role_name = role[0].removesuffix(".weight")
    place = Place(int(layer[1]), model, has_imatrix)
    choice = recipe.choices.get(role_name)
    chosen = (choice(place) if choice else None) or recipe.format
    if role_name == "attn_v" and place.is_in_70b:
        return _RAISED_IN_70B.get(chosen, chosen)
    return chosen
