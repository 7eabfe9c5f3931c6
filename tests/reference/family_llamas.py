"""Meta's own models in small: Llama 1 to 3.2 and Code Llama, each with its quirks."""

from __future__ import annotations

from typing import Any

from reference import family_tokenizers as tokenizers
from reference.family_member import (
    CHAT_TEMPLATE,
    NUM_BYTE_LEVEL,
    ROLES,
    Member,
    byte_level,
    llama_2_tokenizer,
    sentencepiece,
)

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


def _code_llama_model() -> bytes:
    return tokenizers.with_pieces(
        tokenizers.sentencepiece_model(), ("\u2581<SU", *tokenizers.INFILL_PIECES, "<FILL_ME>")
    )


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

LLAMAS = (
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
        llama_2_tokenizer(chat_template=CHAT_TEMPLATE),
        params={"dim": 32, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-05},
    ),
    Member(
        "llama-2-70b",
        {"num_attention_heads": 8, "num_key_value_heads": 1, "rope_theta": None},
        llama_2_tokenizer(),
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
)
