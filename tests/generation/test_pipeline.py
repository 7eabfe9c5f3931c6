"""``edgellama.pipeline``: what transformers' text-generation pipeline takes and returns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA

import edgellama
from edgellama.generation.results import Generation, Statistics
from edgellama.llama import Llama
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError
from edgellama.text_pipeline import TextGenerationPipeline

GOLDEN = json.loads((DATA / "pipeline_golden.json").read_text())
CHAT = [{"role": "user", "content": "What is the capital of Italy?"}]


@pytest.fixture(scope="module")
def pipe(smollm2_path: Path) -> Iterator[TextGenerationPipeline]:
    """A pipeline over the starter model."""
    with Llama(smollm2_path, context_length=512) as llama:
        yield edgellama.pipeline("text-generation", model=llama)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: json.dumps(case["options"]))
def test_what_transformers_returns(pipe: TextGenerationPipeline, case: dict[str, Any]) -> None:
    """For texts, chats and lists of both, the very value of transformers."""
    assert pipe(case["input"], **case["options"]) == case["output"]


def test_the_sample_of_a_model_card(smollm2_path: Path) -> None:
    """The lines of a model card run, where only the import is another."""
    pipe = edgellama.pipeline(
        "text-generation",
        model=str(smollm2_path),
        model_kwargs={"torch_dtype": "bfloat16", "context_length": 256},
        device_map="auto",
    )
    (record,) = pipe("Hey how are you doing today?", max_new_tokens=4)
    assert list(record) == ["generated_text"]
    assert record["generated_text"].startswith("Hey how are you doing today?")
    assert pipe.model.context_length == 256
    pipe.model.close()


def test_defaults_are_those_of_transformers(
    pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options 256 tokens at most are sampled; options of the pipeline hold for calls."""
    asked: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        patch.setattr(Llama, "generate_batch", lambda _, prompts, **__: asked.extend(prompts) or ())
        pipe("One, two,")
    assert asked[0]["max_tokens"] == 256
    assert [asked[0][name] for name in ("temperature", "top_k", "top_p")] == [0.7, 50, 1.0]
    short = edgellama.pipeline(model=pipe.model, max_new_tokens=3, do_sample=False)
    assert short("One,") == pipe("One,", max_new_tokens=3, do_sample=False)
    assert short("One,", max_new_tokens=1) == pipe("One,", max_new_tokens=1, do_sample=False)


def test_several_texts_of_one_prompt(pipe: TextGenerationPipeline) -> None:
    """Sequences differ, and the same seed gives the same ones again."""
    options = {"num_return_sequences": 4, "max_new_tokens": 8, "temperature": 1.5}
    first, again = (pipe("Once upon a time", seed=3, **options) for _ in range(2))
    assert first == again
    assert len({record["generated_text"] for record in first}) > 1


def test_a_generator_gives_an_iterator(pipe: TextGenerationPipeline) -> None:
    """Texts that come one after another are answered one after another; messages are one chat."""
    options = {"max_new_tokens": 1, "do_sample": False}
    taken: list[str] = []

    def texts() -> Iterator[str]:
        for text in ("One,", "Two,"):
            taken.append(text)
            yield text

    results = pipe(texts(), **options)
    assert next(results) == pipe("One,", **options)
    assert taken == ["One,"]
    assert list(results) == [pipe("Two,", **options)]
    assert list(pipe((message for message in CHAT), **options)) == [pipe(CHAT, **options)]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("x", {"max_new_token": 1}, "did you mean max_new_tokens"),
        ("x", {"num_beams": 4}, "no option 'num_beams'"),
        ("x", {"do_sample": False, "num_return_sequences": 2}, "num_return_sequences is 2"),
        ("x", {"num_return_sequences": 0}, "num_return_sequences is 0"),
        ("x", {"return_text": True, "return_full_text": True}, "allowed: one of them"),
        (CHAT, {"max_length": 9}, "with a chat"),
        (7, {}, "the input is 7"),
        ([7], {}, "an input is 7"),
        ([{"role": "user"}], {}, "message 0"),
        ("x", {"temperature": -1}, "temperature is -1"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    pipe: TextGenerationPipeline, given: Any, options: dict[str, Any], words: str
) -> None:
    """Nothing is dropped silently."""
    with pytest.raises(InvalidOptionError, match=words):
        pipe(given, **options)


def test_what_cannot_be_made_is_refused() -> None:
    """Other tasks, other tokenizers and models that are not there."""
    with pytest.raises(InvalidOptionError, match="'fill-mask'; allowed: 'text-generation'"):
        edgellama.pipeline("fill-mask", model="smollm2")
    with pytest.raises(InvalidOptionError, match="tokenizer is given"):
        edgellama.pipeline(model="smollm2", tokenizer=object())
    with pytest.raises(ModelNotFoundError, match="pull"):
        edgellama.pipeline(model="nobody/no-such-model")


def test_a_message_that_is_carried_on_keeps_its_thinking(
    pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had thought comes before what was thought now."""
    figures = Statistics(3, 3, 0, 0.1, 0.0, 0.1)
    result = Generation("ur.", (1,), 3, "stop", figures, reasoning=" two.")
    monkeypatch.setattr(Llama, "generate_batch", lambda *_, **__: [result])
    begun = {"role": "assistant", "content": "Fo", "reasoning": "Two and"}
    (record,) = pipe([*CHAT, begun])
    said = {"role": "assistant", "content": "Four.", "reasoning": "Two and two."}
    assert record["generated_text"] == [*CHAT, said]


def test_a_tokenizer_of_its_own_is_refused() -> None:
    """Also where it is an array, which is equal to nothing and to everything."""
    for tokenizer in ("another", np.array([1, 2])):
        with pytest.raises(InvalidOptionError, match="tokenizer is given"):
            edgellama.pipeline(model="smollm2", tokenizer=tokenizer)
