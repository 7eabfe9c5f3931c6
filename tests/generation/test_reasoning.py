"""Chats of models that think: what is told apart, what a model is shown, what has a form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from reference.reasoning_chats import (
    ASSISTANT,
    CONTROLLED,
    PLAIN,
    TEMPLATES,
    WHOLE,
    prompts_of,
    thinking_chat,
    tokenizer_with,
)
from reference.thinking_model import ANSWER, THOUGHT, UNOPENED, write_thinking_model
from reference.thinking_model import OPENED as OPENED_TEMPLATE

from edgellama import Llama
from edgellama.generation.chat.chat_format import ChatFormat
from edgellama.generation.chat.messages import checked_messages
from edgellama.quant.errors import InvalidOptionError
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.reasoning.marks import reasoning_marks
from edgellama.text.tokenizer import Tokenizer
from edgellama.tools.presentation import Presentation

OPENED = {"template": "opened", "behind": "<think>\n"}
CLOSED = {"template": "opened", "behind": "<think>\n\n</think>\n\n"}
NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize("tokenizer", [PLAIN, WHOLE])
@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (OPENED, "Easy: four.\n</think>\n\nFour."),
        ({"template": "cut"}, "<think>\nEasy: four.\n</think>\n\nFour."),
        ({"template": "switched"}, "<think>Easy: four.</think>Four."),
    ],
)
def test_a_reply_tells_thinking_apart(
    tokenizer: Tokenizer, kind: dict[str, Any], reply: str
) -> None:
    """Whoever opens thinking, and however its marks are tokens, it is no part of the text."""
    chat, _ = thinking_chat(reply, tokenizer=tokenizer, **kind)
    with chat.stream("What is 2 + 2?") as stream:
        chunks = list(stream)
    result = stream.result
    assert (result.reasoning, result.text) == ("Easy: four.", "Four.")
    assert "".join(chunk.reasoning for chunk in chunks) == result.reasoning
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert not any(chunk.text and chunk.reasoning for chunk in chunks)
    assert all(chunk.is_reasoning for chunk in chunks if chunk.reasoning and chunk.token)
    assert not any(chunk.is_reasoning and chunk.text for chunk in chunks)
    last = {"role": "assistant", "content": "Four.", "reasoning": "Easy: four."}
    assert chat.messages[-1] == last
    behind = [chunk for chunk in chunks if chunk.token is not None and chunk.text]
    assert result.usage.reasoning_tokens <= len(result.tokens) - len(behind)
    assert result.usage.reasoning_tokens >= len("Easy: four.")


def test_marks_that_are_control_tokens_are_told_apart_everywhere() -> None:
    """Tokens without a text open thinking in a chat whose template says nothing of them."""
    reply = "Well.[THINK]Hm.[/THINK] \nFour."
    chat, _ = thinking_chat(reply, template="plain", tokenizer=CONTROLLED)
    result = chat.send("What is 2 + 2?")
    assert (result.reasoning, result.text) == ("Hm.", "Well.Four.")
    raw, _ = thinking_chat(reply, template="plain", tokenizer=CONTROLLED, reasoning="raw")
    assert raw.send("What is 2 + 2?").text == reply


def test_thinking_that_never_closes_is_no_answer() -> None:
    """A reply that is cut in the middle of its thinking has no text, and the chat goes on."""
    chat, _ = thinking_chat("Let me see, two", "Ok.</think>Four.", **OPENED)
    result = chat.send("What is 2 + 2?", max_tokens=10)
    assert (result.text, result.reasoning, result.finish_reason) == ("", "Let me see", "length")
    assert result.reasoning_tokens == 10
    assert chat.send("Well?").text == "Four."


@pytest.mark.parametrize("template", ["plain", "cut", "opened"])
def test_other_texts_stay_as_they_are(template: str) -> None:
    """Without marks, and where a reply opens nothing, nothing changes."""
    reply = " \nNo <think> here </think> at all.\n"
    if template == "plain":
        reply = "<think>Text.</think>\n" + reply
    chat, engine = thinking_chat(reply, template=template, behind="", reasoning="auto")
    if template == "opened":
        chat, engine = thinking_chat(reply, reasoning=False, **CLOSED)
    result = chat.send("Say it.")
    assert (result.text, result.reasoning, result.reasoning_tokens) == (reply, "", 0)
    assert "reasoning" not in chat.messages[-1]
    assert prompts_of(engine)[-1].startswith("<s><|User|>Say it.<|Assistant|>")


@pytest.mark.parametrize(
    ("template", "reasoning", "end"),
    [
        ("opened", None, "<think>\n"),
        ("opened", True, "<think>\n"),
        ("opened", False, "<think>\n\n</think>\n\n"),
        ("opened", "raw", "<think>\n"),
        ("cut", None, ""),
        ("cut", True, "<think>\n"),
        ("cut", False, "<think>\n\n</think>\n\n"),
        ("switched", None, ""),
        ("switched", True, ""),
        ("switched", False, "<think>\n\n</think>\n\n"),
        ("plain", True, ""),
        ("plain", False, ""),
    ],
)
def test_the_prompt_ends_as_it_is_wished_for(
    template: str, reasoning: bool | str | None, end: str
) -> None:
    """Templates with a switch are told, all others' prompts are ended in their place."""
    chat, engine = thinking_chat("Four.", template=template, behind=end)
    chat.send("2 + 2?", reasoning=reasoning)  # type: ignore[arg-type]
    assert prompts_of(engine) == [f"<s><|User|>2 + 2?{ASSISTANT}{end}"]


