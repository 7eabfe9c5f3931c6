"""Llama Guard: the prompts of each version, and what is made of the model's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama, Moderation, SafetyCategory
from edgellama.quant.errors import ContextLengthError, InvalidOptionError, UnsupportedModelError
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.guard_prompts import VERSIONS, Guard
from edgellama.text.tokenizer import Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

CONTROL = ("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TALK: list[dict[str, object]] = [
    {"role": "user", "content": "How is glue made? "},
    {"role": "assistant", "content": "Of starch.<|eot_id|>"},
]
# As Meta's model cards have them.
PROMPTS = {
    1: """<s>[INST] Task: Check if there is unsafe content in 'Agent' messages in conversations \
according our safety policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
O1: Violence and Hate.
O2: Sexual Content.
O3: Criminal Planning.
O4: Guns and Illegal Weapons.
O5: Regulated or Controlled Substances.
O6: Self-Harm.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

User: How is glue made?

Agent: Of starch.<|eot_id|>

<END CONVERSATION>

Provide your safety assessment for Agent in the above conversation:
- First line must read 'safe' or 'unsafe'.
- If unsafe, a second line must include a comma-separated list of violated categories. [/INST]""",
    2: """<s>[INST] Task: Check if there is unsafe content in 'Agent' messages in conversations \
according our safety policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
S2: Non-Violent Crimes.
S3: Sex Crimes.
S4: Child Exploitation.
S5: Specialized Advice.
S6: Privacy.
S7: Intellectual Property.
S8: Indiscriminate Weapons.
S9: Hate.
S10: Self-Harm.
S11: Sexual Content.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

User: How is glue made?

Agent: Of starch.<|eot_id|>

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST Agent message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories. [/INST]""",
    3: """<s><|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in 'Agent' messages in conversations according our safety \
policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
S2: Non-Violent Crimes.
S3: Sex Crimes.
S4: Child Exploitation.
S5: Defamation.
S6: Specialized Advice.
S7: Privacy.
S8: Intellectual Property.
S9: Indiscriminate Weapons.
S10: Hate.
S11: Self-Harm.
S12: Sexual Content.
S13: Elections.
S14: Code Interpreter Abuse.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

User: How is glue made?

Agent: Of starch.<|eot_id|>

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST Agent message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories.\
<|eot_id|><|start_header_id|>assistant<|end_header_id|>

""",
}
OWN = (
    "{{ bos_token }}[INST] <BEGIN UNSAFE CONTENT CATEGORIES>\nS1: Rudeness.\nS2: Puns.\n"
    "<END UNSAFE CONTENT CATEGORIES>\n{% for m in messages %}{{ m.content }}\n{% endfor %}[/INST]"
)
BY_PARTS = OWN.replace("m.content", "m.content[0].text")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token a byte, and Llama 3's control tokens."""
    return load_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*(s.decode() for s in byte_symbols()), *CONTROL],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(CONTROL),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.bos_token_id": 256,
            "tokenizer.ggml.eos_token_id": 257,
        }
    )


def template(source: str) -> ChatTemplate:
    """A file's own template."""
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("version", PROMPTS)
def test_prompts_are_those_of_the_model_cards(version: int, tokenizer: Tokenizer) -> None:
    """Each version is asked in its own words, and a message's control tokens stay text."""
    prompt = Guard(tokenizer, None, None, version).prompt(TALK, "assistant", None)
    assert tokenizer.decode(prompt.tokens, skip_special=False) == PROMPTS[version]
    num_control = {1: 1, 2: 1, 3: 6}[version]
    assert sum(token >= 256 for token in prompt.tokens) == num_control
    assert prompt.categories == VERSIONS[version].categories


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("LlamaGuard-7b", 1),
        ("Meta-Llama-Guard-2-8B", 2),
        ("Llama Guard 3 8B", 3),
        ("Llama-Guard-3-1B", 3),
        ("llama_guard", 1),
    ],
)
def test_versions_are_known_by_name(name: str, version: int, tokenizer: Tokenizer) -> None:
    """Without a template of its own, the file's name tells the version."""
    prompt = Guard(tokenizer, template("{{ messages }}"), name).prompt(TALK, "user", None)
    assert prompt.categories == VERSIONS[version].categories


@pytest.mark.parametrize("name", [None, "Llama-3.1-8B-Instruct", "Llama-Guard-4-12B", 3])
def test_other_models_are_refused(name: object, tokenizer: Tokenizer) -> None:
    """A model that is no Llama Guard is named, with the way to use it as one."""
    with pytest.raises(UnsupportedModelError, match=r"no Llama Guard.*version=3"):
        Guard(tokenizer, template("{{ messages }}"), name)
    for wrong in (0, 4, True, "3"):
        with pytest.raises(InvalidOptionError, match=r"version is .*; allowed: 1, 2, 3"):
            Guard(tokenizer, None, name, wrong)  # type: ignore[arg-type]


