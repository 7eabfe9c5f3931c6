"""Conversations: what is computed for a turn, and what happens to the messages."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.patience import PATIENCE_S
from reference.numpy_llama import NumpyEngine
from reference.scripted_engine import ScriptedEngine
from reference.tiny_models import TinyLlama, write_tiny_llama
from reference.tiny_vocabulary import CHAT_TEMPLATE

from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.chat.messages import checked_messages
from edgellama.generation.sessions.session import Session
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    InvalidOptionError,
    KernelError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.chat_template import given_template, load_chat_template
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

GREEDY: Any = {"temperature": 0, "max_tokens": 6}
TRIMMING = CHAT_TEMPLATE.replace("message['content']", "(message['content'] | trim)")
FORGETTING = (
    "{{ bos_token }}{% for message in messages if message['role'] == 'user' %}"
    "{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A tiny model's file."""
    path = tmp_path_factory.mktemp("conversation") / "tiny.gguf"
    with GGUFFile(write_tiny_llama(path, TinyLlama(context_length=512))) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(file: GGUFFile) -> Tokenizer:
    """Its tokenizer: token n below 256 is byte n, "hello" is one token."""
    return load_tokenizer(file.metadata)


@pytest.fixture
def engine(file: GGUFFile) -> NumpyEngine:
    """A NumPy engine that counts what it computes."""
    return NumpyEngine(file)


def conversation_of(
    engine: Any, tokenizer: Tokenizer, *, template: str = CHAT_TEMPLATE, **options: Any
) -> Conversation:
    """A conversation in a session with an exact cache."""
    chosen = load_chat_template({"tokenizer.chat_template": template}, tokenizer)
    assert chosen is not None
    return Conversation(Session(engine, tokenizer, kv_type="f32"), tokenizer, chosen, **options)


@pytest.fixture
def chat(engine: NumpyEngine, tokenizer: Tokenizer) -> Conversation:
    """A conversation over the NumPy engine."""
    return conversation_of(engine, tokenizer)


def scripted_chat(
    replies: list[list[int]], tokenizer: Tokenizer, **options: Any
) -> tuple[Conversation, ScriptedEngine]:
    """A conversation whose model gives these replies, each up to its own end token."""
    engine = ScriptedEngine([token for reply in replies for token in reply], tokenizer.vocab_size)
    return conversation_of(engine, tokenizer, **options), engine


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The id of <|im_end|>."""
    assert tokenizer.special.eot_id is not None
    return tokenizer.special.eot_id


def test_first_prompt_is_the_templates(chat: Conversation, tokenizer: Tokenizer) -> None:
    """The model sees exactly the tokens of the template, and both messages are kept."""
    template = load_chat_template({"tokenizer.chat_template": CHAT_TEMPLATE}, tokenizer)
    assert template is not None
    expected = encode_chat(tokenizer, template, [{"role": "user", "content": "hello world"}])
    reply = chat.send("hello world", **GREEDY)
    assert chat.session.tokens[: len(expected)] == tuple(expected)
    assert reply.prompt_tokens == len(expected)
    assert chat.messages == [
        {"role": "user", "content": "hello world"},
        {"role": "assistant", "content": reply.text},
    ]


def test_only_the_new_turn_is_computed(chat: Conversation, engine: NumpyEngine) -> None:
    """A second message leaves the cache as it is and computes only what follows the reply."""
    chat.send("hello", **GREEDY)
    held = chat.session.tokens
    engine.forwarded.clear()
    reply = chat.send("and now?", **GREEDY)
    assert chat.session.tokens[: len(held)] == held
    assert engine.forwarded[0] == reply.prompt_tokens - len(held)
    assert len(chat.messages) == 4


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, TRIMMING], ids=["plain", "trimming"])
@pytest.mark.parametrize("text", ["hello", " hello", "world hello\n"])
def test_replies_in_other_tokens_than_encoding_gives(
    text: str, template: str, tokenizer: Tokenizer
) -> None:
    """Also where the model spelt its reply byte by byte only the new turn is computed."""
    end = end_of_turn(tokenizer)
    spelt = list(text.encode())
    assert tokenizer.encode(text, add_bos=False) != spelt
    chat, engine = scripted_chat(
        [[*spelt, end], [*spelt, end], [end]], tokenizer, template=template
    )
    for _turn in range(2):
        assert chat.send("x").text == text
        engine.forwarded.clear()
        engine.script = [*spelt, end]
    third = chat.send("y")
    new_turn = tokenizer.encode(
        "<|im_end|>\n<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\n",
        add_bos=False,
        parse_special=True,
    )
    assert engine.forwarded[0] == new_turn
    assert third.statistics.prefilled_tokens == len(new_turn)


def test_a_template_that_drops_replies(tokenizer: Tokenizer) -> None:
    """Where the template writes another text than was generated, the model sees the template's."""
    end = end_of_turn(tokenizer)
    chat, _ = scripted_chat([[104, end], [105, end]], tokenizer, template=FORGETTING)
    chat.send("a")
    chat.send("b")
    template = load_chat_template({"tokenizer.chat_template": FORGETTING}, tokenizer)
    assert template is not None
    users = [{"role": "user", "content": text} for text in "ab"]
    expected = encode_chat(tokenizer, template, users)
    assert chat.session.tokens == (*expected, 105)


