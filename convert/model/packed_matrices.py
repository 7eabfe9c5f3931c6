"""Takes joined matrices of some checkpoints apart: queries, keys and values; gate and up.

Phi-3, GLM, Baichuan, Qwen 1 and Granite 4 put one below the other. InternLM 2 puts the queries of
each key head before its key and values, and TeleChat puts each key head before its values.
``tensor_names`` renames the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.convert.model.derived_tensors import PickedRows, UnitRows
from edgellama.convert.model.hparams import head_size
from edgellama.convert.model.tensor_names import CHATGLM, INTERNLM2, QWEN, TELECHAT, renamed
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.error_text import shape_text, shown
from edgellama.quant.errors import ModelFileError

Runs = Mapping[str, list[range]]
Tensors = Mapping[str, SourceTensor]
_MAX_HEADS = 1 << 16


@dataclass(frozen=True)
class _Heads:
    """Numbers of heads, and the elements of one."""

    queries: int
    keys: int
    size: int

    @classmethod
    def of(cls, config: Fields) -> _Heads:
        queries = config.size("num_attention_heads")
        keys = config.size("num_key_value_heads", queries)
        size = head_size(config)
        if queries > _MAX_HEADS:
            raise config.error("num_attention_heads", f"up to {_MAX_HEADS}")
        if queries % keys:
            raise config.error("num_key_value_heads", f"a divisor of num_attention_heads {queries}")
        return cls(queries, keys, size)

    @property
    def runs(self) -> Runs:
        """The rows of queries, keys and values below each other."""
        shared = self.keys * self.size
        rows = {"q_proj": self.queries * self.size, "k_proj": shared, "v_proj": shared}
        return below_each_other(rows)

    def in_turn(self, counts: Mapping[str, int]) -> Runs:
        """The rows of parts of which each key head has ``counts`` heads, one after the other."""
        width = sum(counts.values()) * self.size
        runs, place = {}, 0
        for part, count in counts.items():
            starts = range(place, place + self.keys * width, width)
            runs[part] = [range(start, start + count * self.size) for start in starts]
            place += count * self.size
        return runs


def phi3_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """Phi-3's tensors as a Llama's; ModelFileError for a matrix of another number of rows."""
    parts = {"qkv_proj": _Heads.of(config).runs, "gate_up_proj": _gate_and_up(config)}
    return _all_apart(tensors, config.source, parts)


def glm_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """GLM's tensors as a Llama's, gate and up apart, as ``phi3_apart``."""
    return _all_apart(tensors, config.source, {"gate_up_proj": _gate_and_up(config)})


def chatglm_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """ChatGLM's tensors as a Llama's, all apart that lie in one, as ``phi3_apart``."""
    parts = {"query_key_value": _Heads.of(config).runs, "dense_h_to_4h": _gate_and_up(config)}
    return _all_apart(renamed(tensors, CHATGLM, config.source), config.source, parts)


def granite4_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """Granite 4's tensors under a Llama's names, gate and up apart, as ``phi3_apart``."""
    named = {
        name.replace(".shared_mlp.", ".mlp.").replace(".output_linear.", ".down_proj."): tensor
        for name, tensor in tensors.items()
    }
    return _all_apart(named, config.source, {"input_linear": _gate_and_up(config)})


def baichuan_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """Baichuan's tensors as a Llama's, queries, keys and values apart, as ``phi3_apart``."""
    return _all_apart(tensors, config.source, {"W_pack": _Heads.of(config).runs})


def qwen_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """The first Qwen's tensors as a Llama's, as ``baichuan_apart``."""
    parts = {"c_attn": _Heads.of(config).runs}
    return _all_apart(renamed(tensors, QWEN, config.source), config.source, parts)


def baichuan2_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """Baichuan 2's, whose output has rows of length 1, however they are stored."""
    return with_unit_rows(baichuan_apart(tensors, config))


def with_unit_rows(tensors: Tensors) -> dict[str, SourceTensor]:
    """The tensors, the rows of the output divided by their lengths."""
    heads = (name for name in tensors if name.endswith("lm_head.weight"))
    return {**tensors, **{name: UnitRows(tensors[name]) for name in heads}}


def internlm2_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """InternLM 2's tensors as a Llama's; ModelFileError for a matrix of another number of rows."""
    heads = _Heads.of(config)
    runs = heads.in_turn({"q_proj": heads.queries // heads.keys, "k_proj": 1, "v_proj": 1})
    return _all_apart(renamed(tensors, INTERNLM2, config.source), config.source, {"wqkv": runs})


def telechat_apart(tensors: Tensors, config: Fields) -> dict[str, SourceTensor]:
    """TeleChat's tensors as a Llama's, as ``internlm2_apart``."""
    runs = _Heads.of(config).in_turn({"k_proj": 1, "v_proj": 1})
    return _all_apart(renamed(tensors, TELECHAT, config.source), config.source, {"key_value": runs})


def _gate_and_up(config: Fields) -> Runs:
    hidden = config.size("intermediate_size")
    return below_each_other({"gate_proj": hidden, "up_proj": hidden})


def _all_apart(tensors: Tensors, source: str, parts: Mapping[str, Runs]) -> dict[str, SourceTensor]:
    """The tensors, those apart whose matrices are ``parts``: runs of rows of each."""
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        stem, _, matrix = module.rpartition(".")
        if matrix in parts and kind in ("weight", "bias"):
            pieces = apart(f"{source}: ", tensor, f"{stem}.", parts[matrix], kind)
        else:
            pieces = {name: tensor}
        if twice := found.keys() & pieces.keys():
            raise ModelFileError(
                f"{source}: {shown(min(twice))} is there twice, once in {shown(name)}; needed: once"
            )
        found |= pieces
    return found


def below_each_other(counts: Mapping[str, int]) -> dict[str, list[range]]:
    """The rows of parts that follow each other, by how many each has."""
    runs, start = {}, 0
    for part, count in counts.items():
        runs[part] = [range(start, start + count)]
        start += count
    return runs


def apart(
    place: str, tensor: SourceTensor, stem: str, runs: Runs, kind: str = "weight"
) -> dict[str, SourceTensor]:
    """The parts of a matrix, or of its bias, by their names.

    ModelFileError, which begins with ``place``, for another shape.
    """
    num_rows = sum(len(run) for parts in runs.values() for run in parts)
    num_axes = 1 if kind == "bias" else 2
    if len(tensor.shape) != num_axes or tensor.shape[0] != num_rows:
        raise ModelFileError(
            f"{place}tensor {shown(tensor.name)} has shape {shape_text(tensor.shape)}; "
            f"needed: {num_rows} rows, of {', '.join(runs)}"
        )
    names = {part: f"{stem}{part}.{kind}" for part in runs}
    return {names[part]: PickedRows(names[part], tensor, runs[part]) for part in runs}
