"""Architectures that transformers does not have, as the models there that compute the same.

What each does is taken from its own published code: the names of its tensors, how it cuts products
of matrices that lie in one, and what it multiplies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reference.relatives import MINICPM, RELATIVES, SIZES

HEAD_SIZE = SIZES["hidden_size"] // SIZES["num_attention_heads"]
GROUPS = SIZES["num_attention_heads"] // SIZES["num_key_value_heads"]
Parts = Mapping[str, Any]
GPT2 = {"transformer.h.": "model.layers.", "transformer.": "model.", ".ln_f.": ".norm."}


def _same(weights: dict[str, Any]) -> dict[str, Any]:
    return weights


@dataclass(frozen=True)
class Twin:
    """``known``: the beginning of the class in transformers. ``settings``: its own, which
    config.json does not have. ``renamed``: fields of config.json by those of the twin. ``words``:
    in names of tensors, by the twin's. ``packed``: of a matrix in one, the parts, and how the
    product is cut: rows become those of each part. ``biased``: modules with biases, others have
    none although the twin has. ``runs``: how often each layer runs, which are several layers of
    the twin. ``finished``: the last that is done to weights. ``architecture``: what config.json
    calls it, where that does not end as usual.
    """

    known: str = "Llama"
    settings: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cut: Callable[[Any], tuple[Any, ...]] = tuple
    biased: tuple[str, ...] | None = None
    runs: int = 1
    finished: Callable[[dict[str, Any]], dict[str, Any]] = _same
    architecture: str = ""

    def own_shapes(self, shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """The shapes of the architecture's tensors, from its twin's."""
        found: dict[str, list[int]] = {}
        for twins_name, shape in shapes.items():
            layer = _layer_of(twins_name)
            if layer is not None and layer % self.runs:
                continue
            name = _in_layer(twins_name, (layer or 0) // self.runs)
            module, _, kind = name.rpartition(".")
            if kind == "bias" and self.biased is not None and not module.endswith(self.biased):
                continue
            whole = next(
                (whole for whole, parts in self.packed.items() if module.endswith(parts)), ""
            )
            if whole:
                own = f"{module.rpartition('.')[0]}.{whole}.{kind}"
                rows = found.get(self._own(own), [0])[0] + shape[0]
                found[self._own(own)] = [rows, *shape[1:]]
            else:
                found[self._own(name)] = shape
        return found

    def twins_weights(
        self, weights: Mapping[str, Any], shapes: Mapping[str, list[int]], zeros: Any
    ) -> dict[str, Any]:
        """The twin's weights, from the architecture's own; ``zeros`` makes biases it lacks."""
        found: dict[str, Any] = {}
        for own, values in weights.items():
            name = self._twins(own)
            stem, _, kind = name.rpartition(".")
            stem, _, module = stem.rpartition(".")
            if module in self.packed:
                pieces = zip(self.packed[module], self.cut(values), strict=True)
                found |= {f"{stem}.{part}.{kind}": piece for part, piece in pieces}
            else:
                found[name] = values
        found = {
            _in_layer(name, run + self.runs * (_layer_of(name) or 0)): values
            for name, values in found.items()
            for run in range(self.runs)
        }
        lacking = {name: zeros(shape) for name, shape in shapes.items() if name not in found}
        return self.finished(found | lacking)

    def _own(self, name: str) -> str:
        for own, twins in self.words.items():
            name = name.replace(twins, own)
        return name

    def _twins(self, name: str) -> str:
        for own, twins in self.words.items():
            name = name.replace(own, twins)
        return name


def _layer_of(name: str) -> int | None:
    match = re.search(r"\.layers\.(\d+)\.", name)
    return int(match[1]) if match else None


def _in_layer(name: str, layer: int) -> str:
    return re.sub(r"\.layers\.\d+\.", f".layers.{layer}.", name)


def _thirds(values: Any) -> tuple[Any, ...]:
    """Baichuan's unflatten(-1, (3, hidden_size)) of the product, and Qwen's split."""
    return tuple(values.reshape(3, -1, *values.shape[1:]))


def _in_pairs(values: Any) -> tuple[Any, ...]:
    """TeleChat's view of (heads, 2 * head size), split along its last axis."""
    states = values.reshape(-1, 2, HEAD_SIZE, values.shape[1])
    return tuple(states[:, place].reshape(-1, values.shape[1]) for place in range(2))


