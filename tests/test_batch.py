"""Many generations at once: the texts of each alone, in the order in which they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import ContextLengthError, InvalidOptionError, Llama

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
    results.close()  # type: ignore[attr-defined]
    assert llama._engine.pool().num_owned == 0


def test_a_prompt_that_cannot_run(llama: Llama) -> None:
    """It ends the batch, or is told to who wants to hear it while the others run."""
    prompts: list[Any] = ["a", "y" * 10_000, "b", b"bytes", "c"]
    with pytest.raises(ContextLengthError):
        list(llama.generate_batch(prompts, max_tokens=2))
    told: list[tuple[int, Exception]] = []
    results = llama.generate_batch(
        prompts, max_tokens=2, on_error=lambda index, error: told.append((index, error))
    )
    assert sorted(result.index for result in results) == [0, 2, 4]
    assert [index for index, _ in told] == [1, 3]
    assert [type(error) for _, error in told] == [ContextLengthError, InvalidOptionError]


def test_wrong_arguments(llama: Llama) -> None:
    """One text instead of many, and no room at all, are refused at once."""
    with pytest.raises(InvalidOptionError, match="one text"):
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
