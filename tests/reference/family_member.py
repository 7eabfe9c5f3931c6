"""A member of the Llama family in small: its folder as a user would have it, and writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from raw_files import torch_bytes

from reference import family_tokenizers as tokenizers

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
TokenizerFiles: TypeAlias = Callable[[Path], None]

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


def llama_2_tokenizer(**changes: Any) -> TokenizerFiles:
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
