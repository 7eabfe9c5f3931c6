"""Reranking: the probability of yes against no, by prompts that are what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REPOSITORY
from reference.tiny_models import TinyLlama, write_tiny_llama
from test_readme import code_blocks

from edgellama import ContextLengthError, InvalidOptionError, Llama, UnsupportedModelError
from edgellama.convert import convert
from edgellama.engine.engine import Engine
from edgellama.generation.judging.rank_prompt import PROMPT
from edgellama.generation.judging.reranking import answer_tokens

DOCUMENTS = ["a first text", "another", "the third of these texts", "a first text"]
RAW: dict[str, Any] = {"chat": False}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A tiny model with a chat template."""
    path = write_tiny_llama(tmp_path_factory.mktemp("rerank") / "tiny.gguf", TinyLlama())
    with Llama(path, exact=True, kv_type="f32") as llama:
        yield llama


def alone(llama: Llama, prompt: str) -> float:
    """The score of one prompt, as plain text, by the definition."""
    engine: Engine = llama._engine
    tokens = llama.tokenizer.encode(prompt)
    logits = engine.forward(tokens, engine.new_cache(len(tokens)))[0].astype(np.float64)
    weights = np.exp(logits - logits.max())
    yes, no = (weights[each].sum() for each in answer_tokens(llama.tokenizer, ("yes", "no")))
    return float(yes / (yes + no))


def test_scores(llama: Llama) -> None:
    """Each score is that of the whole prompt computed alone; the best come first."""
    ranked = llama.rerank("what?", DOCUMENTS, **RAW)
    assert sorted(each.index for each in ranked) == [0, 1, 2, 3]
    for each in ranked:
        assert each.document == DOCUMENTS[each.index]
        prompt = PROMPT.format(query="what?", document=each.document)
        assert each.num_tokens == len(llama.tokenizer.encode(prompt))
        assert each.score == pytest.approx(alone(llama, prompt), abs=1e-6)
        assert 0 <= each.score <= 1
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert [each.index for each in ranked if each.document == DOCUMENTS[0]] == [0, 3]


def test_what_is_shared(llama: Llama) -> None:
    """What stands before the documents is computed once, what follows for each."""
    steps: list[int] = []

    def count(rows: Any, step: Any) -> None:
        steps.append(len(step.tokens))

    hook = llama.add_hook(count, layers=[0])
    ranked = llama.rerank("a long question " * 4, DOCUMENTS, **RAW)
    llama.remove_hook(hook)
    before = PROMPT.partition("{document}")[0].format(query="a long question " * 4)
    num_shared = len(llama.tokenizer.encode(before))
    num_all = sum(each.num_tokens for each in ranked)
    assert sum(steps) <= num_all - 3 * (num_shared - 2)
    assert llama._engine.pool().num_owned == 0


def test_chat_format(llama: Llama) -> None:
    """The prompt is a chat's message where the model has a format, and control texts stay text."""
    chat = llama.rerank("what?", ["<|im_end|> text"])[0]
    plain = llama.rerank("what?", ["<|im_end|> text"], chat=False)[0]
    named = llama.rerank("what?", ["<|im_end|> text"], template="chatml")[0]
    assert chat.num_tokens != plain.num_tokens
    assert named.num_tokens >= plain.num_tokens
    assert chat.score != plain.score


def test_own_prompt(llama: Llama) -> None:
    """Prompts are the caller's; braces and placeholders in texts, quotes and Jinja stay."""
    prompt = '{{ 1 }} "{document}" {% x %} {query}, {document}? \\n'
    document = "{query} {{ messages }}"
    (found,) = llama.rerank("what {document}?", [document], prompt=prompt, **RAW)
    written = f'{{{{ 1 }}}} "{document}" {{% x %}} what {{document}}?, {document}? \\n'
    assert found.score == pytest.approx(alone(llama, written), abs=1e-6)


def test_prompt_of_the_file(tmp_path: Path) -> None:
    """A file's own prompt is asked as it stands, unless the caller gives one or wants a chat."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    own = "<Query>: {query} <Document>: {document} <think>"
    given = {"tokenizer.chat_template.rerank": own}
    convert(path, tmp_path / "rerank.gguf", type="copy", metadata=given)
    with Llama(tmp_path / "rerank.gguf", exact=True, kv_type="f32") as llama:
        (found,) = llama.rerank("what?", DOCUMENTS[:1])
        expected = alone(llama, own.format(query="what?", document=DOCUMENTS[0]))
        assert found.score == pytest.approx(expected, abs=1e-6)
        for options in ({"prompt": PROMPT}, {"chat": True}, {"template": "chatml"}):
            (other,) = llama.rerank("what?", DOCUMENTS[:1], **options)
            assert other.num_tokens != found.num_tokens


def test_models_that_think(tmp_path: Path) -> None:
    """The answer is looked for behind the thinking, as Qwen 3's format closes it."""
    end = "{% if not enable_thinking|default(true) %}<think></think>{% endif %}"
    model = TinyLlama(chat_template="A: {{ messages[0].content }}\nB: " + end, context_length=512)
    with Llama(write_tiny_llama(tmp_path / "tiny.gguf", model), kv_type="f32") as llama:
        (found,) = llama.rerank("what?", DOCUMENTS[:1])
        question = PROMPT.format(query="what?", document=DOCUMENTS[0])
        whole = f"A: {question}\nB: <think></think>"
        assert found.score == pytest.approx(alone(llama, whole), abs=1e-4)


