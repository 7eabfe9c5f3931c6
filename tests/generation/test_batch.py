"""Many generations at once: the texts of each alone, in the order in which they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from harness.kernels import model_of
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import (
    ContextLengthError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
    Llama,
)
from edgellama.generation.arguments import GIANT_LENGTH
from edgellama.generation.batches.batch_width import BatchWidth

GIANT = "x" * GIANT_LENGTH
PROMPTS = ["a", "bcd", "once upon a time there was", "x" * 150, "hello hello", "z" * 40]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """An exact model, so that texts can be compared."""
    path = write_tiny_llama(tmp_path_factory.mktemp("batch") / "tiny.gguf", TinyLlama())
    with Llama(path, num_threads=2, exact=True) as llama:
        yield llama


@pytest.mark.parametrize("width", [1, 2, 5, 32])
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 7}])
def test_texts_are_those_of_each_alone(llama: Llama, width: int, sampling: Any) -> None:
    """Every prompt gets the text that it gets alone, whatever else is computed beside it."""
    alone = [llama.generate(prompt, max_tokens=12, **sampling).text for prompt in PROMPTS]
    results = list(llama.generate_batch(PROMPTS, max_tokens=12, width=width, **sampling))
    assert sorted(result.index for result in results) == list(range(len(PROMPTS)))
    for result in results:
        assert result.text == alone[result.index]
        assert result.finish_reason in ("stop", "length")


def test_prompts_are_read_as_there_is_room(llama: Llama) -> None:
    """An endless iterator of prompts is read no further than there is room for."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "abc"

    results = llama.generate_batch(endless(), max_tokens=2, width=4)
    for number in range(1, 30):
        next(results)
        assert read <= number + 4
    results.close()
    assert llama._engine.pool().num_owned == 0


