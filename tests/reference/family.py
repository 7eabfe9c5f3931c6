"""Tiny checkpoints of every member of the Llama family, each with the quirks of the real one.

A member is a configuration, the tokenizer's files, and weights that follow from them by a seed.
``write`` makes the Hugging Face folder that a user would have, family_meta Meta's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch_bytes

from reference import family_tokenizers as tokenizers

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
TokenizerFiles: TypeAlias = Callable[[Path], None]

LLAMA_3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>")
LLAMA_3_1_SPECIAL = (*LLAMA_3_SPECIAL, "<|finetune_right_pad_id|>", "<|eom_id|>")
LLAMA_3_ALL_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(4)),
    *("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(5, 251)),
)
LLAMA_3_1_ALL_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
SMOLLM2_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_BYTE_LEVEL = 256 + tokenizers.NUM_MERGES
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
BASE: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": tokenizers.NUM_PIECES,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
)


@dataclass(frozen=True)
class Member:
    """One model: ``config`` is the whole config.json; a field that is None is left out.

    ``params``: params.json, of a member that comes in Meta's layout too. ``old``: saved by torch
    and not as safetensors, together with tables of angles.
    """

    name: str
    config: Mapping[str, Any]
    tokenizer: TokenizerFiles
    params: Mapping[str, Any] | None = None
    old: bool = False

    @property
    def full_config(self) -> dict[str, Any]:
        """The configuration with what all members share."""
        merged = {**BASE, **self.config}
        return {key: value for key, value in merged.items() if value is not None}

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        config = self.full_config
        size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
        return int(size)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by Hugging Face's names."""
        config = self.full_config
        width, hidden = config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        query, key = (n * self.head_size for n in (heads, config.get("num_key_value_heads", heads)))
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config["vocab_size"], width)
        }
        modules = {
            "self_attn.q_proj": (query, width),
            "self_attn.k_proj": (key, width),
            "self_attn.v_proj": (key, width),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (hidden, width),
            "mlp.up_proj": (hidden, width),
            "mlp.down_proj": (width, hidden),
        }
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            for module, shape in modules.items():
                shapes[f"{prefix}{module}.weight"] = shape
                biases = "attention_bias" if "attn" in module else "mlp_bias"
                if config.get(biases):
                    shapes[f"{prefix}{module}.bias"] = shape[:1]
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{prefix}{norm}.weight"] = (width,)
        shapes["model.norm.weight"] = (width,)
        if not config["tie_word_embeddings"]:
            shapes["lm_head.weight"] = (config["vocab_size"], width)
        return shapes

    def weights(self) -> dict[str, Array]:
        """float16 weights by Hugging Face's names; activations stay near one."""
        rng = np.random.default_rng(sum(self.name.encode()))
        return {name: _drawn(rng, name, shape) for name, shape in self.shapes().items()}

    def saved_tensors(self) -> dict[str, Array]:
        """The weights, and tables of angles if the member is old."""
        tensors = self.weights()
        if self.old:
            angles = 1e4 ** -(np.arange(0, self.head_size, 2) / self.head_size)
            for layer in range(self.full_config["num_hidden_layers"]):
                name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
                tensors[name] = angles.astype(np.float32)
        return tensors

    def write(self, folder: Path) -> Path:
        """The Hugging Face folder, with the weights in one file."""
        folder.mkdir(parents=True)
        tokenizers.write_json(folder / "config.json", self.full_config)
        self.tokenizer(folder)
        if self.old:
            (folder / "pytorch_model.bin").write_bytes(torch_bytes.saved(self.saved_tensors()))
        else:
            write_safetensors(folder / "model.safetensors", self.saved_tensors())
        return folder


def _drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    if len(shape) == 2:
        gain = 1.0 if "layers" in name else 3.0
        values = rng.normal(0, gain / shape[1] ** 0.5, shape)
    elif name.endswith("bias"):
        values = rng.normal(0, 0.1, shape)
    else:
        values = rng.normal(1, 0.1, shape)
    return values.astype(np.float16)


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """One file of the safetensors format."""
    header, offset = {}, 0
    for name, values in tensors.items():
        kind = {2: "F16", 4: "F32"}[values.itemsize]
        end = offset + values.nbytes
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(values.tobytes())


