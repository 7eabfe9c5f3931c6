"""Expands a GGUF file to the Hugging Face folder that it might have been converted from.

Weights become F16 safetensors in two shards with an index, in Hugging Face's order of query and
key rows; a byte-level BPE vocabulary becomes ``tokenizer.json``. Only for round trips in tests:
it trusts its input and knows the models that tests use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np

from edgellama.quant.gguf.file import GGUFFile

Halves: TypeAlias = "np.ndarray[Any, np.dtype[np.float16]]"

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TOKEN = 3
NUM_SHARDS = 2


def hugging_face_name(name: str) -> str:
    """``blk.3.attn_q.weight`` is ``model.layers.3.self_attn.q_proj.weight``."""
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
    part, kind = name.rsplit(".", 1)
    return f"{MODEL_NAMES[part]}.{kind}"


def half_split_rows(values: Halves, num_heads: int) -> Halves:
    """Rows of interleaved pairs as Hugging Face orders them: all firsts of a head, then seconds."""
    pairs = values.reshape(num_heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def hugging_face_tensors(file: GGUFFile) -> dict[str, Halves]:
    """Every tensor as F16, under its Hugging Face name."""
    heads = {
        "attn_q": int(file.metadata["llama.attention.head_count"]),
        "attn_k": int(file.metadata["llama.attention.head_count_kv"]),
    }
    tensors = {}
    for name, tensor in file.tensors.items():
        blocks = tensor.data.reshape(*tensor.shape[:-1], -1)
        kind = gguf.GGMLQuantizationType(tensor.format.ggml_id)
        values = gguf.quants.dequantize(blocks, kind).reshape(tensor.shape).astype(np.float16)
        part = name.split(".")[-2]
        if part in heads:
            values = half_split_rows(values, heads[part])
        tensors[hugging_face_name(name)] = values
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, Halves]) -> None:
    """One file of the safetensors format."""
    header, offset = {}, 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {
            "dtype": "F16",
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(values.tobytes())


def write_shards(folder: Path, tensors: Mapping[str, Halves]) -> None:
    """The tensors in shards of about the same number of tensors, with an index."""
    names = list(tensors)
    step = -(-len(names) // NUM_SHARDS)
    places = {}
    for shard in range(NUM_SHARDS):
        file_name = f"model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        chosen = names[shard * step : (shard + 1) * step]
        write_safetensors(folder / file_name, {name: tensors[name] for name in chosen})
        places |= dict.fromkeys(chosen, file_name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def model_config(file: GGUFFile) -> dict[str, Any]:
    """``config.json`` of a Llama."""
    metadata = file.metadata
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "max_position_embeddings": metadata["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": metadata["llama.rope.freq_base"],
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": metadata["llama.vocab_size"],
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float16",
    }


def smollm_tokenizer(file: GGUFFile) -> dict[str, Any]:
    """``tokenizer.json`` with SmolLM's way of splitting: single digits, then GPT-2's pattern."""
    tokens = list(file.metadata["tokenizer.ggml.tokens"])
    types = file.metadata["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": True}
            for number, token in enumerate(tokens)
            if types[number] == CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": list(file.metadata["tokenizer.ggml.merges"]),
        },
    }


def tokenizer_config(file: GGUFFile) -> dict[str, Any]:
    """``tokenizer_config.json``: named tokens and the chat template."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "chat_template": file.metadata["tokenizer.chat_template"],
        **{
            f"{short}_token": tokens[file.metadata[f"tokenizer.ggml.{name}_token_id"]]
            for short, name in names.items()
        },
    }


def write_json(path: Path, value: object) -> None:
    """Readable JSON in UTF-8."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def expand(source: Path, folder: Path) -> None:
    """Write the Hugging Face folder of a GGUF file with SmolLM's kind of vocabulary."""
    folder.mkdir(parents=True)
    with GGUFFile(source) as file:
        write_shards(folder, hugging_face_tensors(file))
        write_json(folder / "config.json", model_config(file))
        write_json(folder / "tokenizer.json", smollm_tokenizer(file))
        write_json(folder / "tokenizer_config.json", tokenizer_config(file))
