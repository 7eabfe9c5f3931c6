"""A source's tensors as those of a Llama of given sizes, in the order of writing.

It finds them by name, checks each, and brings queries and keys into GGUF's order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType

from edgellama.convert.model.hparams import HyperParameters
from edgellama.convert.model.names import TensorName, is_buffer, parse_name, source_name
from edgellama.convert.sources.source_tensor import ArrayTensor, PermutedTensor, SourceTensor
from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import (
    EdgellamaError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from edgellama.quant.llama_tensors import (
    LAYER_MATRICES,
    OUTPUT,
    is_optional,
    tensor_shapes,
)
from edgellama.quant.model_config import EMBEDDING

MAX_LISTED = 5
_FACTOR = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|modules_to_save)\b")


class SourceLayout:
    """The tensors of a source by GGUF name, before their shapes are known to be right."""

    def __init__(
        self,
        source: str,
        source_kind: str,
        tensors: Mapping[str, SourceTensor],
        absent: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """``absent``: files that should hold tensors, and do not, by the source's names.

        UnsupportedModelError for a tensor that no Llama has, ModelFileError for two of one.
        """
        self.source = source
        self._absent = absent
        self._source_kind = source_kind
        self.tensors: dict[str, SourceTensor] = {}
        self._places: dict[str, TensorName] = {}
        strangers = []
        for name, tensor in tensors.items():
            if is_buffer(name):
                continue
            place = parse_name(name, source_kind)
            if place is None:
                strangers.append(name)
            elif place.gguf in self.tensors:
                other = self.tensors[place.gguf].name
                raise ModelFileError(
                    f"{source}: tensors {other} and {name} are both {place.gguf}; needed: one"
                )
            else:
                self.tensors[place.gguf] = tensor
                self._places[place.gguf] = place
        factors = [name for name in strangers if _FACTOR.search(name)]
        if factors:
            raise UnsupportedModelError(
                f"{source}: {_listed(factors)} of LoRA adapters that are not merged; supported: "
                "plain weights, so load it with PEFT, merge_and_unload() and save that"
            )
        if strangers:
            raise UnsupportedModelError(
                f"{source}: {_listed(strangers)} of no Llama; supported: tensors of a dense Llama"
            )

    def rows(self, name: str) -> int | None:
        """Rows of a matrix, for sizes that only tensors tell."""
        tensor = self.tensors.get(name)
        return tensor.shape[0] if tensor is not None and len(tensor.shape) == 2 else None

    def ordered(
        self, sizes: HyperParameters, *, tied: bool, half_split: bool
    ) -> list[SourceTensor]:
        """The model's tensors under GGUF names, in order of writing.

        ``tied``: the output is the embedding. ``half_split``: queries and keys are in Hugging
        Face's order. ModelFileError for tensors that are missing, misshapen or too many.
        """
        found, ordered, missing = dict(self.tensors), [], []
        output = found.pop(OUTPUT, None) if tied else None
        if output is not None:
            # Of tensors that are one, a writer may have kept either name.
            found.setdefault(EMBEDDING, output)
        for name, layer in self._places.items():
            if layer.layer is not None and layer.layer >= sizes.block_count:
                raise ModelFileError(
                    f"{self.source}: tensor {self.tensors[name].name} is of layer {layer.layer}; "
                    f"allowed: 0 to {sizes.block_count - 1}"
                )
        for name, shape in tensor_shapes(sizes, is_tied=tied, biased=LAYER_MATRICES):
            tensor = found.pop(name, None)
            if tensor is None:
                missing += [] if is_optional(name) else [name]
                continue
            if tensor.shape != shape:
                is_piece = self._source_kind == "meta" and prod(tensor.shape) < prod(shape)
                raise ModelFileError(
                    f"{self.source}: tensor {tensor.name} has shape {shape_text(tensor.shape)}; "
                    f"needed: {shape_text(shape)}" + (": is a shard missing?" if is_piece else "")
                )
            if half_split:
                tensor = _interleaved(tensor, name, sizes)
            ordered.append(tensor.renamed(name))
        if missing:
            raise self._incomplete(missing)
        if found:
            raise UnsupportedModelError(
                f"{self.source}: {_listed([t.name for t in found.values()])} of no Llama; "
                "supported: tensors of a dense Llama"
            )
        return _rope_freqs(sizes) + ordered

    def _incomplete(self, missing: list[str]) -> EdgellamaError:
        """The error for tensors that are not there, under the source's own names for them."""
        names = [source_name(name, self._source_kind) for name in missing]
        places = {name: file for name in names if (file := self._place(name)) is not None}
        if own := self._names_of_another:
            names, places = own, {name: self._absent[name] for name in own}
        gone = sorted({file.name for file in places.values() if not file.is_file()})
        if gone:
            return ModelNotFoundError(
                f"{self.source}: {_listed(names)} missing, with "
                f"{', '.join(map(shown, gone[:MAX_LISTED]))}, where the index places what is "
                "missing; needed: all shards, so download the rest of the model"
            )
        note = ""
        if places:
            name, file = next(iter(places.items()))
            note = f" (the index names {name} in {shown(file.name)}, which does not hold it)"
        if missing == [OUTPUT] and self._source_kind == "hugging_face":
            note += (
                '; needed: the output, or "tie_word_embeddings": true in config.json if the '
                "embedding is the output"
            )
            return ModelFileError(f"{self.source}: {_listed(names)} missing{note}")
        return ModelFileError(f"{self.source}: {_listed(names)} missing{note}; needed: all of them")

    @property
    def _names_of_another(self) -> list[str]:
        """What the index lacks by the names of an architecture that this one's are made of."""
        modules = {name: name.rpartition(".")[0] for name in self._absent if name.isprintable()}
        named = {name: module for name, module in modules.items() if module and not is_buffer(name)}
        places = (parse_name(f"{module}.weight", self._source_kind) for module in named.values())
        return list(named) if None in places else []

    def _place(self, name: str) -> Path | None:
        """The file that should hold a tensor, or the parts that it is quantized to."""
        module = name.rpartition(".")[0] + "."
        found = (file for absent, file in self._absent.items() if absent.startswith(module))
        return self._absent.get(name) or next(found, None)


def _interleaved(tensor: SourceTensor, name: str, sizes: HyperParameters) -> SourceTensor:
    part = name.split(".")[-2]
    heads = {"attn_q": sizes.head_count, "attn_k": sizes.head_count_kv}.get(part)
    return tensor if heads is None else PermutedTensor(tensor, heads, sizes.rotated)


def _rope_freqs(sizes: HyperParameters) -> list[SourceTensor]:
    stretch = sizes.scaling.stretch
    if stretch is None:
        return []
    num_rotated = sizes.rotated or sizes.head_size
    tensors = stretch.tensors(sizes.rope_base, num_rotated)
    return [ArrayTensor(name, divisors) for name, divisors in tensors.items()]


def _listed(names: list[str]) -> str:
    """``tensor a is`` or ``tensors a, b and 7 more are``."""
    shown = ", ".join(names[:MAX_LISTED])
    rest = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown}{rest} are"
