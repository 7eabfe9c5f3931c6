"""The tensors of a Llama by GGUF name, and their shapes: one rule for all who need them.

They are the engine, the converter and the footprint. ``formats`` and ``recipes`` know formats; the
converter finds the tensors in a source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.model_config import EMBEDDING, TO_LLAMA, ModelConfig
from edgellama.quant.rope_config import LONG_FACTORS, SHORT_FACTORS

OUTPUT, ROPE_FREQS = "output.weight", "rope_freqs.weight"
LONGROPE_TENSORS = (SHORT_FACTORS, LONG_FACTORS)
ROPE_TENSORS = (ROPE_FREQS, *LONGROPE_TENSORS)
"""Which divide frequencies, and are no weights."""
PACKED_ATTENTION = "attn_qkv"
"""What some files have instead of the first three."""
ATTENTION_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD_MATRICES = ("ffn_gate", "ffn_up", "ffn_down")
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
LAYER_MATRICES = ATTENTION_MATRICES + FEED_FORWARD_MATRICES
Shape = tuple[int, ...]
_COMPUTED = ("blk.", "output", "token_embd", "position_embd")
_UNUSED = ("attn_rot_embd", "rope_freqs")
"""Angles that old files hold in every layer."""


class Sizes(Protocol):
    """What shapes follow from; counts are elements, heads or layers."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def embedding_length(self) -> int: ...
    @property
    def feed_forward_length(self) -> int: ...
    @property
    def block_count(self) -> int: ...
    @property
    def head_count(self) -> int: ...
    @property
    def head_count_kv(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def has_head_norms(self) -> bool: ...


def tensor_shapes(
    sizes: Sizes, *, is_tied: bool, biased: Collection[str] = ()
) -> Iterator[tuple[str, Shape]]:
    """Names and shapes, matrices as (rows, columns), in the usual order; not the optional divisors.

    ``biased`` names parts such as ``attn_q`` that have a bias in every layer.
    """
    width, hidden = sizes.embedding_length, sizes.feed_forward_length
    query, key = sizes.head_count * sizes.head_size, sizes.head_count_kv * sizes.head_size
    matrices = {
        "attn_q": (query, width),
        "attn_k": (key, width),
        "attn_v": (key, width),
        "attn_output": (width, query),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    yield EMBEDDING, (sizes.vocab_size, width)
    for layer in range(sizes.block_count):
        prefix = f"blk.{layer}."
        for norm, parts in (("attn_norm", ATTENTION_MATRICES), ("ffn_norm", FEED_FORWARD_MATRICES)):
            yield f"{prefix}{norm}.weight", (width,)
            for part in parts:
                yield f"{prefix}{part}.weight", matrices[part]
                if part in biased:
                    yield f"{prefix}{part}.bias", matrices[part][:1]
        if sizes.has_head_norms:
            yield from ((f"{prefix}{norm}.weight", (sizes.head_size,)) for norm in HEAD_NORMS)
    yield "output_norm.weight", (width,)
    if not is_tied:
        yield OUTPUT, (sizes.vocab_size, width)


def is_optional(name: str) -> bool:
    """Whether a Llama can do without the tensor of this name."""
    return name == ROPE_FREQS or name.endswith(".bias")


def check_shapes(config: ModelConfig, shapes: Mapping[str, Shape]) -> None:
    """Refuse tensors that cannot be this model's; those outside its layers are left alone.

    Raises ModelFileError for one that is missing or misshapen, UnsupportedModelError for rows
    that no kernel reads, and for one in a layer without which the model would be another.
    """
    expected = dict(tensor_shapes(config, is_tied=OUTPUT not in shapes, biased=LAYER_MATRICES))
    divisors = (config.rope.dimension_count // 2,)
    has_factors = config.rope.divisors is not None
    expected |= dict.fromkeys(LONGROPE_TENSORS if has_factors else (ROPE_FREQS,), divisors)
    for name, shape in expected.items():
        found = shapes.get(name)
        if found is None:
            if is_optional(name):
                continue
            whole = name.replace(ATTENTION_MATRICES[0], PACKED_ATTENTION)
            if whole != name and whole in shapes:
                what = f"tensor {whole} holds queries, keys and values; supported: a tensor of each"
                raise UnsupportedModelError(what, way=TO_LLAMA)
            raise ModelFileError(f"tensor {name} is missing")
        if found != shape:
            raise ModelFileError(f"tensor {name} has shape {found}; needed: {shape}")
        if len(shape) == 2 and shape[1] % 4:
            raise UnsupportedModelError(
                f"tensor {name} has rows of {shape[1]} elements; supported: multiples of 4"
            )
    strangers = (name for name in shapes if name not in expected and name.startswith(_COMPUTED))
    for name in strangers:
        if not any(part in name for part in _UNUSED):
            raise UnsupportedModelError(
                f"tensor {name} has no place in a Llama of {config.block_count} layers, so the "
                "model computes something else; supported: the tensors of a dense Llama"
            )