def test_regenerate(chat: Conversation, engine: NumpyEngine) -> None:
    """A new reply takes the old one's place; of the prompt one token is computed again."""
    chat.send("hello", **GREEDY)
    first = chat.send("go on", temperature=2.0, seed=1, max_tokens=8)
    engine.forwarded.clear()
    second = chat.regenerate(temperature=2.0, seed=2, max_tokens=8).wait()
    assert second.tokens != first.tokens
    assert second.prompt_tokens == first.prompt_tokens
    assert engine.forwarded[0] == 1
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[-1]["content"] == second.text
    third = chat.send("more", **GREEDY)
    assert third.statistics.prefilled_tokens < 40
    assert second.text in chat.messages[3]["content"]


def test_penalties_count_what_the_assistant_said(tokenizer: Tokenizer) -> None:
    """In chats that spare the prompt its replies are counted, one begun to its last token."""
    chat_format = ChatFormat(tokenizer, given_template(CHAT_TEMPLATE, tokenizer))
    said = checked_messages(
        [
            {"role": "system", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "cc"},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": "ee"},
        ]
    )
    reply, begun = tokenizer.encode("cc", add_bos=False), tokenizer.encode("ee", add_bos=False)
    end = min(tokenizer.special.end_of_generation)
    asked = chat_format.reply_request({"penalize_prompt": False})
    assert chat_format.own_tokens(asked, said) == [*reply, end, *begun, end]
    going_on = chat_format.reply_request({"penalize_prompt": False}, continues=True)
    assert chat_format.own_tokens(going_on, said) == [*reply, end, *begun]
    assert not chat_format.own_tokens(chat_format.reply_request({}), said)


def test_nothing_to_regenerate(chat: Conversation) -> None:
    """Without a message there is nothing to answer again."""
    with pytest.raises(EdgellamaError, match="no message"):
        chat.regenerate()


def test_system_prompt(chat: Conversation, tokenizer: Tokenizer) -> None:
    """The system prompt comes first, can be changed between replies, and can be taken away."""
    for system in ("Be brief.", "Be verbose.", None):
        chat.system = system
        chat.send("hi", **GREEDY)
        seen = tokenizer.decode(chat.session.tokens, skip_special=False)
        assert ("<|im_start|>system\n" in seen) == (system is not None)
        assert system is None or f"system\n{system}<|im_end|>" in seen
    assert len(chat.messages) == 6


def test_clear_keeps_the_system_prompt(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """After clear() only the system prompt is left, and its tokens are still in the cache."""
    chat = conversation_of(engine, tokenizer, system="Answer as a very polite pirate would.")
    chat.send("hello", **GREEDY)
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "Answer as a very polite pirate would."}]
    reply = chat.send("hello", **GREEDY)
    assert reply.statistics.prefilled_tokens == 1


SAID: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hi!"},
]


