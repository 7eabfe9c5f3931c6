"""Writes tests/data/format_golden.json: conversations as the publishers' own programs write them.

Run in ``tests``, with ``pip install --no-deps fschat==0.2.36 llama-models==0.3.0`` and
mistral-common: ``python -m reference.make_format_golden``. FastChat's are texts without BOS, Meta's
for Llama 3 a text, Mistral's ids of its first tokenizer, which knows no token for [INST].
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent.parent / "data" / "format_golden.json"
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!\n\nHow are you?"},
    {"role": "user", "content": "Who <s> are\nyou? \u00fc"},
]
CONVERSATIONS = (TURNS[:1], TURNS, [SYSTEM, *TURNS[:1]], [SYSTEM, *TURNS])
# FastChat's names; of those with a system prompt of their own only without another one.
FASTCHAT = {
    "llama2": "llama-2",
    "chatml": "mpt-7b-chat",
    "zephyr": "zephyr",
    "mistral": "mistral",
    "vicuna": "vicuna_v1.1",
    "wizardlm": "vicuna_v1.1",
    "koala": "koala_v1",
    "openassistant": "oasst_llama",
}
OWN_SYSTEM = ("vicuna", "wizardlm", "koala")
NO_SYSTEM = ("openassistant", "mistral")


def fastchat() -> Iterator[dict[str, Any]]:
    """Texts of FastChat's table, which its authors and those of the models keep."""
    from fastchat.conversation import get_conv_template  # type: ignore[import-not-found]

    for name, other in FASTCHAT.items():
        for messages in CONVERSATIONS:
            has_system = messages[0]["role"] == "system"
            if has_system and name in (*OWN_SYSTEM, *NO_SYSTEM):
                continue
            conversation = get_conv_template(other)
            if name not in OWN_SYSTEM:
                conversation.set_system_message(SYSTEM["content"] if has_system else "")
            if name in ("chatml", "zephyr") and not has_system:
                conversation.system_template = "{system_message}"
            for message in messages[has_system:]:
                role = conversation.roles[message["role"] == "assistant"]
                conversation.append_message(role, message["content"])
            conversation.append_message(conversation.roles[1], None)
            yield {"name": name, "messages": messages, "text": conversation.get_prompt()}


def meta() -> Iterator[dict[str, Any]]:
    """Texts of Meta's own program for Llama 3."""
    from llama_models.datatypes import RawMessage  # type: ignore[import-not-found]
    from llama_models.llama3.chat_format import ChatFormat  # type: ignore[import-not-found]
    from llama_models.llama3.tokenizer import Tokenizer  # type: ignore[import-not-found]

    tokenizer = Tokenizer.get_instance()
    for messages in CONVERSATIONS:
        raw = [RawMessage(**message, stop_reason="end_of_turn") for message in messages]
        tokens = ChatFormat(tokenizer).encode_dialog_prompt(raw).tokens
        yield {"name": "llama3", "messages": messages, "text": tokenizer.decode(tokens)}


def mistral() -> Iterator[dict[str, Any]]:
    """Ids of Mistral's own program for its first models."""
    from mistral_common.protocol.instruct.messages import (  # type: ignore[import-not-found]
        AssistantMessage,
        SystemMessage,
        UserMessage,
    )
    from mistral_common.protocol.instruct.request import (  # type: ignore[import-not-found]
        ChatCompletionRequest,
    )
    from mistral_common.tokens.tokenizers.mistral import (  # type: ignore[import-not-found]
        MistralTokenizer,
    )

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    for messages in CONVERSATIONS:
        request = ChatCompletionRequest(
            messages=[kinds[message["role"]](content=message["content"]) for message in messages]
        )
        ids = MistralTokenizer.v1().encode_chat_completion(request).tokens
        yield {"name": "mistral", "messages": messages, "ids": ids}


def main() -> None:
    """Write the file."""
    cases = [*fastchat(), *meta(), *mistral()]
    GOLDEN.write_text(json.dumps(cases, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main()