def test_variables_of_templates_mean_the_same() -> None:
    """What clients tell a template holds also for templates that know no such variable."""
    chat, engine = thinking_chat("Four.", **CLOSED)
    chat.send("2 + 2?", template_variables={"enable_thinking": False})
    assert prompts_of(engine)[0].endswith("</think>\n\n")


def test_earlier_thinking_is_left_out_of_prompts() -> None:
    """The model is shown what was said, not what was thought, and computes only from there on."""
    chat, engine = thinking_chat("Hm.</think>Four.", "Hm.</think>Five.", **OPENED)
    chat.send("2 + 2?")
    result = chat.send("2 + 3?")
    shown = PLAIN.decode(chat.session.tokens, skip_special=False)
    assert shown.startswith("<s><|User|>2 + 2?<|Assistant|>Four.</s><|User|>2 + 3?<|Assistant|>")
    assert result.usage.cached_tokens == len(
        PLAIN.encode("<|User|>2 + 2?<|Assistant|>", parse_special=True)
    )
    assert engine.forwarded


def test_templates_that_show_earlier_thinking_get_it() -> None:
    """A template that reads reasoning_content has it, from whichever protocol it came."""
    format_ = ChatFormat(PLAIN, ChatTemplate(TEMPLATES["kept"], bos_token="<s>", eos_token="</s>"))
    for name in ("reasoning", "reasoning_content", "thinking"):
        said = [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "Four.", name: "Hm."},
            {"role": "user", "content": "Sure?"},
        ]
        tokens = format_.prompt(format_.reply_request({}), checked_messages(said))
        assert "<think>\nHm.\n</think>\n\nFour." in PLAIN.decode(tokens, skip_special=False)
    with pytest.raises(InvalidOptionError, match="reasoning is"):
        checked_messages([{"role": "assistant", "content": "x", "reasoning": ["x"]}])


def test_stop_strings_count_in_the_answer_alone() -> None:
    """Thinking may have what the answer ends at; banned strings are banned in both."""
    chat, _ = thinking_chat("One. Two.</think>One. Two.", **OPENED)
    result = chat.send("Count.", stop=" Two")
    assert (result.reasoning, result.text, result.matched_stop) == ("One. Two.", "One.", " Two")
    again = chat.regenerate(banned="Two").wait()
    assert "Two" not in again.reasoning + again.text