def _in_groups(values: Any) -> tuple[Any, ...]:
    """InternLM 2's: the queries of a key head, the key, the value."""
    width = values.shape[1]
    states = values.reshape(-1, GROUPS + 2, HEAD_SIZE, width)
    parts = states[:, :GROUPS], states[:, -2], states[:, -1]
    return tuple(part.reshape(-1, width) for part in parts)


def _one_after_the_other(values: Any) -> tuple[Any, ...]:
    """ChatGLM's split into all queries, all keys and all values."""
    queries = SIZES["num_attention_heads"] * HEAD_SIZE
    keys = queries + SIZES["num_key_value_heads"] * HEAD_SIZE
    return values[:queries], values[queries:keys], values[keys:]


def _unit_rows(weights: dict[str, Any]) -> dict[str, Any]:
    """Baichuan 2's NormHead."""
    head = weights["lm_head.weight"]
    length = (head * head).sum(1, keepdims=True) ** 0.5
    return weights | {"lm_head.weight": head / length}


def _telechat_base() -> float:
    """What TeleChat's RotaryEmbedding computes up to the length of its training."""
    settings = RELATIVES["telechat"][1]
    stretch = math.log(settings["training_seqlen"] / settings["base_seqlen"], 2) + 1
    alpha = max(2 ** math.ceil(stretch) - 1, 1)
    return float(10000 * alpha ** (HEAD_SIZE / (HEAD_SIZE - 2)))


def _multiplied(embedding: float, residual: float, logits: float) -> Twin:
    settings = {
        "embedding_multiplier": embedding,
        "residual_multiplier": residual,
        "logits_scaling": logits,
        "attention_multiplier": 1 / math.sqrt(HEAD_SIZE),
    }
    return Twin("Granite", settings=settings)


def _yarn(slope: float) -> Mapping[str, Any]:
    """YaRN whose queries and keys grow by another slope than 0.1."""
    own = RELATIVES["telechat3"][1]
    scaling = own["rope_scaling"]
    growth = slope * math.log(scaling["factor"]) + 1
    kept = {"rope_type": "yarn", "attention_factor": growth, "rope_theta": own["rope_theta"]}
    return {"rope_scaling": None, "rope_theta": None, "rope_parameters": {**scaling, **kept}}