def test_going_on_from_messages(
    engine: NumpyEngine, file: GGUFFile, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Messages given at the start count as said: the next prompt is the template's for them."""
    chat = conversation_of(engine, tokenizer, messages=SAID)
    assert chat.system == "Be brief."
    reply = chat.send("go on", **GREEDY)
    template = load_chat_template({"tokenizer.chat_template": CHAT_TEMPLATE}, tokenizer)
    assert template is not None
    expected = encode_chat(tokenizer, template, [*SAID, {"role": "user", "content": "go on"}])
    assert chat.session.tokens[: len(expected)] == tuple(expected)
    assert chat.messages[:3] == SAID and len(chat.messages) == 5
    waiting = conversation_of(NumpyEngine(file), tokenizer, messages=chat.messages[:4])
    assert waiting.regenerate(**GREEDY).wait().tokens == reply.tokens
    assert waiting.messages == chat.messages


def test_messages_can_be_edited(chat: Conversation, tokenizer: Tokenizer) -> None:
    """The list is the conversation's own: what is changed in it, or assigned, is what counts."""
    chat.send("hello", **GREEDY)
    chat.messages[1]["content"] = "Ahoy!"
    chat.messages.insert(0, {"role": "system", "content": "A pirate."})
    assert chat.system == "A pirate."
    chat.send("more", **GREEDY)
    seen = tokenizer.decode(chat.session.tokens, skip_special=False)
    assert "A pirate." in seen and "Ahoy!" in seen
    kept = chat.messages
    chat.messages = SAID
    assert kept is chat.messages and chat.messages == SAID
    assert chat.messages[1] is not SAID[1]
    chat.system = None
    assert chat.messages == SAID[1:]
    del chat.messages[-1]
    reply = chat.regenerate(**GREEDY).wait()
    assert [m["content"] for m in chat.messages] == ["hello", reply.text]


def test_a_message_in_parts(chat: Conversation, tokenizer: Tokenizer) -> None:
    """Text parts are one message, each part on lines of its own."""
    chat.send([{"type": "text", "text": "hello"}, {"type": "text", "text": "world"}], **GREEDY)
    assert chat.messages[0]["content"] == "hello\nworld"
    chat.messages[0]["content"] = [{"type": "text", "text": "edited"}]  # type: ignore[typeddict-item]
    chat.regenerate(**GREEDY).wait()
    assert "user\nedited<|im_end|>" in tokenizer.decode(chat.session.tokens, skip_special=False)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"hello", "content of a message is b'hello'; allowed: text"),
        (None, "content of a message is None"),
        (7, "content of a message is 7"),
        ([], r"content of a message is \[\]"),
        (["hello"], "a part of the message is 'hello'; allowed"),
        ([{"type": "image_url", "image_url": {}}], "the type 'image_url'; allowed: 'text'"),
        ([{"type": "text"}], "a part of the message is"),
    ],
    ids=str,
)
def test_what_is_no_message(content: Any, complaint: str, chat: Conversation) -> None:
    """A message that is neither text nor text parts is refused by its value; nothing changes."""
    with pytest.raises(InvalidOptionError, match=complaint):
        chat.send(content)
    assert chat.messages == [] and not chat.session.busy


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("hello", "messages are 'hello'; allowed: a list"),
        ({"role": "user", "content": "x"}, "messages are of type dict"),
        (7, "messages are 7"),
        (["hello"], "message 0 is 'hello'; allowed: a role of system, user"),
        ([{"role": "bot", "content": "x"}], "message 0 is"),
        ([{"role": "user"}], "message 0 is"),
        ([{"role": "user", "content": b"x"}], "message 0: the content of a message is b'x'"),
        ([*SAID, SAID[0]], "message 3 is"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_are_no_messages(
    messages: Any, complaint: str, engine: NumpyEngine, tokenizer: Tokenizer
) -> None:
    """Malformed messages are refused by number and value, at the start, assigned or edited."""
    with pytest.raises(InvalidOptionError, match=complaint):
        conversation_of(engine, tokenizer, messages=messages)
    chat = conversation_of(engine, tokenizer, messages=SAID)
    with pytest.raises(InvalidOptionError, match=complaint):
        chat.messages = messages
    assert chat.messages == SAID
    if isinstance(messages, list):
        chat.messages[:] = messages
        with pytest.raises(InvalidOptionError, match="message"):
            chat.send("hello")


def test_two_system_prompts(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """A system prompt beside messages that have one is refused; without it, it comes first."""
    with pytest.raises(InvalidOptionError, match="system is given"):
        conversation_of(engine, tokenizer, system="A pirate.", messages=SAID)
    chat = conversation_of(engine, tokenizer, system="A pirate.", messages=SAID[1:])
    assert [m["content"] for m in chat.messages] == ["A pirate.", "hello", "Hi!"]


def test_an_interrupted_reply_is_kept(tokenizer: Tokenizer) -> None:
    """Ctrl-C inside a step ends the stream with what was said, which the messages keep."""
    chat, engine = scripted_chat([list(b"hello")], tokenizer)

    def interrupt(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    engine.before_step = interrupt
    stream = chat.stream("x")
    with pytest.raises(KeyboardInterrupt):
        stream.wait()
    assert (stream.result.text, stream.result.finish_reason) == ("hel", "cancelled")
    assert chat.messages[-1] == {"role": "assistant", "content": "hel"}
    engine.before_step = lambda step: None
    assert chat.send("go on", max_tokens=1).tokens


@pytest.mark.parametrize("system", [None, "Ünïcode 🙂"])
def test_save_and_load(
    system: str | None, file: GGUFFile, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A loaded conversation has the same messages and goes on as the saved one does."""
    path = tmp_path / "chat.json"
    first = conversation_of(NumpyEngine(file), tokenizer, system=system)
    first.send("日本語 and\nlines", **GREEDY)
    first.save(path)
    second = conversation_of(NumpyEngine(file), tokenizer, system="replaced by the file's")
    second.load(path)
    assert second.messages == first.messages
    assert second.system == system
    again = conversation_of(NumpyEngine(file), tokenizer)
    again.load(path)
    assert second.send("next", **GREEDY).tokens == again.send("next", **GREEDY).tokens
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"messages": []}',
        b'{"format": "edgellama conversation", "version": 2, "messages": []}',
        b'{"format": "edgellama conversation", "version": 1}',
        b'{"format": "edgellama conversation", "version": 1, "messages": [1]}',
        b'{"format": "edgellama conversation", "version": 1, "messages": [{"role": "user"}]}',
        json.dumps(
            {
                "format": "edgellama conversation",
                "version": 1,
                "messages": [{"role": r, "content": ""} for r in ("user", "system")],
            }
        ).encode(),
        json.dumps(
            {
                "format": "edgellama conversation",
                "version": 1,
                "messages": [{"role": "function", "content": ""}],
            }
        ).encode(),
    ],
    ids=lambda content: content[:60].decode("latin-1"),
)
def test_loading_something_else(content: bytes, chat: Conversation, tmp_path: Path) -> None:
    """A file that is no saved conversation is refused with its name; nothing changes."""
    chat.send("hello", **GREEDY)
    before = list(chat.messages)
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(InvalidOptionError, match=r"other\.json"):
        chat.load(path)
    assert chat.messages == before


def test_cancelled_reply_is_kept(chat: Conversation) -> None:
    """A reply that is stopped early stays in the conversation as far as it came."""
    with chat.stream("hello", temperature=0) as stream:
        tokens = [next(stream).token for _ in range(3)]
    assert list(stream.result.tokens) == tokens
    assert chat.messages[-1] == {"role": "assistant", "content": stream.result.text}
    held = chat.session.tokens
    reply = chat.send("go on", **GREEDY)
    assert chat.session.tokens[: len(held)] == held
    assert reply.finish_reason in ("length", "stop")


def test_turn_without_a_reply_is_not_kept(chat: Conversation) -> None:
    """A turn that is stopped before its first token leaves no messages."""
    chat.send("hello", **GREEDY)
    before = list(chat.messages)
    chat.stream("never mind").close()
    assert chat.messages == before


def test_an_error_leaves_the_messages(tokenizer: Tokenizer) -> None:
    """A reply that fails adds nothing, and the conversation goes on."""
    chat, engine = scripted_chat([[104]], tokenizer)
    chat.send("hello", max_tokens=1)

    def fail(step: int) -> None:
        raise KernelError("broken")

    engine.before_step = fail
    with pytest.raises(KernelError):
        chat.send("hello again")
    assert len(chat.messages) == 2
    engine.before_step = lambda step: None
    assert chat.send("hello again", max_tokens=1).text == "h"


def test_conversation_longer_than_the_context(chat: Conversation) -> None:
    """It is refused with the counts and nothing is dropped; clear() makes room."""
    chat.send("hello", **GREEDY)
    before = list(chat.messages)
    with pytest.raises(ContextLengthError) as caught:
        chat.send("long " * 400)
    assert caught.value.prompt_tokens > caught.value.context_length == 512
    assert chat.messages == before
    chat.clear()
    assert chat.send("hello", **GREEDY).tokens


def test_nothing_else_while_a_reply_runs(chat: Conversation, tmp_path: Path) -> None:
    """While a reply runs, whatever would change the conversation is refused."""
    with chat.stream("hello", **GREEDY) as stream:
        next(stream)
        for act in (
            lambda: chat.send("again"),
            lambda: chat.regenerate(),
            lambda: chat.clear(),
            lambda: chat.load(tmp_path / "x.json"),
            lambda: setattr(chat, "system", "new"),
        ):
            with pytest.raises(EdgellamaError, match="still running"):
                act()


def test_a_cancelled_reply_holds_up_nothing(chat: Conversation) -> None:
    """What was said until a reply was cancelled is kept, though nobody asks for its end."""
    stream = chat.stream("hello")
    first = next(stream)
    stream.cancel()
    chat.send("again", max_tokens=1)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"].startswith(first.text) and stream.ended


def test_a_reply_that_is_cancelled_amid_a_step_is_waited_for(tokenizer: Tokenizer) -> None:
    """The next message is answered once the thread that reads the reply has left the step."""
    chat, engine = scripted_chat([list(b"abcdef")], tokenizer)
    reached, go_on = threading.Event(), threading.Event()

    def pause(step: int) -> None:
        if step == 2:
            reached.set()
            assert go_on.wait(PATIENCE_S)

    engine.before_step = pause
    stream = chat.stream("hello")
    reading = threading.Thread(target=stream.wait)
    reading.start()
    assert reached.wait(PATIENCE_S)
    stream.cancel()
    going_on = threading.Timer(0.05, go_on.set)
    going_on.start()
    chat.send("again", max_tokens=1)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert stream.result.finish_reason == "cancelled"
    for thread in (reading, going_on):
        thread.join(PATIENCE_S)


def test_options_of_the_conversation(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """Options given at the start hold for every reply, and a call overrides them."""
    chat = conversation_of(engine, tokenizer, temperature=0, max_tokens=2)
    assert len(chat.send("a").tokens) <= 2
    overridden = chat.send("a", max_tokens=1)
    assert len(overridden.tokens) == 1


def test_no_stop_strings(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """``stop=None`` takes back what the conversation was told."""
    chat, _ = scripted_chat([list(b"a.b")], tokenizer, stop=".", max_tokens=3)
    assert chat.send("x").text == "a"
    chat, _ = scripted_chat([list(b"a.b")], tokenizer, stop=".", max_tokens=3)
    assert chat.send("x", stop=None).text == "a.b"


@pytest.mark.parametrize(
    "options",
    [{"top_p": 3.0}, {"max_tokens": -1}, {"temperature": "hot"}, {"stop": b"x"}, {"stop": [""]}],
    ids=str,
)
def test_bad_options(options: dict[str, Any], engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """Impossible options are refused where they are given: at the start or with a call."""
    with pytest.raises(InvalidOptionError):
        conversation_of(engine, tokenizer, **options)
    chat = conversation_of(engine, tokenizer)
    with pytest.raises(InvalidOptionError):
        chat.stream("hello", **options)
    assert not chat.session.busy


def test_unknown_options(chat: Conversation) -> None:
    """A misspelt option is our own error, which names it and the one that was meant."""
    with pytest.raises(InvalidOptionError, match="'temprature'; did you mean temperature"):
        chat.stream("hello", temprature=1)


def test_close_ends_the_reply(chat: Conversation) -> None:
    """Leaving the conversation ends a running reply; afterwards it is closed."""
    with chat:
        stream = chat.stream("hello")
        next(stream)
    assert stream.result.finish_reason == "cancelled"
    with pytest.raises(EdgellamaError, match="closed"):
        chat.send("hello")
    with pytest.raises(EdgellamaError, match="this session is closed"), chat:
        pass