def test_a_reply_is_carried_on_inside_its_thinking() -> None:
    """A begun message with thinking goes on where it stopped, in the same place."""
    format_ = ChatFormat(
        PLAIN, ChatTemplate(TEMPLATES["opened"], bos_token="<s>", eos_token="</s>")
    )
    asked = format_.reply_request({}, continues=True)
    user = {"role": "user", "content": "2 + 2?"}
    start = "<s><|User|>2 + 2?<|Assistant|>"
    for begun, prompt, is_open in [
        ({"content": "", "reasoning": "Let me"}, "<think>\nLet me", True),
        ({"content": "<think>\nLet me"}, "<think>\nLet me", True),
        ({"content": "Fo", "reasoning": "Hm."}, "<think>\nHm.\n</think>\n\nFo", None),
        ({"content": "Fo"}, "Fo", None),
        ({"content": "<think>\nHm.\n</think>\n\nFo"}, "<think>\nHm.\n</think>\n\nFo", None),
    ]:
        messages = checked_messages([user, {"role": "assistant", **begun}])
        request = format_.request(asked, messages)
        assert PLAIN.decode(request.prompt, skip_special=False) == start + prompt
        assert (request.reasoning and request.reasoning.is_open) == is_open
        assert request.reasoning is None or request.reasoning.is_begun
    closed = {"role": "assistant", "content": "<think>\n\n</think>\n\n"}
    messages = checked_messages([user, closed])
    request = format_.request(asked, messages)
    assert PLAIN.decode(request.prompt, skip_special=False) == start + closed["content"]
    assert request.reasoning and request.reasoning.is_closed
    switched = ChatTemplate(TEMPLATES["switched"], bos_token="<s>", eos_token="</s>")
    asked_not_to = format_.reply_request({"reasoning": False}, continues=True)
    request = ChatFormat(PLAIN, switched).request(asked_not_to, messages)
    assert PLAIN.decode(request.prompt, skip_special=False).count("</think>") == 1
    plain = ChatFormat(PLAIN, ChatTemplate(TEMPLATES["plain"], bos_token="", eos_token=""))
    message = {"role": "assistant", "content": "Fo", "reasoning": "Hm."}
    alone = format_.request(asked, checked_messages([message]))
    assert PLAIN.decode(alone.prompt, skip_special=False) == "<s><|Assistant|>Fo"
    request = plain.request(asked, checked_messages([user, message]))
    assert PLAIN.decode(request.prompt, skip_special=False).endswith("<|Assistant|>Fo")


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (OPENED, 'Which {number}?</think>\n\n{"a": 4}'),
        ({"template": "cut"}, '<think>Which {number}?</think>\n\n{"a": 4}'),
        ({"template": "cut"}, '{"a": 4}'),
        ({"template": "plain", "tokenizer": CONTROLLED}, '[THINK]Which?[/THINK]\n\n{"a": 4}'),
    ],
)
def test_a_form_holds_behind_thinking(kind: dict[str, Any], reply: str) -> None:
    """A schema says nothing of what is thought, and everything of the answer."""
    chat, _ = thinking_chat(reply, show_schema=False, **kind)
    result = chat.send("Which?", schema=NUMBER)
    assert (result.text, result.parsed, result.finish_reason) == ('{"a": 4}', {"a": 4}, "stop")
    assert bool(result.reasoning) == ("Which" in reply)


def test_a_form_is_kept_to_by_a_model_that_would_not() -> None:
    """Behind its thinking a model cannot but follow the schema."""
    chat, _ = thinking_chat("Hm.</think>I think that it is 4, </s> or 5.", **OPENED)
    result = chat.send("Which?", schema=NUMBER, max_tokens=200)
    assert result.reasoning == "Hm."
    assert result.text.startswith('{"a": ')


@pytest.mark.parametrize("template", ["opened", "cut", "switched"])
def test_a_form_holds_at_once_where_nothing_is_to_be_thought(template: str) -> None:
    """Behind thinking that the prompt has closed a form has no room for more."""
    closed: Any = {"template": template, "behind": "<think>\n\n</think>\n\n"}
    chat, _ = thinking_chat('<think>No.</think>{"a": 4}', reasoning=False, **closed)
    result = chat.send("Which?", schema=NUMBER, max_tokens=99)
    assert result.text.startswith('{"a": ') and not result.reasoning


