"""The type of a model's file as a whole: what the file says, or what most of its bytes are.

``recipes`` knows what a type makes of each tensor.
"""

from __future__ import annotations

from collections import Counter

from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.recipes import OTHER_FILE_TYPES, RECIPES


def type_of(file: GGUFFile) -> str | None:
    """The type that a file says it has, else the format of most of its bytes, such as ``q4_0``."""
    number = file.metadata.get("general.file_type")
    if isinstance(number, int):
        named = [recipe.name for recipe in RECIPES.values() if recipe.file_type == number]
        named += [OTHER_FILE_TYPES[number]] if number in OTHER_FILE_TYPES else []
        if named:
            return named[0]
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.format.name] += tensor.num_bytes
    return sizes.most_common(1)[0][0].lower() if sizes else None
