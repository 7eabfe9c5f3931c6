"""A tiny model that really thinks before it answers: each token has one that follows it.

Its embeddings tell tokens apart, its layer adds nothing, and its output knows the next one, so it
says the same to every prompt: ``THOUGHT`` between marks, and ``ANSWER``.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

from reference.tiny_models import TinyLlama, encode_tensor, random_weights, write_hyperparameters
from reference.tiny_vocabulary import byte_characters

THOUGHT, ANSWER = "Easy: four", "Four."
CONTROL = ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>")
MARKS = ("<think>", "</think>")
MERGED_PAIRS = ("Ċ Ċ",)
WORDS = ("Easy", ":Ġfour", "Four")
TOKENS = [*byte_characters(), "ĊĊ", *WORDS, *MARKS, *CONTROL]
TYPES = [
    *([TokenType.NORMAL] * (256 + 1 + len(WORDS))),
    *([TokenType.USER_DEFINED] * len(MARKS)),
    *([TokenType.CONTROL] * len(CONTROL)),
]
FOLLOWED_BY = {
    "<|Assistant|>": "<think>",
    "<think>": "Ċ",
    "Ċ": "Easy",
    "Easy": ":Ġfour",
    ":Ġfour": "</think>",
    "</think>": "ĊĊ",
    "ĊĊ": "Four",
    "Four": ".",
}
"""All others by the end."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + (m.content.split('</think>') | last) + "
    "'<|end|>' }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}OPENING{% endif %}"
)
OPENED = TEMPLATE.replace("OPENING", "{{ '<think>\n' }}")
"""The prompt ends inside thinking, as DeepSeek-R1's does."""
UNOPENED = TEMPLATE.replace("OPENING", "")


def write_thinking_model(path: Path, template: str = OPENED, context_length: int = 4096) -> Path:
    """Write the model and return its path."""
    size = 32 * -(-len(TOKENS) // 32)
    model = TinyLlama(
        width=size, heads=size // 32, kv_heads=1, layers=1, feed_forward=32, vocab_size=size,
        context_length=context_length,
    )  # fmt: skip
    weights = {name: np.zeros_like(values) for name, values in random_weights(model).items()}
    for values in weights.values():
        if values.ndim == 1:
            values[:] = 1.0
    weights["token_embd.weight"][:] = np.eye(size)
    for token, text in enumerate(TOKENS):
        follower = TOKENS.index(FOLLOWED_BY.get(text, "<|end|>"))
        weights["output.weight"][follower, token] = 4.0
    writer = GGUFWriter(path, "llama")
    write_hyperparameters(writer, model)
    _write_vocabulary(writer, size, template)
    rng = np.random.default_rng(0)
    for name, values in weights.items():
        data, ggml_type = encode_tensor(name, values, model, rng)
        writer.add_tensor(name, data, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_vocabulary(writer: GGUFWriter, size: int, template: str) -> None:
    num_unused = size - len(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*TOKENS, *(f"[unused {index}]" for index in range(num_unused))])
    writer.add_token_types([*TYPES, *([TokenType.UNUSED] * num_unused)])
    writer.add_token_merges(list(MERGED_PAIRS))
    writer.add_bos_token_id(TOKENS.index("<|begin|>"))
    writer.add_eos_token_id(TOKENS.index("<|end|>"))
    writer.add_chat_template(template)