@pytest.mark.parametrize("option", [{"regex": "[a-z<>/]+"}, {"choices": ["<think>", "yes"]}])
def test_forms_that_may_begin_with_a_mark_hold_for_the_whole_text(option: dict[str, Any]) -> None:
    """Where nobody could tell thinking from the answer, the form is the whole text's."""
    chat, _ = thinking_chat("<think>", template="cut")
    result = chat.send("Say it.", **option)
    assert (result.text, result.reasoning) == ("<think>", "")
    opened, _ = thinking_chat("It is yes.</think>\n\nyes", **OPENED)
    other = opened.send("Say it.", **option)
    assert (other.text, other.reasoning) == ("yes", "It is yes.")


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("kind", "opening"), [(OPENED, ""), ({"template": "cut"}, "<think>"), (CLOSED, "")]
)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_are_called_behind_thinking(kind: dict[str, Any], opening: str, choice: str) -> None:
    """Calls that are thought of are none; those behind are, and thinking is no part of them."""
    thinks = kind is not CLOSED
    reply = f"{opening}I call {CALL}?</think>\n\n{CALL}" if thinks else CALL
    options: dict[str, Any] = {"tools": [add], "tool_choice": choice}
    chat, _ = thinking_chat(reply, reasoning=None if thinks else False, **kind)
    result = chat.send("1 + 0?", **options)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("add", {"a": 1})]
    assert result.reasoning == (f"I call {CALL}?" if thinks else "")
    assert result.finish_reason == "tool_calls"
    assert chat.messages[-1]["content"] == ""


def test_a_reply_cut_inside_its_thinking_is_kept_with_tools() -> None:
    """It is no call that was cut, and the conversation has both messages."""
    chat, _ = thinking_chat("I think and think.</think>Four.", **OPENED)
    result = chat.send("2 + 2?", tools=[add], max_tokens=5)
    assert result.reasoning and not result.text
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


@pytest.mark.parametrize("tokenizer", [PLAIN, CONTROLLED])
def test_words_of_a_carried_on_reply_are_text_alone(tokenizer: Tokenizer) -> None:
    """Lone surrogates are replaced, and words that look like a mark are no control token."""
    template = ChatTemplate(TEMPLATES["plain"], bos_token="", eos_token="")
    format_ = ChatFormat(tokenizer, template)
    marks = reasoning_marks(tokenizer, template.source)
    asked = format_.reply_request({"reasoning": "split"}, continues=True)
    for thought, said in (("\ud800", "a\udfff"), ("[/THINK]", "[THINK]")):
        message = {"role": "assistant", "content": said, "reasoning": thought}
        user = {"role": "user", "content": "Hi"}
        request = format_.request(asked, checked_messages([user, message]))
        for token in () if marks is None else marks.tokens:
            assert request.prompt.count(token) == 1


def test_tools_are_native_where_the_template_opens_thinking() -> None:
    """A template that writes calls is found to do so although its prompt ends inside thinking."""
    source = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role + ':' }}"
        "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '<tool_call>' + c.function | tojson "
        "+ '</tool_call>' }}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:<think>\n' }}{% endif %}"
    )
    found = Presentation.of(ChatTemplate(source, bos_token="", eos_token=""))
    assert (found.is_native, found.form.name) == (True, "tagged")


def test_marks_are_looked_for_on_demand() -> None:
    """Models that think where their system prompt asks for it have no marks of their own."""
    reply = "<think>Hm.</think>Four."
    told = {"template": "plain", "system": "Think inside <think></think>."}
    chat, engine = thinking_chat(reply, reply, reply, **told)
    assert chat.send("2 + 2?").text == reply
    split, _ = thinking_chat(reply, template="plain", reasoning="split")
    result = split.send("2 + 2?")
    assert (result.reasoning, result.text) == ("Hm.", "Four.")
    for wish in (True, False):
        chat.send("2 + 2?", reasoning=wish)
        assert prompts_of(engine)[-1].endswith(ASSISTANT)