def test_texts_at_their_end_are_not_waited_for(
    llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler hears of every text that it is over."""
    ended = Mock()
    monkeypatch.setattr(llama._engine.scheduler, "expect_no_more", ended)
    list(llama.generate_batch(PROMPTS, max_tokens=2, width=2))
    assert ended.call_count == len(PROMPTS)


def test_a_prompt_that_cannot_run(llama: Llama) -> None:
    """It ends the batch, or is told to who wants to hear it while the others run."""
    prompts: list[Any] = ["a", "y" * 10_000, "b", b"bytes", "c"]
    with pytest.raises(
        ContextLengthError, match=r"^prompt 1: the prompt is too long: \d+ "
    ) as caught:
        list(llama.generate_batch(prompts, max_tokens=2))
    assert caught.value.prompt_tokens > caught.value.context_length == llama.context_length
    with pytest.raises(InvalidOptionError, match=r"^prompt 3: the prompt is b'bytes'"):
        list(llama.generate_batch([*"abc", b"bytes"], max_tokens=2))  # type: ignore[list-item]
    with pytest.raises(ContextLengthError):
        list(llama.generate_batch(prompts, max_tokens=2))
    told: list[tuple[int, Exception]] = []
    results = llama.generate_batch(
        prompts, max_tokens=2, on_error=lambda index, error: told.append((index, error))
    )
    assert sorted(result.index for result in results) == [0, 2, 4]
    assert [index for index, _ in told] == [1, 3]
    assert [type(error) for _, error in told] == [ContextLengthError, InvalidOptionError]


def test_as_many_texts_as_memory_allows() -> None:
    """Without a width 64 texts run, and 32 in any case; between, a quarter of memory decides."""
    config = model_of(64, head_size=32, heads=2, kv_heads=1)
    token_bytes = config.block_count * 2 * 2 * 32
    for free_bytes, most in ((None, 32), (4000 * token_bytes, 40), (10**12, 64)):
        width = BatchWidth.of(None, config, "f16", free_bytes)
        assert next(n for n in range(100) if not width.has_room([25] * n)) == most
    asked = BatchWidth.of(100, config, "f16", None)
    assert asked.has_room([10**9] * 99)
    assert not asked.has_room([1] * 100)


def test_wrong_arguments(llama: Llama) -> None:
    """One text instead of many, and no room at all, are refused at once."""
    with pytest.raises(InvalidOptionError, match="one prompt"):
        llama.generate_batch("abc")
    with pytest.raises(InvalidOptionError, match="width is 0"):
        llama.generate_batch(["abc"], width=0)


def test_a_shared_beginning_is_computed_once(llama: Llama) -> None:
    """Prompts with the same beginning find the pages of those before them."""
    shared = "q" * 140
    results = llama.generate_batch([shared + text for text in "abcd"], max_tokens=2, width=1)
    assert [result.statistics.prefilled_tokens < 140 for result in results] == [
        *(False, True, True, True),
    ]


def test_stopping_early_frees_everything(llama: Llama, tmp_path: Path) -> None:
    """Who leaves the loop gives all pages back, and the model goes on as before."""
    for _ in llama.generate_batch(["a"] * 10, max_tokens=20):
        break
    assert llama.generate("a", max_tokens=3, temperature=0).text
    assert llama._engine.pool().num_owned == 0


def test_prompts_with_options_of_their_own(llama: Llama) -> None:
    """A mapping's options go before the batch's; chats get what a chat of their own gets."""
    messages = [{"role": "user", "content": "Hello"}]
    prompts: list[Any] = [
        "abc",
        {"prompt": "abc", "max_tokens": 5},
        {"prompt": [97, 98, 99], "temperature": 1.5, "seed": 3},
        {"messages": messages},
        {"messages": messages, "repeat_penalty": 1.9, "max_tokens": 6, "stop": ["e"]},
    ]
    options: Any = {"max_tokens": 9, "temperature": 0}
    results = sorted(llama.generate_batch(prompts, **options), key=lambda result: result.index)
    with llama.chat(messages=messages, **options) as chat:
        reply = chat.regenerate().wait().text
        own = chat.regenerate(repeat_penalty=1.9, max_tokens=6, stop="e").wait().text
    assert [result.text for result in results] == [
        llama.generate("abc", **options).text,
        llama.generate("abc", max_tokens=5, temperature=0).text,
        llama.generate([97, 98, 99], max_tokens=9, temperature=1.5, seed=3).text,
        reply,
        own,
    ]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "has neither; allowed: one of prompt, messages"),
        ({"prompt": "a", "messages": []}, "has prompt and messages"),
        ({"prompt": "a", "tempreature": 1}, "option 'tempreature'; did you mean temperature"),
        ({"prompt": "a", "temperature": "warm"}, "temperature is 'warm'"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens is -1"),
        ({"prompt": "a", "parse_special": "no"}, "parse_special is 'no'"),
        ({"prompt": {"a": 1}}, "the prompt"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "cook", "content": "a"}]}, "message 0"),
        (17, "prompt is 17"),
    ],
)
def test_impossible_prompts(llama: Llama, prompt: Any, words: str) -> None:
    """What is wrong with one prompt is told with its number; the others run."""
    told: list[tuple[int, str]] = []
    results = llama.generate_batch(
        ["a", prompt, "b"],
        max_tokens=2,
        on_error=lambda *error: told.append((error[0], str(error[1]))),
    )
    assert sorted(result.index for result in results) == [0, 2]
    ((index, text),) = told
    assert index == 1
    assert words in text


@pytest.mark.parametrize(
    "prompt",
    [GIANT, {"messages": [{"role": "user", "content": GIANT}, {"role": "user", "content": "Hi"}]}],
)
def test_a_giant_prompt_is_refused_by_its_length(
    llama: Llama, monkeypatch: pytest.MonkeyPatch, prompt: Any
) -> None:
    """It is never made into tokens, which takes minutes for a word of many megabytes."""
    monkeypatch.setattr(type(llama.tokenizer), "encode_stretch", lambda *_: pytest.fail("encoded"))
    told: list[EdgellamaError] = []
    results = llama.generate_batch([prompt], on_error=lambda _, error: told.append(error))
    assert list(results) == []
    assert isinstance(told[0], ContextLengthError) and "at least" in str(told[0])


def test_no_prompt_at_the_moment(llama: Llama) -> None:
    """None holds up nobody and has no number."""
    prompts = ["a", None, None, "b", None]
    results = list(llama.generate_batch(prompts, max_tokens=2))
    assert sorted(result.index for result in results) == [0, 1]


def test_cancelled_by_another_thread(llama: Llama) -> None:
    """A batch without end ends for who iterates, and gives all memory back."""
    batch = llama.generate_batch(iter(lambda: "abc", ""), max_tokens=50, temperature=0)
    next(batch)
    threading.Timer(0.05, batch.cancel).start()
    with pytest.raises(GenerationCancelled):
        for _ in batch:
            pass
    assert llama._engine.pool().num_owned == 0


@pytest.mark.parametrize("name", ["generate_batch", "embed_each"])
def test_a_second_thread_is_told_so_and_may_close(llama: Llama, name: str) -> None:
    """Who comes while another thread is inside gets our own error; closing ends that thread's."""
    is_inside, goes_on = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def prompts() -> Iterator[str]:
        yield "abc"
        is_inside.set()
        goes_on.wait()
        yield "def"

    items: Any = getattr(llama, name)(prompts())

    def iterate() -> None:
        try:
            list(items)
        except EdgellamaError as error:
            raised.append(error)

    thread = threading.Thread(target=iterate)
    thread.start()
    is_inside.wait()
    with pytest.raises(EdgellamaError, match="being iterated by another thread"):
        next(items)
    items.close()
    goes_on.set()
    thread.join()
    assert [type(error) for error in raised] == [GenerationCancelled]
    assert llama._engine.pool().num_owned == 0
