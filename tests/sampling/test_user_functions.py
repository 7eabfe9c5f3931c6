"""Processors and samplers of the caller's: what they get, what they may give, their errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama import Llama
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

PROMPT = "The capital of France is"
GREEDY: Any = {"temperature": 0, "max_tokens": 3}
LOGITS = np.array([0.0, 3.0, 2.0, 1.0], np.float32)


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> Iterator[Llama]:
    """The starter model with a small context."""
    with Llama(smollm2_path, context_length=256) as llama:
        yield llama


def test_processors_change_logits_in_turn() -> None:
    """Each gets what the one before made of a copy; in place or by giving an array."""
    seen: list[Any] = []

    def in_place(logits: Any, tokens: Sequence[int]) -> None:
        seen.append((logits.dtype, logits.copy(), tokens))
        logits[1] = -np.inf

    def another(logits: Any, tokens: Sequence[int]) -> list[float]:
        seen.append((logits.dtype, logits.copy(), tokens))
        return [0.0, 9.0, 2.0, 5.0]

    greedy = SamplingOptions(temperature=0)
    assert Sampler(greedy, processors=[in_place])(LOGITS, [7]) == 2
    assert Sampler(greedy, processors=[another, in_place])(LOGITS, [7]) == 3
    assert Sampler(greedy, processors=[in_place], bias={3: 5.0})(LOGITS, [7]) == 3
    assert LOGITS.tolist() == [0, 3, 2, 1]
    dtype, logits, tokens = seen[0]
    assert (dtype, logits.tolist(), tokens) == (np.float32, [0, 3, 2, 1], (7,))
    assert seen[2][1].tolist() == [0, 9, 2, 5]


def test_a_sampler_chooses() -> None:
    """It sees what is forbidden, and its token is taken as it is."""

    def third_best(logits: Any, tokens: Sequence[int]) -> int:
        assert logits[0] == -np.inf
        return int(np.argsort(logits)[-3])

    options = SamplingOptions(temperature=0.7)
    assert Sampler(options, choose=third_best, bias={0: -np.inf})(LOGITS, []) == 3
    assert Sampler(options, choose=lambda logits, tokens: np.int64(2))(LOGITS, []) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3), r"gave an array of shape \(3,\); allowed: \(4,\), or None"),
        (np.zeros((1, 4)), r"shape \(1, 4\)"),
        (1.0, r"shape \(\)"),
        ("text", "gave str; allowed: None or 4 numbers"),
        ([0, np.nan, 0, 0], "gave a logit of nan"),
        ([0, np.inf, 0, 0], "gave a logit of inf"),
        ([-np.inf] * 4, "no token is left"),
    ],
)
def test_wrong_logits_are_refused(given: Any, message: str) -> None:
    """The error names the function, what it gave and what is allowed."""

    def strange(logits: Any, tokens: Sequence[int]) -> Any:
        return given

    with pytest.raises(InvalidOptionError, match=message):
        Sampler(SamplingOptions(), processors=[strange])(LOGITS, [])


@pytest.mark.parametrize("given", [4, -1, 1.5, None, True, "1", 0])
def test_wrong_tokens_are_refused(given: Any) -> None:
    """No number, one outside the vocabulary, or a forbidden one is an error."""
    sampler = Sampler(SamplingOptions(), choose=lambda logits, tokens: given, bias={0: -np.inf})
    with pytest.raises(InvalidOptionError, match=r"the sampler <lambda> gave .*; allowed: "):
        sampler(LOGITS, [])


def test_functions_of_a_text(llama: Llama) -> None:
    """In texts, streams, chats and batches each is called for every token, with all before it."""
    histories: list[tuple[int, ...]] = []

    def no_paris(logits: Any, tokens: Any) -> None:
        histories.append(tokens)
        logits[7042] = -np.inf

    result = llama.generate(PROMPT, processors=[no_paris], **GREEDY)
    prompt = tuple(llama.tokenizer.encode(PROMPT))
    assert histories == [prompt + result.tokens[:n] for n in range(3)]
    assert "Paris" not in result.text
    batch = list(llama.generate_batch([PROMPT] * 2, processors=[no_paris], **GREEDY))
    assert [other.text for other in batch] == [result.text] * 2
    fixed = iter([7042, 30, 2])
    chosen = llama.generate(PROMPT, sampler=lambda logits, tokens: next(fixed), max_tokens=9)
    assert (chosen.text, chosen.finish_reason, chosen.matched_stop) == (" Paris.", "stop", 2)
    with llama.chat(sampler=lambda logits, tokens: int(logits.argmax()), max_tokens=4) as chat:
        assert chat.send("Hi").tokens == chat.regenerate(temperature=0, sampler=None).wait().tokens


def test_their_errors_reach_the_caller(llama: Llama) -> None:
    """As they are, from a stream and a batch; the session and the model are free afterwards."""

    def fails(logits: Any, tokens: Any) -> None:
        raise LookupError("mine")

    with llama.session() as session:
        with pytest.raises(LookupError, match="mine"):
            session.generate(PROMPT, processors=[fails], **GREEDY)
        assert session.generate(PROMPT, **GREEDY).text.startswith(" Paris")
    with pytest.raises(LookupError, match="mine"):
        list(llama.generate_batch([PROMPT], processors=[fails], **GREEDY))
    with pytest.raises(LookupError, match="mine"):
        llama.generate(PROMPT, sampler=fails, **GREEDY)  # type: ignore[arg-type]
    assert llama.generate(PROMPT, **GREEDY).text.startswith(" Paris")


@pytest.mark.parametrize(
    "options",
    [{"processors": len}, {"processors": [3]}, {"processors": "a"}, {"sampler": 3}],
)
def test_what_is_no_function_is_refused(llama: Llama, options: Any) -> None:
    """Before anything is computed."""
    with pytest.raises(EdgellamaError, match=r"(processors|sampler) is .*allowed: None or a"):
        llama.generate(PROMPT, **options)
