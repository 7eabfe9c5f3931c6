"""Chat formats by name, string by string as their publishers write them; --template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner
from places import DATA, REPOSITORY
from reference.tiny_models import TinyLlama, write_tiny_llama
from reference.vocabularies import MISTRAL_V1, fetch, sentencepiece_metadata
from sentencepiece import SentencePieceProcessor
from test_chat_template import BOS, EOS, byte_tokenizer

from edgellama.llama import Llama
from edgellama.quant.errors import InvalidOptionError
from edgellama.text.chat_template import given_template
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.named_templates import NAMED_TEMPLATES, find_template, template_source
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

GOLDEN: list[dict[str, Any]] = json.loads((DATA / "format_golden.json").read_text("ascii"))
CASES = [f"{case['name']}-{number}" for number, case in enumerate(GOLDEN)]
# What the publishers quote in their model cards and training programs.
QUOTED = {
    # stanford_alpaca/train.py, PROMPT_DICT["prompt_no_input"]
    "alpaca": (
        ["{instruction}"],
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:",
    ),
    # the model card of WizardLM-13B-V1.2
    "wizardlm": (
        ["Hi", "Hello.", "Who are you?", "I am WizardLM.", "..."],
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: Hi "
        "ASSISTANT: Hello.</s>USER: Who are you? ASSISTANT: I am WizardLM.</s>USER: ... ASSISTANT:",
    ),
    # the model cards of OpenAssistant's models
    "openassistant": (
        ["What is a meme, and what's the history behind this word?"],
        "<|prompter|>What is a meme, and what's the history behind this word?</s><|assistant|>",
    ),
    # the model card of guanaco-33b, which has no space between its two sentences
    "guanaco": (
        ["Introduce yourself"],
        "A chat between a curious human and an artificial intelligence assistant."
        "The assistant gives helpful, detailed, and polite answers to the user's questions.\n"
        "### Human: Introduce yourself ### Assistant:",
    ),
    # transformers' guide to chat templates
    "zephyr": (
        ["How many helicopters can a human eat in one sitting?"],
        "<|user|>\nHow many helicopters can a human eat in one sitting?</s>\n<|assistant|>\n",
    ),
    # the model card of Mistral-7B-Instruct-v0.1
    "mistral": (
        ["Instruction", "Model answer", "Follow-up instruction"],
        "<s>[INST] Instruction [/INST] Model answer</s>[INST] Follow-up instruction [/INST]",
    ),
    # llama/generation.py, of which a first <s> is added to each question
    "llama2": (
        ["{prompt}", "{answer}", "{prompt}"],
        "<s>[INST] {prompt} [/INST] {answer} </s><s>[INST] {prompt} [/INST]",
    ),
}


def messages_of(contents: list[str]) -> list[dict[str, object]]:
    """Messages of a user and the model in turn."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]


def written(name: str, messages: Any, tokenizer: Tokenizer | None = None) -> str:
    """The prompt in a named format, for a vocabulary with <s> and </s>."""
    return given_template(name, tokenizer or byte_tokenizer()).render(messages)


@pytest.mark.parametrize("case", GOLDEN, ids=CASES)
def test_prompts_are_the_publishers(case: dict[str, Any]) -> None:
    """FastChat, Meta's and Mistral's own programs write the same text, or the same tokens."""
    name = case["name"]
    if "ids" in case:
        processor = SentencePieceProcessor(model_file=str(fetch(MISTRAL_V1)))
        tokenizer = load_tokenizer(sentencepiece_metadata(processor))
        assert (
            encode_chat(tokenizer, given_template(name, tokenizer), case["messages"]) == case["ids"]
        )
        return
    llama3 = byte_tokenizer(
        tokens=[*byte_tokenizer_texts(), "<|begin_of_text|>", "<|eot_id|>"],
        token_type=[1] * 256 + [3, 3],
    )
    text = written(name, case["messages"], llama3 if name == "llama3" else None)
    bos = "<s>" if name in ("llama2", "mistral") else ""
    assert text == bos + case["text"]


def byte_tokenizer_texts() -> list[str]:
    """The texts of the small tokenizer's first 256 tokens."""
    tokenizer = byte_tokenizer()
    return [tokenizer.token_text(token) for token in range(256)]


