"""The model that an adapter belongs to: the shapes that it must fit, and its attention's heads.

Only config.json or a GGUF header is read, so a checkpoint's weights need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellama.convert.model.family import check_hugging_face
from edgellama.convert.model.hparams import hugging_face_hparams
from edgellama.convert.model.relatives import SOURCE_KEY, find_relative
from edgellama.convert.sources.json_fields import read_fields
from edgellama.quant.config_keys import USUAL_ARCHITECTURE
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.llama_tensors import OUTPUT, tensor_shapes
from edgellama.quant.model_config import HALF_SPLIT
from edgellama.quant.ways import Way

TURNED = (USUAL_ARCHITECTURE, "mistral3", "smollm3", "xverse")
"""Those of GGUF whose rows of queries and keys were in Hugging Face's order before."""
ARCHITECTURES = (*TURNED, *HALF_SPLIT)
HEADS, KV_HEADS = "attention.head_count", "attention.head_count_kv"


@dataclass(frozen=True)
class LoraBase:
    """Shapes (rows, columns) of a model's matrices by GGUF name, and its numbers of heads."""

    path: Path
    architecture: str
    head_count: int
    head_count_kv: int
    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for name, shape in self.shapes.items():
            heads = self.heads(name)
            if heads is not None and shape[0] % (2 * heads):
                raise ModelFileError(
                    f"{self.path}: {name} has {shape[0]} rows; needed: {heads} even heads"
                )

    @property
    def is_tied(self) -> bool:
        """Whether the embedding is the output too."""
        return OUTPUT not in self.shapes

    def heads(self, name: str) -> int | None:
        """The heads of a matrix whose rows GGUF orders otherwise than Hugging Face; else None."""
        part = name.removesuffix(".weight").rpartition(".")[2]
        if self.architecture in HALF_SPLIT:
            return None
        return {"attn_q": self.head_count, "attn_k": self.head_count_kv}.get(part)


def find_base(given: Path | None, base_name: str | None, adapter: Path) -> LoraBase:
    """The base model: the one given, or the one that the adapter names if it is a path here.

    Raises ModelNotFoundError, whose text says what to give, ModelFileError and
    UnsupportedModelError.
    """
    path = Path(base_name).expanduser() if given is None and base_name else given
    if path is not None and (path / "config.json").is_file():
        return _base_of_config(path / "config.json")
    if path is not None and path.is_file():
        return _base_of_gguf(path)
    if given is not None:
        raise ModelNotFoundError(
            f"{given} is no base model; needed: a folder with a config.json, or a GGUF file"
        )
    raise ModelNotFoundError(
        f"{adapter}: its base model {shown(base_name)}, needed for the number of heads, is not on "
        "this machine",
        way=Way(
            "pass base=, the model's folder (config.json is enough) or a GGUF file",
            "name it with --base, the model's folder (config.json is enough) or a GGUF file",
        ),
    )


def _base_of_config(path: Path) -> LoraBase:
    config = read_fields(path)
    relative, architecture = find_relative(config), USUAL_ARCHITECTURE
    if relative is not None:
        if relative.has_other_matrices:
            raise _of_other_matrices(path, relative.title)
        architecture = relative.architecture(relative.own_config(config))
        config = relative.llama_config(config)
    check_hugging_face(config)
    sizes = hugging_face_hparams(config, lambda name: None)
    tied = config.flag("tie_word_embeddings", False)
    shapes = dict(tensor_shapes(sizes, is_tied=tied))
    shapes = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    return LoraBase(path, architecture, sizes.head_count, sizes.head_count_kv, shapes)


def _base_of_gguf(path: Path) -> LoraBase:
    with GGUFFile(path) as file:
        architecture = file.metadata.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{path}: the architecture is {shown(architecture)}; "
                f"supported: {', '.join(ARCHITECTURES)}"
            )
        source = file.metadata.get(SOURCE_KEY)
        if source is not None:
            raise _of_other_matrices(path, shown(source))
        heads = _heads(file, f"{architecture}.{HEADS}", None)
        kv_heads = _heads(file, f"{architecture}.{KV_HEADS}", heads)
        shapes = {t.name: t.shape for t in file.tensors.values() if len(t.shape) == 2}
    return LoraBase(path, str(architecture), heads, kv_heads, shapes)


def _of_other_matrices(path: Path, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path}: the matrices of {what} are others in a GGUF file, which the adapter does not "
        "fit; merge the adapter into its base model with PEFT and convert that"
    )


def _heads(file: GGUFFile, key: str, default: int | None) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelFileError(f"{file.path}: {key} is {shown(value)}; allowed: numbers from 1")
    return value