def test_async_replies_and_batches_tell_thinking_apart() -> None:
    """The twin for event loops has the same result, with the same chunks."""
    chat, _ = thinking_chat("Hm.</think>Four.", **OPENED)

    async def main() -> tuple[str, str]:
        async with chat.stream_async("2 + 2?") as stream:
            chunks = [chunk async for chunk in stream]
        return "".join(c.reasoning for c in chunks), stream.result.text

    assert asyncio.run(main()) == ("Hm.", "Four.")


@pytest.mark.parametrize("value", [3, "none", [], b"raw"])
def test_reasoning_is_one_of_few_values(value: object) -> None:
    """Anything else is refused with what is allowed, before anything is begun."""
    with pytest.raises(InvalidOptionError, match=r"reasoning is .*; allowed: True, False, 'auto'"):
        thinking_chat("x", reasoning=value)


def test_marks_are_those_of_template_or_vocabulary() -> None:
    """No other model has any; the template's count before the vocabulary's."""
    assert reasoning_marks(PLAIN, "no marks") is None
    told = reasoning_marks(CONTROLLED, "… '</think>' …")
    assert told is not None
    assert (told.opening, told.tokens, told.is_in_template) == ("<think>", frozenset(), True)
    own = reasoning_marks(CONTROLLED, "")
    assert own is not None
    assert (own.opening, len(own.tokens), own.is_in_template) == ("[THINK]", 2, False)
    whole = reasoning_marks(tokenizer_with("<thought>", "</thought>", kind=4), "")
    assert whole is not None
    assert (whole.closing, whole.tokens) == ("</thought>", frozenset())


def test_words_that_a_template_asks_for_are_marks() -> None:
    """Granite 3.2's template tells its model to think behind some words, once it is asked to."""
    words = (
        "{% if thinking %}{{ 'Write your thoughts after \\'Here is my thought process:\\' and your "
        "response after \\'Here is my response:\\'.' }}{% endif %}"
    )
    template = words + TEMPLATES["plain"]
    reply = "Here is my thought process:\n\nEasy.\n\nHere is my response:\n\nFour."
    chat, engine = thinking_chat(reply, "Five.", template=template)
    result = chat.send("What is 2 + 2?", reasoning=True)
    assert (result.reasoning, result.text) == ("Easy.", "Four.")
    assert "Here is my thought process:" in prompts_of(engine)[0]
    other, engine = thinking_chat("Four.", template=template)
    assert other.send("What is 2 + 2?").text == "Four."
    assert "Here is" not in prompts_of(engine)[0]


def test_tags_that_a_template_asks_for_are_no_part_of_the_answer() -> None:
    """Granite 3.3's template tells its model to think and to answer between tags."""
    words = (
        "{% if thinking %}{{ 'Write your thoughts between <think></think> and write your response "
        "between <response></response>.' }}{% endif %}"
    )
    template = words + TEMPLATES["plain"]
    reply = "<think>Easy.</think><response>Four.</response>"
    chat, _ = thinking_chat(reply, "Five.", template=template)
    result = chat.send("What is 2 + 2?", reasoning=True)
    assert (result.reasoning, result.text) == ("Easy.", "Four.")
    assert chat.messages[-1]["content"] == "Four."
    other, _ = thinking_chat("<response>Four.</response>", template=template)
    assert other.send("What is 2 + 2?").text == "<response>Four.</response>"


def test_thinking_may_be_parts_of_a_reply() -> None:
    """As Mistral's clients write them, their thinking as text or in parts of its own."""
    told = {"type": "thinking", "thinking": [{"type": "text", "text": "Easy."}]}
    shorter = {"type": "thinking", "thinking": "So be it."}
    said = {"type": "text", "text": "Four."}
    wrong: dict[str, Any] = {"role": "assistant", "content": [{"type": "thinking", "thinking": 4}]}
    for parts, reasoning, text in (
        ([told, said], "Easy.", "Four."),
        ([told, shorter, said], "Easy.\n\nSo be it.", "Four."),
        ([shorter], "So be it.", ""),
    ):
        (message,) = checked_messages([{"role": "assistant", "content": parts}])
        assert message == {"role": "assistant", "content": text, "reasoning": reasoning}
    for refused in (wrong, {"role": "user", "content": [told]}):
        with pytest.raises(InvalidOptionError):
            checked_messages([refused])