@pytest.mark.parametrize("name", QUOTED)
def test_prompts_are_those_of_model_cards(name: str) -> None:
    """What the publishers quote comes out, character by character."""
    contents, expected = QUOTED[name]
    assert written(name, messages_of(contents)) == expected


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_every_name_takes_every_kind_of_conversation(name: str) -> None:
    """System prompts, questions and replies are all in the prompt, in order, and none is lost."""
    contents = ["be brief", "first question", "first reply", "second question"]
    messages = messages_of(contents[1:])
    for given in (messages, [{"role": "system", "content": contents[0]}, *messages]):
        text = written(name, given)
        places = [text.index(str(message["content"])) for message in given]
        assert places == sorted(places)
        assert text.count("first question") == text.count("second question") == 1


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
@pytest.mark.parametrize("add_bos", [False, True])
def test_one_bos_and_no_eos_too_many(name: str, add_bos: bool) -> None:
    """A prompt has one BOS where the model or the format wants one, and ends with no EOS."""
    tokenizer = byte_tokenizer(add_bos_token=add_bos, add_eos_token=True)
    tokens = encode_chat(tokenizer, given_template(name, tokenizer), messages_of(["hi </s><s>"]))
    writes_bos = name in ("llama2", "llama3", "mistral")
    assert tokens.count(BOS) == (1 if add_bos or writes_bos else 0)
    assert tokens[-1] != EOS
    ends_each_turn = name in ("zephyr", "openassistant")
    assert tokens.count(EOS) == (1 if ends_each_turn else 0)


def test_the_table_and_the_files_agree() -> None:
    """Each name has its file, each file its name, and no file a line that writes nothing."""
    folder = REPOSITORY / "edgellama" / "text" / "templates"
    # Llama Guard's is no chat's, so nobody names it.
    assert {path.stem for path in folder.iterdir()} - {"llama-guard"} == NAMED_TEMPLATES.keys()
    assert all(template_source(name).startswith("{") for name in NAMED_TEMPLATES)
    for given, found in {"Llama-2": "llama2", "llama_3": "llama3", "ChatML": "chatml"}.items():
        assert find_template(given) == found
    assert find_template("llama9") is None


@pytest.fixture
def bare_file(tmp_path: Path) -> Path:
    """A model without a chat template."""
    return write_tiny_llama(tmp_path / "bare.gguf", TinyLlama(chat_template=None))


def test_a_name_or_source_in_python(bare_file: Path) -> None:
    """Llama.chat takes a name or Jinja source, and refuses what is neither with the names."""
    with Llama(bare_file, num_threads=1) as llama:
        for template in ("vicuna", "Llama-2", "{{ messages[0]['content'] }}"):
            with llama.chat(template=template, max_tokens=2, temperature=0) as chat:
                assert chat.send("hello").tokens
        for wrong in ("llama9", ""):
            with pytest.raises(InvalidOptionError, match=f"called {wrong!r}.*Jinja.*llama2, lla"):
                llama.chat(template=wrong)


def test_stop_strings_of_a_format(bare_file: Path) -> None:
    """Where the vocabulary has no token for a turn's end, its text ends the reply."""
    with Llama(bare_file, num_threads=1) as llama, llama.chat(template="chatml") as chat:
        assert chat._reply_request({"stop": "x"}).request.stop == ("x", "<|im_end|>")


def test_the_command_line_names_its_own_way(bare_file: Path, run_cli: CliRunner) -> None:
    """Without a template, chat and generate name --template; a name and a file both serve."""
    for command in (("chat", bare_file), ("generate", bare_file, "--chat", "-p", "hello")):
        result = run_cli(*command, "-t", "1", text_input="hello\n")
        assert result.returncode == 1
        assert "--template NAME with one of llama2, llama3" in result.stderr
        assert "()" not in result.stderr
    source = bare_file.with_name("my format.jinja")
    source.write_text("{{ messages[0]['content'] }}\n", "utf-8")
    options = ("-n", "3", "--temperature", "0", "-t", "1")
    for template in ("vicuna", source):
        chosen = ("--template", template, *options)
        reply = run_cli("chat", bare_file, *chosen, text_input="hello\n").stdout.rstrip("\n")
        assert reply
        text = run_cli("generate", bare_file, "-p", "hello", *chosen).stdout.rstrip("\n")
        assert text == reply


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no chat format is called 'x.jinja'; allowed: a file, or one of llama2"),
        (b"\xff{{", "x.jinja: is not UTF-8 at byte 0"),
        (b"hello", "x.jinja: writes nothing of a message"),
        (b"{% for %}", "chat template does not parse"),
    ],
)
def test_bad_templates_are_one_line(
    content: bytes | None, message: str, bare_file: Path, run_cli: CliRunner, tmp_path: Path
) -> None:
    """A template that is none is an error of one line."""
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / "empty" / "x.jinja").write_bytes(content)
    arguments = ("generate", bare_file, "--template", "x.jinja", "-p", "hello", "-t", "1")
    result = run_cli(*arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line


def test_the_help_of_chat_names_all() -> None:
    """The docstring of Llama.chat tells every name."""
    assert all(f'"{name}"' in (Llama.chat.__doc__ or "") for name in NAMED_TEMPLATES)


def test_names_are_listed(run_cli: CliRunner) -> None:
    """--template list shows every name with its users."""
    lines = run_cli("chat", "--template", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMED_TEMPLATES)
    assert all(len(line) <= 80 for line in lines)