def sentencepiece(model: Callable[[], bytes], **settings: Any) -> TokenizerFiles:
    """A ``tokenizer.model`` and, unless there are no settings, tokenizer_config.json."""

    def write(folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(model())
        if settings:
            tokenizers.write_json(folder / "tokenizer_config.json", settings)

    return write


def byte_level(kind: str, special: tuple[str, ...], **options: Any) -> TokenizerFiles:
    """A ``tokenizer.json``, and tokenizer_config.json with ``settings``."""
    settings = options.pop("settings")

    def write(folder: Path) -> None:
        tokenizer = tokenizers.byte_level_tokenizer(kind, special, **options)
        tokenizers.write_json(folder / "tokenizer.json", tokenizer)
        tokenizers.write_json(folder / "tokenizer_config.json", settings)

    return write


def with_files(tokenizer: TokenizerFiles, **files: Any) -> TokenizerFiles:
    """More JSON files, by their names without the ending."""

    def write(folder: Path) -> None:
        tokenizer(folder)
        for name, value in files.items():
            tokenizers.write_json(folder / f"{name}.json", value)

    return write


def _llama_2(**changes: Any) -> TokenizerFiles:
    decoder = tokenizers.added_tokens_decoder(("<unk>", "<s>", "</s>"), 0)
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder,
        **ROLES,
        "pad_token": None,
        "tokenizer_class": "LlamaTokenizer",
    }
    return sentencepiece(tokenizers.sentencepiece_model, **settings, **changes)


def _code_llama_model() -> bytes:
    return tokenizers.with_pieces(
        tokenizers.sentencepiece_model(), ("\u2581<SU", *tokenizers.INFILL_PIECES, "<FILL_ME>")
    )


def _open_llama_model() -> bytes:
    return tokenizers.sentencepiece_model(removes_spaces=True, normalization="nmt_nfkc")


_LLAMA_3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Short, so that the few positions of the sequence already tell scaled from unscaled.
    "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}
_LLAMA_3: dict[str, Any] = {
    "num_key_value_heads": 2,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "vocab_size": NUM_BYTE_LEVEL + len(LLAMA_3_SPECIAL),
    "bos_token_id": NUM_BYTE_LEVEL,
    "eos_token_id": NUM_BYTE_LEVEL + 1,
}
_LLAMA_3_PARAMS = {
    "dim": 32,
    "ffn_dim_multiplier": 1.3,
    "multiple_of": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
_LLAMA_3_1 = {
    **_LLAMA_3,
    "max_position_embeddings": 131072,
    "vocab_size": NUM_BYTE_LEVEL + len(LLAMA_3_1_SPECIAL),
    "eos_token_id": [NUM_BYTE_LEVEL + 1, NUM_BYTE_LEVEL + 3],
}
_LLAMA_3_ROLES = {"bos_token": LLAMA_3_SPECIAL[0], "eos_token": "<|eot_id|>"}
_SMOLLM2_ROLES = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|im_end|>",
}