_ATTENTION = ("q_proj", "k_proj", "v_proj")
_MUP = RELATIVES["teleflm"][1]
TWINS: Mapping[str, Twin] = {
    "MiMo": Twin("Qwen2"),
    "Aquila": Twin(),
    "IQuestCoder": Twin(),
    "Skywork": Twin(settings={"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}),
    "PanguEmbedded": Twin(settings={"attention_bias": True}),
    "TeleChat3": Twin(settings=_yarn(0.07)),
    "Xverse": Twin(),
    "Index": Twin(finished=_unit_rows),
    "MobileLLM": Twin(settings={"num_hidden_layers": 4, "tie_word_embeddings": True}, runs=2),
    "InternLM3": Twin(),
    "InternLM": Twin(
        settings={
            "rope_parameters": {
                "rope_type": "dynamic",
                "factor": 1.0,
                "rope_theta": RELATIVES["internlm"][1]["rotary"]["base"],
            }
        }
    ),
    "InternLM2": Twin(
        words={
            "model.tok_embeddings.": "model.embed_tokens.",
            ".attention_norm.": ".input_layernorm.",
            ".ffn_norm.": ".post_attention_layernorm.",
            ".attention.wo.": ".self_attn.o_proj.",
            ".attention.wqkv.": ".self_attn.wqkv.",
            ".feed_forward.w1.": ".mlp.gate_proj.",
            ".feed_forward.w2.": ".mlp.down_proj.",
            ".feed_forward.w3.": ".mlp.up_proj.",
            "output.": "lm_head.",
        },
        packed={"wqkv": _ATTENTION},
        cut=_in_groups,
    ),
    "MiniCPM": _multiplied(
        MINICPM["scale_emb"],
        MINICPM["scale_depth"] / math.sqrt(SIZES["num_hidden_layers"]),
        SIZES["hidden_size"] / MINICPM["dim_model_base"],
    ),
    "TeleFLM": _multiplied(_MUP["input_mult"], 1.0, _MUP["mup_scale_factor"] / _MUP["output_mult"]),
    "KORMo": Twin(
        words={
            ".pre_attention_layernorm.": ".input_layernorm.",
            ".pre_mlp_layernorm.": ".post_attention_layernorm.",
        }
    ),
    "Exaone": Twin(
        renamed={
            "num_hidden_layers": "num_layers",
            "rms_norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation_function",
        },
        words={
            **GPT2,
            ".wte.": ".embed_tokens.",
            ".ln_1.": ".input_layernorm.",
            ".ln_2.": ".post_attention_layernorm.",
            ".attn.attention.out_proj.": ".self_attn.o_proj.",
            ".attn.attention.": ".self_attn.",
            ".mlp.c_fc_0.": ".mlp.gate_proj.",
            ".mlp.c_fc_1.": ".mlp.up_proj.",
            ".mlp.c_proj.": ".mlp.down_proj.",
        },
    ),
    "QWenLMHead": Twin(
        "Qwen2",
        settings={"intermediate_size": SIZES["intermediate_size"]},
        renamed={"rms_norm_eps": "layer_norm_epsilon"},
        words={
            **GPT2,
            ".wte.": ".embed_tokens.",
            ".ln_1.": ".input_layernorm.",
            ".ln_2.": ".post_attention_layernorm.",
            ".attn.c_proj.": ".self_attn.o_proj.",
            ".attn.": ".self_attn.",
            ".mlp.w1.": ".mlp.up_proj.",
            ".mlp.w2.": ".mlp.gate_proj.",
            ".mlp.c_proj.": ".mlp.down_proj.",
        },
        packed={"c_attn": _ATTENTION},
        cut=_thirds,
        architecture="QWenLMHeadModel",
    ),
    "ChatGLM": Twin(
        "Glm",
        settings={
            "head_dim": HEAD_SIZE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4 * RELATIVES["chatglm"][1]["rope_ratio"],
                "partial_rotary_factor": 0.5,
            },
        },
        renamed={
            "num_hidden_layers": "num_layers",
            "num_key_value_heads": "multi_query_group_num",
            "intermediate_size": "ffn_hidden_size",
            "head_dim": "kv_channels",
            "rms_norm_eps": "layernorm_epsilon",
            "max_position_embeddings": "seq_length",
            "vocab_size": "padded_vocab_size",
        },
        words={
            "transformer.embedding.word_embeddings.": "model.embed_tokens.",
            "transformer.encoder.layers.": "model.layers.",
            "transformer.encoder.final_layernorm.": "model.norm.",
            "transformer.output_layer.": "lm_head.",
            ".self_attention.dense.": ".self_attn.o_proj.",
            ".self_attention.": ".self_attn.",
            ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
            ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
        },
        packed={"query_key_value": _ATTENTION},
        cut=_one_after_the_other,
        architecture="ChatGLMModel",
    ),
    "BaiChuan": Twin(packed={"W_pack": _ATTENTION}, cut=_thirds),
    "Baichuan": Twin(packed={"W_pack": _ATTENTION}, cut=_thirds, finished=_unit_rows),
    "TeleChat2": Twin(
        settings={
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": _telechat_base()},
        },
        renamed={
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "ffn_hidden_size",
            "rms_norm_eps": "layer_norm_epsilon",
            "max_position_embeddings": "seq_length",
        },
        words={
            **GPT2,
            ".word_embeddings.": ".embed_tokens.",
            ".self_attention.query.": ".self_attn.q_proj.",
            ".self_attention.dense.": ".self_attn.o_proj.",
            ".self_attention.": ".self_attn.",
        },
        packed={"key_value": ("k_proj", "v_proj")},
        cut=_in_pairs,
        biased=("o_proj", "down_proj"),
    ),
}
"""By the beginning of their classes' names."""
