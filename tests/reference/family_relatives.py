"""Models of a Llama's shape in small that others trained or changed, each with its quirks."""

from __future__ import annotations

from reference import family_tokenizers as tokenizers
from reference.family_member import (
    CHAT_TEMPLATE,
    NUM_BYTE_LEVEL,
    ROLES,
    Member,
    byte_level,
    llama_2_tokenizer,
    sentencepiece,
    with_files,
)

SMOLLM2_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SMOLLM2_ROLES = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|im_end|>",
}


def _open_llama_model() -> bytes:
    return tokenizers.sentencepiece_model(removes_spaces=True, normalization="nmt_nfkc")


RELATIVES = (
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
        llama_2_tokenizer(),
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
        llama_2_tokenizer(),
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
        llama_2_tokenizer(),
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
                "beta_fast": 20,
                "beta_slow": 2,
            },
        },
        llama_2_tokenizer(),
    ),
    Member(
        "vicuna-16k",
        # Pretrained for fewer tokens than the reference has: 16 stand for 4,096.
        {
            "max_position_embeddings": 16,
            "max_sequence_length": 64,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
        llama_2_tokenizer(),
    ),
    Member(
        "dynamic-ntk",
        {"max_position_embeddings": 16, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        llama_2_tokenizer(),
    ),
    Member(
        "long-llama",
        {
            "architectures": ["LongLlamaForCausalLM"],
            "model_type": "longllama",
            "max_position_embeddings": 2048,
            "last_context_length": 1024,
            "mem_layers": [1],
            "mem_dtype": "bfloat16",
            "mem_positionals": True,
            "torch_attention": False,
        },
        llama_2_tokenizer(),
    ),
)