MEMBERS = (
    Member(
        "llama-1",
        # As first converted: another class name, roles by wrong ids, nothing in the settings.
        {
            "architectures": ["LLaMAForCausalLM"],
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": -1,
            "num_key_value_heads": None,
            "max_position_embeddings": None,
            "max_sequence_length": 2048,
            "rope_theta": None,
            "rms_norm_eps": 1e-6,
        },
        sentencepiece(
            tokenizers.sentencepiece_model,
            bos_token="",
            eos_token="",
            unk_token="",
            model_max_length=1000000000000000019884624838656,
            tokenizer_class="LLaMATokenizer",
        ),
        params={"dim": 32, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-06},
        old=True,
    ),
    Member(
        "llama-2",
        {"pretraining_tp": 1, "rope_scaling": None},
        _llama_2(chat_template=CHAT_TEMPLATE),
        params={"dim": 32, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-05},
    ),
    Member(
        "llama-2-70b",
        {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_theta": None},
        _llama_2(),
        params={
            "dim": 32,
            "multiple_of": 16,
            "ffn_dim_multiplier": 1.3,
            "n_heads": 8,
            "n_kv_heads": 1,
            "n_layers": 2,
            "norm_eps": 1e-05,
        },
    ),
    Member(
        "code-llama",
        {
            "max_position_embeddings": 16384,
            "rope_theta": 1000000,
            "vocab_size": tokenizers.NUM_PIECES + len(tokenizers.INFILL_PIECES) + 2,
        },
        sentencepiece(_code_llama_model, **ROLES, tokenizer_class="CodeLlamaTokenizer"),
        params={
            "dim": 32,
            "n_heads": 4,
            "n_layers": 2,
            "norm_eps": 1e-05,
            "rope_theta": 1000000,
        },
    ),
    Member(
        "llama-3",
        _LLAMA_3,
        byte_level("llama-bpe", LLAMA_3_SPECIAL, bos=LLAMA_3_SPECIAL[0], settings=_LLAMA_3_ROLES),
    ),
    Member(
        "llama-3-meta",
        # With all of Llama 3's special tokens, so that both layouts have the same vocabulary.
        {**_LLAMA_3, "vocab_size": NUM_BYTE_LEVEL + len(LLAMA_3_ALL_SPECIAL)},
        byte_level(
            "llama-bpe",
            LLAMA_3_ALL_SPECIAL,
            bos=LLAMA_3_SPECIAL[0],
            settings={"bos_token": LLAMA_3_SPECIAL[0], "eos_token": LLAMA_3_SPECIAL[1]},
        ),
        params={**_LLAMA_3_PARAMS, "vocab_size": NUM_BYTE_LEVEL + 256},
    ),
    Member(
        "llama-3.1-meta",
        {
            **_LLAMA_3_1,
            "vocab_size": NUM_BYTE_LEVEL + len(LLAMA_3_1_ALL_SPECIAL),
            "rope_scaling": {**_LLAMA_3_SCALING, "original_max_position_embeddings": 8192},
        },
        byte_level(
            "llama-bpe",
            LLAMA_3_1_ALL_SPECIAL,
            bos=LLAMA_3_SPECIAL[0],
            settings={
                "bos_token": LLAMA_3_SPECIAL[0],
                "eos_token": LLAMA_3_SPECIAL[1],
                "pad_token": "<|finetune_right_pad_id|>",
            },
        ),
        params={
            **_LLAMA_3_PARAMS,
            "vocab_size": NUM_BYTE_LEVEL + 256,
            "use_scaled_rope": True,
        },
    ),
    Member(
        "llama-3.1",
        {**_LLAMA_3_1, "rope_scaling": _LLAMA_3_SCALING},
        byte_level(
            "llama-bpe",
            LLAMA_3_1_SPECIAL,
            bos=LLAMA_3_SPECIAL[0],
            merges_as_pairs=True,
            settings={**_LLAMA_3_ROLES, "pad_token": "<|finetune_right_pad_id|>"},
        ),
    ),
    Member(
        "llama-3.2",
        # Tied, and saved by a newer transformers: rope_parameters in place of two fields.
        {
            **_LLAMA_3_1,
            "tie_word_embeddings": True,
            "rope_theta": None,
            "head_dim": 8,
            "rope_parameters": {**_LLAMA_3_SCALING, "factor": 32.0, "rope_theta": 500000.0},
        },
        byte_level(
            "llama-bpe",
            LLAMA_3_1_SPECIAL,
            bos=LLAMA_3_SPECIAL[0],
            merges_as_pairs=True,
            settings=_LLAMA_3_ROLES,
        ),
    ),
    Member(
        "vicuna",
        # A padding token that the embedding has no row for.
        {"max_sequence_length": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-6},
        with_files(
            sentencepiece(tokenizers.sentencepiece_model, **ROLES, pad_token="<pad>"),
            added_tokens={"<pad>": tokenizers.NUM_PIECES},
            special_tokens_map={**ROLES, "pad_token": "<pad>"},
        ),
        old=True,
    ),
    Member(
        "alpaca",
        # One added token, and its row.
        {"vocab_size": tokenizers.NUM_PIECES + 1, "pad_token_id": None},
        with_files(
            sentencepiece(
                tokenizers.sentencepiece_model,
                bos_token={"__type": "AddedToken", "content": "</s>", "lstrip": False},
                eos_token={"__type": "AddedToken", "content": "</s>", "lstrip": False},
                unk_token={"__type": "AddedToken", "content": "</s>", "lstrip": False},
            ),
            added_tokens={"[PAD]": tokenizers.NUM_PIECES},
            special_tokens_map={
                "bos_token": "</s>",
                "eos_token": "</s>",
                "pad_token": "[PAD]",
                "unk_token": "</s>",
            },
        ),
        old=True,
    ),
    Member(
        "open-llama",
        # The vocabulary joins spaces and normalizes letters.
        {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
        sentencepiece(_open_llama_model, **ROLES, add_bos_token=True, add_eos_token=False),
    ),
    Member(
        "sheared-llama",
        # Pruned: sizes that no other member has.
        {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5, "pad_token_id": 0},
        _llama_2(),
        old=True,
    ),
    Member(
        "mistral",
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
        },
        _llama_2(),
    ),
    Member(
        "mistral-nemo",
        # Heads larger than their share of the width; a vocabulary that starts with special tokens.
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 131072,
            "rope_theta": 1000000.0,
            "vocab_size": NUM_BYTE_LEVEL + 3,
            "sliding_window": None,
        },
        byte_level(
            "tekken",
            ("<unk>", "<s>", "</s>"),
            bos="<s>",
            special_first=True,
            settings={**ROLES, "add_bos_token": True},
        ),
    ),
    Member(
        "smollm2",
        {
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_theta": 100000,
            "rope_interleaved": False,
            "vocab_size": NUM_BYTE_LEVEL + len(SMOLLM2_SPECIAL) + 5,
            "max_position_embeddings": 8192,
            "is_llama_config": True,
        },
        byte_level(
            "smollm",
            SMOLLM2_SPECIAL,
            special_first=True,
            settings={**_SMOLLM2_ROLES, "add_prefix_space": False, "chat_template": CHAT_TEMPLATE},
        ),
    ),
    Member(
        "biases",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 12,
            "num_key_value_heads": 2,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
        _llama_2(),
    ),
    Member(
        "yarn",
        {
            "max_position_embeddings": 1200,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "hidden_size": 64,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 300,
                "attention_factor": 1.3,
            },
        },
        _llama_2(),
    ),
)
