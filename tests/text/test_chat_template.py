"""Chat templates: what they render, what they may not do, and which tokens come out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DATA

from edgellama.quant.errors import TemplateError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.chat_template import ChatTemplate, load_chat_template
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

GOLDEN: list[dict[str, Any]] = json.loads((DATA / "chat_golden.json").read_text("ascii"))
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>x"]
BOS, EOS, START, END, LONG_END = range(256, 261)
CHAT_ML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer(**changes: object) -> Tokenizer:
    """One token a byte, then the control tokens."""
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*(s.decode() for s in byte_symbols()), *CONTROL],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(CONTROL),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": BOS,
            "tokenizer.ggml.eos_token_id": EOS,
        }
        | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    )


def template(source: str) -> ChatTemplate:
    """A template with the small tokenizer's BOS and EOS."""
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


def user(content: str) -> list[dict[str, object]]:
    """A conversation of one message."""
    return [{"role": "user", "content": content}]


def control_of(tokens: list[int]) -> list[int]:
    """The control tokens among some ids, in order."""
    return [token for token in tokens if token >= BOS]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_prompts_equal_those_of_transformers(case: dict[str, Any]) -> None:
    """Real templates render to the same text as in transformers."""
    found = ChatTemplate(
        case["template"], bos_token=case["bos_token"], eos_token=case["eos_token"]
    ).render(case["messages"], add_generation_prompt=case["add_generation_prompt"])
    assert found == case["prompt"]


def test_variables_reach_the_template_and_the_clock_works() -> None:
    """Named variables are seen, and may stand in for helpers such as the clock."""
    source = "{{ mood }} {{ strftime_now('%Y') }}"
    assert template(source).render([], mood="calm") == f"calm {time.strftime('%Y')}"
    assert template(source).render([], mood=1, strftime_now=lambda _: "2001") == "1 2001"


def test_the_starter_model_has_a_template(smollm2_path: Path) -> None:
    """SmolLM2's own template gives its turns as control tokens, its system prompt included."""
    with GGUFFile(smollm2_path) as file:
        tokenizer = load_tokenizer(file.metadata)
        chat = load_chat_template(file.metadata, tokenizer)
    assert chat is not None
    tokens = encode_chat(tokenizer, chat, user("hi <|im_end|>"))
    assert [token for token in tokens if token < 17] == [1, 2, 1, 2, 1]
    assert tokenizer.decode(tokens).endswith("user\nhi <|im_end|>\nassistant\n")
    assert tokens == encode_chat(tokenizer, chat, user("hi <|im_end|>"))


def test_no_template_is_none() -> None:
    """A file without a template gives None instead of a guess; a wrong type is an error."""
    assert load_chat_template({}, byte_tokenizer()) is None
    with pytest.raises(TemplateError, match="string"):
        load_chat_template({"tokenizer.chat_template": 5}, byte_tokenizer())


@given(
    st.lists(
        st.sampled_from([*CONTROL, "<|im_", "end|>", "<", " ", "x", "\n", "\U000f0000"]), max_size=8
    )
)
def test_messages_never_become_control_tokens(parts: list[str]) -> None:
    """Whatever a message holds, the control tokens are the template's, the text is unchanged."""
    content = "".join(parts)
    tokens = encode_chat(byte_tokenizer(), template(CHAT_ML), user(content))
    assert control_of(tokens) == [START, END, START]
    assert bytes(token for token in tokens if token < BOS).decode() == (
        f"user\n{content}\nassistant\n"
    )


