"""Conversations that fill their context: what is dropped, what is said, and taking turns back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.scripted_engine import ScriptedEngine
from reference.tiny_models import TinyLlama, write_tiny_llama
from reference.tiny_vocabulary import CHAT_TEMPLATE

from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.chat.fitting import first_kept
from edgellama.generation.sessions.session import Session
from edgellama.quant.errors import ContextLengthError, EdgellamaError, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.chat_template import load_chat_template
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

CONTEXT = 256
SYSTEM = "be kind"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    """Token n below 256 is byte n."""
    path = tmp_path_factory.mktemp("full") / "tiny.gguf"
    with GGUFFile(write_tiny_llama(path, TinyLlama())) as opened:
        yield load_tokenizer(opened.metadata)


def scripted_chat(
    tokenizer: Tokenizer, reply: bytes, **options: Any
) -> tuple[Conversation, ScriptedEngine]:
    """A conversation whose model always says ``reply``, and ends where that ends."""
    end = tokenizer.special.eot_id
    assert end is not None
    engine = ScriptedEngine([], tokenizer.vocab_size, context_length=CONTEXT)
    template = load_chat_template({"tokenizer.chat_template": CHAT_TEMPLATE}, tokenizer)
    assert template is not None
    chat = Conversation(
        Session(engine, tokenizer),  # type: ignore[arg-type]
        tokenizer,
        template,
        **{"system": SYSTEM, "temperature": 0, **options},
    )
    script = [*reply, end]

    def restart(step: int) -> None:
        if engine.forwarded[step][-1] == ord("\n"):
            engine.script = [0] * step + script

    engine.before_step = restart
    return chat, engine


def last_prompt(chat: Conversation, tokenizer: Tokenizer, num_tokens: int) -> str:
    """The prompt of the last reply as text, with its control tokens."""
    return tokenizer.decode(chat.session.tokens[:num_tokens], skip_special=False)


def test_a_full_conversation_goes_on(tokenizer: Tokenizer) -> None:
    """Whole oldest turns leave the prompt, the system prompt and all messages stay."""
    chat, _ = scripted_chat(tokenizer, b"sure")
    dropped, events = 0, 0
    for turn in range(40):
        result = chat.send(f"message {turn:03}")
        assert result.text == "sure"
        assert result.finish_reason == "stop"
        prompt = last_prompt(chat, tokenizer, result.prompt_tokens)
        kept = chat.messages[1 + chat.dropped_messages :]
        assert prompt.startswith(f"<|begin|><|im_start|>system\n{SYSTEM}<|im_end|>\n")
        assert [f"message {turn:03}" in prompt for turn in range(turn + 1)] == [
            {"role": "user", "content": f"message {turn:03}"} in kept for turn in range(turn + 1)
        ]
        assert kept[0]["role"] == "user"
        dropped += result.dropped_messages
        events += result.dropped_messages > 0
        assert dropped == chat.dropped_messages
    assert len(chat.messages) == 1 + 2 * 40
    assert dropped > 50
    assert events < 20, "what stays is read again only now and then"


def test_stop_says_that_it_is_full(tokenizer: Tokenizer) -> None:
    """The reply is empty with its reason, nothing is kept of it, and taking a turn back helps."""
    chat, engine = scripted_chat(tokenizer, b"sure", when_full="stop")
    while not (result := chat.send("a message of some length")).context_full:
        pass
    steps, before = len(engine.forwarded), list(chat.messages)
    result = chat.send("a message of some length")
    assert (result.text, result.finish_reason, result.tokens) == ("", "context", ())
    assert result.prompt_tokens > CONTEXT
    assert len(engine.forwarded) == steps
    assert list(chat.messages) == before
    chat.undo()
    chat.undo()
    assert chat.send("a message of some length").text == "sure"


def test_error_raises(tokenizer: Tokenizer) -> None:
    """With "error" a conversation longer than the context raises, with the counts."""
    chat, _ = scripted_chat(tokenizer, b"sure", when_full="error")
    with pytest.raises(ContextLengthError) as caught:
        for _turn in range(40):
            chat.send("a message of some length")
    assert caught.value.prompt_tokens > caught.value.context_length == CONTEXT
    assert chat.dropped_messages == 0


def test_a_reply_that_fills_the_context(tokenizer: Tokenizer) -> None:
    """It ends with that reason, and the next message is answered with room again."""
    chat, _ = scripted_chat(tokenizer, b"x" * 1000)
    first = chat.send("go")
    assert (first.finish_reason, first.context_full) == ("context", True)
    second = chat.send("go on")
    assert second.dropped_messages == 2
    assert len(second.tokens) >= CONTEXT // 2


def test_short_replies_need_little_room(tokenizer: Tokenizer) -> None:
    """Nothing is dropped while the prompt leaves room for max_tokens."""
    chat, _ = scripted_chat(tokenizer, b"sure", max_tokens=8)
    while chat.dropped_messages == 0:
        result = chat.send("a message of some length")
    previous = result.dropped_messages
    assert previous >= 2
    chat.clear()
    longest = 0
    while not (result := chat.send("a message of some length")).dropped_messages:
        longest = result.prompt_tokens
    assert longest > CONTEXT - 60


@pytest.mark.parametrize("when_full", ["drop", "error"])
def test_one_message_that_is_too_long(tokenizer: Tokenizer, when_full: str) -> None:
    """A message that does not fit even alone is an error, and the conversation goes on."""
    chat, _ = scripted_chat(tokenizer, b"sure", when_full=when_full)
    chat.send("hello")
    with pytest.raises(ContextLengthError):
        chat.send("long " * 100)
    assert len(chat.messages) == 3
    assert chat.send("hello").text == "sure"


@pytest.mark.parametrize("when_full", ["drop", "error"])
def test_one_giant_message_is_refused_at_once(
    tokenizer: Tokenizer, when_full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length alone tells that it does not fit; the conversation goes on."""
    chat, _ = scripted_chat(tokenizer, b"sure", when_full=when_full)
    with monkeypatch.context() as patch, pytest.raises(ContextLengthError, match="at least"):
        patch.setattr(ChatFormat, "prompt", lambda *_: pytest.fail("is encoded"))
        chat.send("long " * 1_000_000)
    assert len(chat.messages) == 1
    assert chat.send("hello").text == "sure"