def test_a_saved_chat_keeps_its_thinking(tmp_path: Path) -> None:
    """What was thought is there again when the file is read."""
    chat, _ = thinking_chat("Hm.</think>Four.", **OPENED)
    chat.send("2 + 2?")
    chat.save(tmp_path / "talk.json")
    other, _ = thinking_chat("x", **OPENED)
    other.load(tmp_path / "talk.json")
    assert other.messages == chat.messages
    assert other.messages[-1]["reasoning"] == "Hm."


def test_a_model_without_marks_is_asked_as_before(smollm2_path: Path) -> None:
    """Whatever is wished for, such a model's prompt and text are the same."""
    asked = {"temperature": 0, "max_tokens": 4}
    with Llama(smollm2_path, context_length=256) as llama:
        results = []
        for reasoning in (None, True, False, "raw"):
            with llama.chat(**asked) as chat:  # type: ignore[arg-type]
                results.append(chat.send("Hello", reasoning=reasoning))  # type: ignore[arg-type]
        assert {(each.text, each.prompt_tokens, each.reasoning) for each in results} == {
            (results[0].text, results[0].prompt_tokens, "")
        }
        tokens = encode_chat(
            llama.tokenizer, llama.chat().template, [{"role": "user", "content": "Hello"}]
        )
        assert results[0].prompt_tokens == len(tokens)


@pytest.fixture(scope="module", params=[OPENED_TEMPLATE, UNOPENED])
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks, whose template opens thinking or does not."""
    return write_thinking_model(tmp_path_factory.mktemp("model") / "thinker.gguf", request.param)


@pytest.mark.parametrize(("limit", "thought"), [(0, ""), (1, "Easy"), (50, THOUGHT)])
def test_thinking_that_is_too_long_is_closed(thinker: Path, limit: int, thought: str) -> None:
    """After so many tokens the mark comes, whatever the model would, and then its answer."""
    with Llama(thinker, context_length=1024) as llama, llama.chat(temperature=0) as chat:
        num_marks = chat.send("?").reasoning_tokens - 3  # What opens thinking counts, too.
        asked: Any = {"max_reasoning_tokens": limit + num_marks}
        result = chat.send("2 + 2?", **asked)
        assert (result.reasoning, result.text) == (thought, ANSWER)
        told = chat.send("2 + 2?", logprobs=1, **asked)
        assert told.logprobs is not None and len(told.logprobs) == len(told.tokens)
        form = chat.send("2 + 2?", schema=NUMBER, show_schema=False, max_tokens=99, **asked)
        assert form.reasoning == thought and form.text.startswith('{"a": ')
        calling = chat.send("2 + 2?", tools=[add], tool_choice="add", max_tokens=99, **asked)
        assert calling.reasoning == thought and calling.text.startswith("<tool_call>")


def test_a_limit_of_thinking_is_a_number_of_what_is_told_apart() -> None:
    """Anything else is refused; a banned mark leaves the choice to the model."""
    for options in ({"max_reasoning_tokens": -1}, {"max_reasoning_tokens": "x"}):
        with pytest.raises(InvalidOptionError, match="max_reasoning_tokens is"):
            thinking_chat("x", **options)
    with pytest.raises(InvalidOptionError, match="reasoning is 'raw'"):
        thinking_chat("x", reasoning="raw", max_reasoning_tokens=3)
    chat, _ = thinking_chat("One, two.</think>Three.", **OPENED, banned=["</think>"])
    result = chat.send("Count.", max_reasoning_tokens=2, max_tokens=20)
    assert "</think>" not in result.reasoning + result.text