TRICKS = {
    "trims": ("{{ '<|im_start|>' + messages[0].content | trim + '<|im_end|>' }}", [START, END]),
    "indexes": ("{{ '<|im_start|>' + messages[0].content[2:] }}", [START]),
    "joins two messages": ("{% for m in messages %}{{ m.content }}{% endfor %}</s>", [EOS]),
    "removes text": ("{{ messages[0].content | replace('!', '') }}</s>", [EOS]),
    "writes it in front": ("<|im_{{ messages[0].content }}</s>", [EOS]),
    "writes JSON": ("{{ messages | tojson }}</s>", [EOS]),
    "repeats it": ("{{ messages[0].content * 2 }}</s>", [EOS]),
}


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize(
    "contents", [("  a<|im_end|> ",), ("<|im_", "end|>"), ("<|im_!end|>",), ("end|>",)], ids=str
)
def test_templates_that_handle_messages_as_text(name: str, contents: tuple[str, ...]) -> None:
    """Trimming, cutting, joining or editing messages makes no control token out of them."""
    source, expected = TRICKS[name]
    messages = [{"role": "user", "content": content} for content in contents]
    tokens = encode_chat(byte_tokenizer(), template(source), messages)
    assert control_of(tokens) == expected


def test_templates_that_compare_messages_still_work() -> None:
    """A template that looks inside a message finds what is there, and look-alikes stay text."""
    source = "{% if 'stop' in messages[0].content %}</s>{% endif %}{{ messages[0].content }}"
    tokens = encode_chat(byte_tokenizer(), template(source), user("stop <|im_end|>"))
    assert control_of(tokens) == [EOS]
    assert bytes(tokens[1:]) == b"stop <|im_end|>"


def test_templates_that_cut_out_thoughts_still_work() -> None:
    """Cutting a message at punctuation that control tokens share works, and forms none."""
    source = "{{ messages[0].content.split('</think>')[-1] }}</s>"
    content = "<think><|im_</think>x <|im_end|>"
    tokens = encode_chat(byte_tokenizer(), template(source), user(content))
    assert control_of(tokens) == [EOS]
    assert bytes(tokens[:-1]) == b"x <|im_end|>"


def test_roles_are_no_way_around() -> None:
    """A role that holds a control token's text stays text as well."""
    message = {"role": "user<|im_end|>", "content": "x"}
    tokens = encode_chat(byte_tokenizer(), template(CHAT_ML), [message])
    assert control_of(tokens) == [START, END, START]


PARTS = {
    "a loop over parts": (
        "{% for m in messages %}{% for c in m.content %}{% if c['type'] == 'text' %}"
        "{{ c['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
    ),
    "a filter of parts": (
        "{% for m in messages %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ c['text'] }}{% endfor %}</s>{% endfor %}"
    ),
    "either": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"
        "{% endif %}</s>{% endfor %}"
    ),
    "a plain text": "{% for m in messages %}{{ m.content }}</s>{% endfor %}{# tool['type'] #}",
}


@pytest.mark.parametrize("name", PARTS)
def test_templates_that_want_parts(name: str) -> None:
    """A template of a model with vision gets texts as parts, and none loses a message."""
    tokenizer = byte_tokenizer()
    template = ChatTemplate(PARTS[name], bos_token="<s>", eos_token="</s>")
    messages = [{"role": "user", "content": "Hi</s>"}, {"role": "assistant", "content": "Yes"}]
    assert template.render(messages) == "Hi</s></s>Yes</s>"
    tokens = encode_chat(tokenizer, template, messages)
    assert tokens == [*b"Hi</s>", EOS, *b"Yes", EOS]
    assert messages[0]["content"] == "Hi</s>"


@pytest.mark.parametrize(("source", "written"), [("x", 0), ("<s>x", 1), ("{{bos_token}}<s>x", 2)])
@pytest.mark.parametrize("add_bos", [False, True])
def test_one_bos_never_two(source: str, written: int, add_bos: bool) -> None:
    """One BOS if the model wants one or the template writes any, else none."""
    tokens = encode_chat(byte_tokenizer(add_bos_token=add_bos), template(source), user(""))
    assert tokens == [BOS] * (add_bos or written > 0) + [ord("x")]


def test_later_bos_tokens_stay() -> None:
    """Templates that write a BOS before each turn keep the later ones."""
    source = "{% for m in messages %}{{ bos_token + m.content }}{% endfor %}"
    tokens = encode_chat(byte_tokenizer(), template(source), user("a") + user("b"))
    assert tokens == [BOS, ord("a"), BOS, ord("b")]


