"""Which tensors a Llama has, by GGUF name, and their shapes: the rule that engine, converter and
footprint share.

Formats are ``formats``' and ``recipes``'; finding the tensors in a source is the converter's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edgellama.quant.model_config import ModelConfig

ROPE_FREQS = "rope_freqs.weight"
Shape = tuple[int, ...]


def tensor_shapes(
    config: ModelConfig, *, is_tied: bool, biased: Collection[str] = ()
) -> Iterator[tuple[str, Shape]]:
    """Names and shapes, matrices as (rows, columns), in the usual order; not the optional divisors.

    ``biased`` names parts such as ``attn_q`` that have a bias in every layer.
    """
    width, hidden = config.embedding_length, config.feed_forward_length
    query, key = config.query_length, config.key_length
    matrices = {
        "attn_q": (query, width),
        "attn_k": (key, width),
        "attn_v": (key, width),
        "attn_output": (width, query),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    yield "token_embd.weight", (config.vocab_size, width)
    for layer in range(config.block_count):
        yield f"blk.{layer}.attn_norm.weight", (width,)
        yield f"blk.{layer}.ffn_norm.weight", (width,)
        for part, shape in matrices.items():
            yield f"blk.{layer}.{part}.weight", shape
            if part in biased:
                yield f"blk.{layer}.{part}.bias", shape[:1]
    yield "output_norm.weight", (width,)
    if not is_tied:
        yield "output.weight", (config.vocab_size, width)