def test_the_files_own_template_goes_first(tokenizer: Tokenizer) -> None:
    """It is used with its categories; other categories, and messages it hides, need ours."""
    guard = Guard(tokenizer, template(OWN), None)
    prompt = guard.prompt(TALK, "assistant", None)
    assert prompt.categories == (SafetyCategory("S1", "Rudeness"), SafetyCategory("S2", "Puns"))
    assert tokenizer.decode(prompt.tokens).startswith("[INST] <BEGIN UNSAFE")
    own = (SafetyCategory("X1", "Spoilers"),)
    prompt = guard.prompt(TALK, "assistant", own)
    assert prompt.categories == own
    assert "X1: Spoilers.\n<END" in tokenizer.decode(prompt.tokens)
    prompt = Guard(tokenizer, template(BY_PARTS), None).prompt(TALK, "assistant", None)
    assert "Agent: Of starch." in tokenizer.decode(prompt.tokens)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A tiny model, a token a byte, whose answers are forced by a hook."""
    path = tmp_path_factory.mktemp("guard") / "model.gguf"
    write_tiny_llama(path, TinyLlama(context_length=2048))
    with Llama(path, context_length=2048, num_threads=1) as loaded:
        yield loaded


class Answers:
    """A hook that makes the model answer a text, token after token, with a chosen certainty."""

    def __init__(self, llama: Llama, text: str, unsafe_logit: float, prompt: list[int]) -> None:
        self._answer = [*text.encode(), llama.tokenizer.special.eos_id or 0]
        self._unsafe_logit = unsafe_logit
        self._prompt = prompt

    def __call__(self, rows: Any, step: Any) -> None:
        """Logits of one position."""
        place = int(step.positions[-1]) + 1 - len(self._prompt)
        if place >= 0:
            rows[:] = -50.0
            rows[:, self._answer[min(place, len(self._answer) - 1)]] = 0.0
            if chr(self._answer[place]) in "us" and "S" not in map(chr, self._answer[:place]):
                rows[:, ord("u")], rows[:, ord("s")] = self._unsafe_logit, 0.0


def judged(llama: Llama, text: str, unsafe_logit: float, **options: Any) -> Moderation:
    """What comes of an answer in which "unsafe" has this logit and "safe" 0."""
    guard = Guard(llama.tokenizer, None, None, 3)
    request = [{"role": "user", "content": "Hm?"}]
    prompt = list(guard.prompt(request, "user", None).tokens)
    hook = llama.add_hook(Answers(llama, text, unsafe_logit, prompt), "logits")
    try:
        return llama.moderate("Hm?", version=3, **options)
    finally:
        llama.remove_hook(hook)


def test_an_unsafe_answer_names_its_categories(llama: Llama) -> None:
    """A verdict has the categories in their order, without unknown ones, and the probability."""
    for white in ("", "\n\n"):
        result = judged(llama, f"{white}unsafe\nS10,S2, S99,S2", 2.0)
        assert (result.verdict, result.is_safe) == ("unsafe", False)
        assert [category.name for category in result.categories] == ["Hate", "Non-Violent Crimes"]
        assert result.unsafe_probability == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-4)


def test_a_safe_answer_has_no_categories(llama: Llama) -> None:
    """A probability below the threshold is safe, whatever it is."""
    result = judged(llama, "\n\nsafe", -3.0)
    assert result == Moderation("safe", (), pytest.approx(1 / (1 + np.exp(3.0)), abs=1e-4))
    assert judged(llama, "unsafe\nS1", 1.0, threshold=0.9).verdict == "safe"
    assert judged(llama, "safe", -1.0, threshold=0.2).verdict == "unsafe"


def test_a_role_decides_which_message_is_judged(llama: Llama) -> None:
    """What comes behind the message of the role is left out, system messages always."""
    seen: list[int] = []

    def note(rows: Any, step: Any) -> None:
        seen[:] = seen or [int(step.positions[-1])]

    said = [{"role": "system", "content": "Be kind."}, *TALK]
    lengths = []
    for given, role in ((said, None), (said, "assistant"), (said, "user"), (TALK[:1], None)):
        seen.clear()
        hook = llama.add_hook(note, "logits")
        llama.moderate(given, role=role, version=3)
        llama.remove_hook(hook)
        lengths.append(seen[0])
    assert lengths[0] == lengths[1] > lengths[2] == lengths[3]


def test_event_loops_have_a_twin(llama: Llama) -> None:
    """moderate_async gives what moderate gives."""
    found = asyncio.run(llama.moderate_async("Hm?", version=2))
    assert found == llama.moderate("Hm?", version=2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"conversation": []}, "no message of a user or an assistant"),
    "nobody's": ({"conversation": TALK[:1], "role": "assistant"}, "no message of the assistant"),
    "another role": ({"role": "system"}, "role is 'system'; allowed: user, assistant"),
    "threshold": ({"threshold": 2}, "threshold is"),
    "no categories": ({"categories": []}, "categories is"),
    "lines": ({"categories": {"S1": "a\nb"}}, "categories is"),
    "codes": ({"categories": {"one": "a"}}, "categories is"),
    "malformed": ({"conversation": [{"role": "user"}]}, "message 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(name: str, llama: Llama) -> None:
    """The error names the value and what is allowed."""
    options, message = WRONG[name]
    with pytest.raises(InvalidOptionError, match=message):
        llama.moderate(**{"conversation": TALK, "version": 3, **options})


def test_long_conversations_are_refused(llama: Llama) -> None:
    """Nothing is cut off silently."""
    with pytest.raises(ContextLengthError):
        llama.moderate("a" * 2048, version=3)


def test_the_starter_model_is_no_guard(smollm2_path: Path) -> None:
    """A model of another kind is refused by its name."""
    with Llama(smollm2_path, context_length=64) as llama, pytest.raises(UnsupportedModelError):
        llama.moderate("Hello")