def test_undo(tokenizer: Tokenizer) -> None:
    """The last turn goes, message and reply; without a turn there is an error."""
    chat, _ = scripted_chat(tokenizer, b"sure")
    chat.send("one")
    chat.send("two")
    assert [message["content"] for message in chat.undo()] == ["two", "sure"]
    assert [message["content"] for message in chat.messages] == [SYSTEM, "one", "sure"]
    chat.undo()
    with pytest.raises(EdgellamaError, match="no message to take back"):
        chat.undo()
    assert chat.send("three").text == "sure"


def test_clear_forgets_what_was_dropped(tokenizer: Tokenizer) -> None:
    """After clear() the model sees all messages again."""
    chat, _ = scripted_chat(tokenizer, b"sure")
    while not chat.send("a message of some length").dropped_messages:
        pass
    chat.clear()
    assert chat.dropped_messages == 0
    assert chat.send("hello").dropped_messages == 0


def test_unknown_way() -> None:
    """A way that does not exist is refused with those that do."""
    with pytest.raises(InvalidOptionError, match=r"'shift'; allowed: drop, stop, error"):
        Conversation(None, None, None, when_full="shift")  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=30),
    st.integers(0, 40),
    st.integers(20, 400),
    st.none() | st.integers(1, 500),
)
def test_what_is_kept(
    lengths: list[tuple[int, int]], first: int, context_length: int, max_tokens: int | None
) -> None:
    """No more is dropped than half a context asks for, and nothing while there is room."""
    turns = [{"role": role} for _ in lengths for role in ("user", "assistant")][:-1]
    sizes = [size for pair in lengths for size in pair][:-1]

    def prompt_length(index: int) -> int:
        return 10 + sum(sizes[index:])

    kept = first_kept(turns, first, context_length, max_tokens, prompt_length)
    before = min(first, len(turns) - 1)
    room = min(context_length // 4, max_tokens or context_length)
    if prompt_length(before) + room <= context_length:
        assert kept == before
    else:
        assert turns[kept]["role"] == "user" or kept == before
        assert prompt_length(kept) <= context_length // 2 or kept >= len(turns) - 1
        earlier = [i for i in range(before + 1, kept) if turns[i]["role"] == "user"]
        assert all(prompt_length(index) > context_length // 2 for index in earlier)
