"""Chats whose model says what a test wants, as far as it may, and functions that it may call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from places import DATA

from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.sessions.session import Session
from edgellama.text.chat_template import load_chat_template
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols
from reference.replying_engine import ReplyingEngine

TEMPLATES = {
    path.stem: path.read_text("utf-8") for path in (DATA / "tool_templates").glob("*.jinja")
}

TEMPLATES["chatml"] = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# As Llama 3.2 is asked for lists of calls in Python's words.
TEMPLATES["python"] = (
    "{{ bos_token }}{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.tool_calls %}"
    "{{ '[' }}{% for call in m.tool_calls %}{{ call.function.name + '(' }}"
    "{% for name, value in call.function.arguments | items %}{{ name + '=' + value | tojson }}"
    "{{ '' if loop.last else ', ' }}{% endfor %}{{ ')' if loop.last else '), ' }}{% endfor %}"
    "{{ ']' }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

OPENINGS = {
    "llama-3.1": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.2": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "hermes-2-pro": "<|im_start|>assistant\n",
    "chatml": "<|im_start|>assistant\n",
    "python": "<|im_start|>assistant\n",
    "mistral-nemo": "[/INST]",
}

CONTROL = (
    *("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|python_tag|>", "[TOOL_CALLS]", "[/INST]"),
)

TAGS = ("<tool_call>", "</tool_call>")


def tokenizer_with(*tags: str, kind: int = 3) -> Tokenizer:
    """A token a byte, and control tokens of every format; ``tags`` have the type ``kind``."""
    special = (*CONTROL, *tags)
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*(s.decode() for s in byte_symbols()), *special],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(CONTROL) + [kind] * len(tags),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 257,
        }
    )


TOKENIZER = tokenizer_with()


def chat_with(
    *replies: str | Callable[[int], Any],
    template: str = "llama-3.2",
    tokenizer: Tokenizer = TOKENIZER,
    **options: Any,
) -> tuple[Conversation, ReplyingEngine]:
    """A conversation whose model says these replies, as far as it may."""

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False, parse_special=True)

    rows = [encoded(r + "</s>") if isinstance(r, str) else r for r in replies]
    engine = ReplyingEngine(rows, encoded(OPENINGS[template]), tokenizer.vocab_size)
    chosen = load_chat_template({"tokenizer.chat_template": TEMPLATES[template]}, tokenizer)
    assert chosen is not None
    session = Session(engine, tokenizer)  # type: ignore[arg-type]
    return Conversation(session, tokenizer, chosen, **{"temperature": 0, **options}), engine


def add(a: int, b: int = 0) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def paint(colour: Literal["red", "blue"], coats: list[int]) -> str:
    """Paint something."""
    return f"{colour}, {len(coats)} coats"


def nothing() -> None:
    """Do nothing."""


def calls_of(result: Any) -> list[tuple[str, Any]]:
    """Names and arguments."""
    return [(call.name, call.arguments) for call in result.tool_calls]


SAID: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "json": ("llama-3.2", '{"name": "add", "parameters": {"a": 1}}', [("add", {"a": 1})]),
    "tag": (
        "llama-3.1",
        '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}<|eom_id|>',
        [("add", {"a": 1, "b": 2})],
    ),
    "two": (
        "llama-3.2",
        '{"name": "add", "parameters": {"a": 1}}; {"name": "paint", "parameters": '
        '{"colour": "red", "coats": []}}',
        [("add", {"a": 1}), ("paint", {"colour": "red", "coats": []})],
    ),
    "hermes": (
        "hermes-2-pro",
        'So: <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n'
        '{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
    "generic": (
        "chatml",
        '<tool_call>\n{"name": "add", "arguments": {"a": -1}}\n</tool_call>',
        [("add", {"a": -1})],
    ),
    "mistral": (
        "mistral-nemo",
        '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": '
        '{"a": 2}}]',
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
}

SAID["python"] = (
    "python",
    '[add(a=1), paint(colour="red", coats=[2])]',
    [("add", {"a": 1}), ("paint", {"colour": "red", "coats": [2]})],
)


@dataclass
class Person:
    """Somebody."""

    name: str
    age: int


def brave_search(query: str) -> str:
    """Search the web."""
    return f"nothing about {query}"