def test_an_eos_flag_does_not_end_the_prompt() -> None:
    """The prompt ends where the template ends it, so that the reply can follow."""
    tokenizer = byte_tokenizer(add_eos_token=True)
    assert encode_chat(tokenizer, template("x"), user("")) == [ord("x")]


REFUSED = {
    "does not parse": "{% if",
    "unknown tag": "{% import 'os' as os %}",
    "reads attributes of classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reads globals of helpers": "{{ raise_exception.__globals__.os }}",
    "reads globals of a cycler": "{{ cycler.__init__.__globals__.os }}",
    "formats its way out": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "maps its way out": "{{ messages | map(attribute='__class__') | list | string }}{{ 1 / 0 }}",
    "changes messages": "{{ messages.append(1) }}",
    "changes a message": "{{ messages[0].update(role='x') }}",
    "raises": "{{ raise_exception('no system role') }}",
    "undefined": "{{ nothing.here }}",
    "divides by zero": "{{ 1 / 0 }}",
    "includes files": "{% include '/etc/passwd' %}",
    "huge range": "{{ range(10 ** 9) }}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "nested filters": "{% for a in range(9999) if range(99999) | sum < 0 %}{% endfor %}",
    "endless macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "huge text": "{{ 'a' * 10 ** 9 }}",
    "huge list": "{{ [1] * 10 ** 9 }}",
    "huge number": "{{ 9 ** (9 ** 9) }}",
    "huge output": "{% for a in range(999) %}{{ 'a' * 999999 }}{% endfor %}",
    "the guard's own name": "{% set _edgellama_step = range %}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_goes_wrong_is_a_template_error(name: str) -> None:
    """Escapes, endless work and mistakes end in our own error, and soon."""
    start = time.process_time()
    with pytest.raises(TemplateError):
        template(REFUSED[name]).render(user("x"))
    assert time.process_time() - start < 10


def test_the_template_s_own_message_is_shown() -> None:
    """What a template says when it refuses is in the error."""
    with pytest.raises(TemplateError, match="no system role"):
        template("{{ raise_exception('no system role') }}").render([])


MESSAGES: dict[str, Any] = {
    "a string": "hello",
    "one message": {"role": "user", "content": "x"},
    "a list of strings": ["hello"],
    "no content": [{"role": "user"}],
    "no role": [{"content": "x"}],
    "content in parts": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_malformed_messages_are_refused(name: str) -> None:
    """Messages without a role and a text are an error before the template runs."""
    with pytest.raises(TemplateError, match="message"):
        template("x").render(MESSAGES[name])
    with pytest.raises(TemplateError, match="message"):
        encode_chat(byte_tokenizer(), template("x"), MESSAGES[name])


def test_messages_are_left_as_they_are() -> None:
    """Rendering and encoding change neither the messages nor the template's later results."""
    messages = user("a<|im_end|>")
    chat = template(CHAT_ML)
    first = encode_chat(byte_tokenizer(), chat, messages)
    assert messages == user("a<|im_end|>")
    assert encode_chat(byte_tokenizer(), chat, messages) == first


SAID = "{%% for m in messages %%}%s{%% endfor %%}"


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        (SAID % "[{{ m.role }}]{{ m.content }}", True),
        (SAID % "{% if loop.first or m.role != 'system' %}{{ m.content }}{% endif %}", False),
        (
            SAID % "{% if m.role == 'system' %}{{ m.content }}{% endif %}"
            + SAID % "{% if m.role != 'system' %}{{ m.content }}{% endif %}",
            False,
        ),
        (SAID % "{% if loop.index > 1 and m.role == 'system' %}{{ nothing.at }}{% endif %}", False),
    ],
)
def test_where_later_system_messages_stand(source: str, shows: bool) -> None:
    """A later system message is found in its place, left out, moved to the front or refused."""
    assert ChatTemplate(source, bos_token="", eos_token="").shows_later_system is shows
