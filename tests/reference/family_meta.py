"""The members of the family that Meta publishes, as its own folders.

They hold shards, params.json and a tokenizer; weights are those of the Hugging Face folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from raw_files import torch_bytes

from reference import family_tokenizers as tokenizers
from reference.family_member import Array, Member

LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
MODEL_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
JOINED_COLUMNS = ("attention.wo", "feed_forward.w2")


def write_meta(member: Member, folder: Path, num_shards: int = 1) -> Path:
    """Meta's folder of a member; the tokenizer of SentencePiece lies beside it, as Llama 1's."""
    assert member.params is not None
    folder.mkdir(parents=True)
    is_llama_3 = "llama-3" in member.name
    # Llama 1 and 2 leave the size of the vocabulary to the tokenizer.
    tokenizers.write_json(folder / "params.json", {"vocab_size": -1, **member.params})
    if is_llama_3:
        (folder / "tokenizer.model").write_bytes(tokenizers.tiktoken_model())
    else:
        member.tokenizer(folder.parent)
    for shard in range(num_shards):
        pieces = {
            name: _piece(name, values, shard, num_shards, split_rows=is_llama_3)
            for name, values in meta_weights(member).items()
        }
        if not is_llama_3:
            pieces["rope.freqs"] = np.ones(member.head_size // 2, np.float16)
        path = folder / f"consolidated.{shard:02d}.pth"
        path.write_bytes(torch_bytes.saved(pieces))
    return folder


def meta_weights(member: Member) -> dict[str, Array]:
    """The weights under Meta's names; queries and keys with the halves of a head interleaved."""
    weights = {}
    for name, values in member.weights().items():
        if name in MODEL_NAMES:
            weights[MODEL_NAMES[name]] = values
            continue
        _, layers, layer, rest = name.split(".", 3)
        module, kind = rest.rsplit(".", 1)
        if module in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = values.reshape(-1, 2, member.head_size // 2, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        weights[f"{layers}.{layer}.{LAYER_NAMES[module]}.{kind}"] = values
    return weights


def _piece(name: str, values: Array, shard: int, num_shards: int, *, split_rows: bool) -> Array:
    """A shard's piece of a tensor, along the axis where Meta cuts it."""
    if values.ndim == 1:
        return values
    columns = any(module in name for module in JOINED_COLUMNS)
    columns |= name.startswith("tok_embeddings") and not split_rows
    piece = np.array_split(values, num_shards, axis=1 if columns else 0)[shard]
    return np.ascontiguousarray(piece)