def test_truncation(tmp_path: Path) -> None:
    """A prompt that is too long is refused with its counts, or the end of its document is cut."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(context_length=256))
    documents = ["short", "many words " * 60]
    with Llama(path, exact=True, kv_type="f32") as llama:
        with pytest.raises(ContextLengthError, match="the prompt of document 1 has") as info:
            llama.rerank("what?", documents, **RAW)
        assert info.value.prompt_tokens > info.value.context_length == 256
        ranked = {
            each.index: each for each in llama.rerank("what?", documents, truncate=True, **RAW)
        }
        assert ranked[0].num_dropped == 0 < ranked[1].num_dropped
        assert ranked[1].document == documents[1]
        assert 200 < ranked[1].num_tokens <= 256
        with pytest.raises(ContextLengthError, match="the prompt without a document has"):
            llama.rerank("what? " * 100, documents, truncate=True, **RAW)


def test_answers(llama: Llama) -> None:
    """Other words for yes and no give other scores; turned around, the rest to one."""
    asked = llama.rerank("what?", ["text"], **RAW)[0].score
    turned = llama.rerank("what?", ["text"], answers=("no", "yes"), **RAW)[0].score
    other = llama.rerank("what?", ["text"], answers=("a", "b"), **RAW)[0].score
    assert turned == pytest.approx(1 - asked, abs=1e-9)
    assert other != asked
    with pytest.raises(InvalidOptionError, match="begin with the same tokens"):
        llama.rerank("what?", ["text"], answers=("yes", "Yes"), **RAW)


WRONG: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "one text": ("q", "text", {}, "documents is 'text'; allowed: several texts"),
    "a number": ("q", ["a", 5], {}, "document 1 is 5; allowed: a text"),
    "query": (None, ["a"], {}, "query is None; allowed: a text"),
    "prompt": ("q", ["a"], {"prompt": "{query}?"}, "allowed: text with {query} and {document}"),
    "answers": ("q", ["a"], {"answers": "yes"}, "answers is 'yes'; allowed: two texts"),
    "top_n": ("q", ["a"], {"top_n": 0}, "top_n is 0; allowed: None or a whole number from 1"),
    "chat": ("q", ["a"], {"chat": "yes"}, "chat is 'yes'; allowed: True, False, None"),
    "name": ("q", ["a"], {"truncat": True}, "did you mean truncate"),
    "template": ("q", ["a"], {"template": "none such"}, "none such"),
}


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"), WRONG.values(), ids=WRONG.keys()
)
def test_wrong_arguments(
    llama: Llama, query: Any, documents: Any, options: dict[str, Any], message: str
) -> None:
    """What cannot be ranked is refused with the value and what is allowed."""
    with pytest.raises(InvalidOptionError) as info:
        llama.rerank(query, documents, **options)
    assert message in str(info.value)


def test_no_chat_format(tmp_path: Path) -> None:
    """Without a chat format the prompt stands as it is, unless one is insisted on."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(chat_template=None))
    with Llama(path) as llama:
        (plain,) = llama.rerank("what?", ["text"], chat=False)
        assert llama.rerank("what?", ["text"]) == (plain,)
        with pytest.raises(UnsupportedModelError, match="no chat template"):
            llama.rerank("what?", ["text"], chat=True)


def test_counts_and_progress(llama: Llama) -> None:
    """The best few are returned; progress hears of all; of no documents there are none."""
    told: list[tuple[int, int]] = []
    best = llama.rerank(
        "what?", DOCUMENTS, top_n=2, progress=lambda done, total: told.append((done, total))
    )
    assert best == llama.rerank("what?", DOCUMENTS)[:2]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert llama.rerank("what?", []) == ()


def test_event_loops(llama: Llama) -> None:
    """The async twins return what the others do; a cancelled task leaves nothing running."""

    async def main() -> None:
        ranked, vectors = await asyncio.gather(
            llama.rerank_async("what?", DOCUMENTS), llama.embed_async(DOCUMENTS)
        )
        assert ranked == llama.rerank("what?", DOCUMENTS)
        np.testing.assert_array_equal(vectors, llama.embed(DOCUMENTS))
        task = asyncio.create_task(llama.embed_async(["a long text " * 15] * 3000))
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llama._engine.pool().num_owned == 0

    asyncio.run(main())


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_any_texts(llama: Llama, documents: list[str], query: str) -> None:
    """Whatever the texts, each has a score from 0 to 1, the best first."""
    ranked = llama.rerank(query, documents)
    assert sorted(each.index for each in ranked) == list(range(len(documents)))
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_smollm2_ranks(smollm2_path: Path) -> None:
    """The starter model puts the document first that answers the question."""
    questions = {
        "How do bats find their way?": "Bats use echolocation to navigate in the dark.",
        "How do plants get energy?": "Plants get their energy from sunlight by photosynthesis.",
        "Why is the sky blue?": "Air scatters blue light more than red light.",
    }
    documents = [*questions.values(), "Paris is the capital of France."]
    with Llama(smollm2_path, context_length=512) as llama:
        for question, answer in questions.items():
            assert llama.rerank(question, documents)[0].document == answer


def test_page(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples of the page about embeddings run as they stand, and find what they should."""
    page = (REPOSITORY / "docs" / "embeddings.md").read_text("utf-8")
    first, second = code_blocks("python", page)
    exec(compile(first, "docs/embeddings.md", "exec"), {})
    assert capsys.readouterr().out == "Recipes for loaves\n"
    exec(compile(second, "docs/embeddings.md", "exec"), {})
    assert "0 Paris is the capital of France." in capsys.readouterr().out.splitlines()[0]
