"""Chats whose model thinks: formats as such models have them, and replies as a test wants.

The templates are ours, with what makes each kind special: who opens thinking, how it is switched
off, and what becomes of earlier thinking.
"""

from __future__ import annotations

from typing import Any

from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.sessions.session import Session
from edgellama.text.chat_template import load_chat_template
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols
from reference.replying_engine import ReplyingEngine

CONTROL = ("<s>", "</s>", "<|User|>", "<|Assistant|>")
ASSISTANT = "<|Assistant|>"
_TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + ANSWER + '</s>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
_CUT = "(m.content.split('</think>')[-1] if '</think>' in m.content else m.content)"
_KEPT = (
    "(('<think>\n' + m.reasoning_content + '\n</think>\n\n' if m.reasoning_content else '')"
    " + m.content)"
)


def _template(answer: str, opening: str) -> str:
    return _TURNS.replace("ANSWER", answer) + (
        "{% if add_generation_prompt %}{{ '<|Assistant|>' }}OPENING{% endif %}"
    ).replace("OPENING", opening)


TEMPLATES = {
    # As DeepSeek-R1's distillations: opened by the template, cut from what was said.
    "opened": _template(_CUT, "{{ '<think>\n' }}"),
    # As their first version.
    "cut": _template(_CUT, ""),
    # As templates with a switch, which open nothing, and close at once what is not wanted.
    "switched": _template(
        _CUT,
        "{% if enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    ),
    # As templates that show earlier thinking themselves.
    "kept": _template(_KEPT, ""),
    # As Mistral's: the vocabulary alone knows the marks.
    "plain": _template("m.content", ""),
}


def tokenizer_with(*tokens: str, kind: int = 3) -> Tokenizer:
    """A token a byte, control tokens of the format, and ``tokens`` of the type ``kind``."""
    special = (*CONTROL, *tokens)
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [*(s.decode() for s in byte_symbols()), *special],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(CONTROL) + [kind] * len(tokens),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 257,
        }
    )


PLAIN = tokenizer_with()
WHOLE = tokenizer_with("<think>", "</think>", kind=4)
CONTROLLED = tokenizer_with("[THINK]", "[/THINK]")


def thinking_chat(
    *replies: str,
    template: str = "opened",
    behind: str = "",
    tokenizer: Tokenizer = PLAIN,
    **options: Any,
) -> tuple[Conversation, ReplyingEngine]:
    """A conversation whose model says these replies, each behind ``ASSISTANT`` and ``behind``."""

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False, parse_special=True)

    rows = [encoded(reply + "</s>") for reply in replies]
    engine = ReplyingEngine(rows, encoded(ASSISTANT + behind), tokenizer.vocab_size)
    source = TEMPLATES.get(template, template)
    chosen = load_chat_template({"tokenizer.chat_template": source}, tokenizer)
    assert chosen is not None
    session = Session(engine, tokenizer)  # type: ignore[arg-type]
    return Conversation(session, tokenizer, chosen, **{"temperature": 0, **options}), engine


def prompts_of(engine: ReplyingEngine, tokenizer: Tokenizer = PLAIN) -> list[str]:
    """What was computed before each reply, as text."""
    texts = [tokenizer.decode(each, skip_special=False) for each in engine.forwarded]
    return [text for text in texts if ASSISTANT in text]
