"""Expected texts: they come faster where they come true, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.servers import running_server
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama import InvalidOptionError, Llama
from edgellama.engine.scheduling.step_costs import StepCosts
from edgellama.generation.speculation.predicted import PredictedDrafter
from edgellama.server.settings import ServerSettings


class Recorder:
    """Remembers what it was asked to go on from."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """No guess."""
        self.asked.append(list(tokens))
        return ()


TOKENS = st.lists(st.integers(0, 3), max_size=8)


@given(TOKENS, st.lists(st.tuples(st.booleans(), st.integers(0, 8), TOKENS), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_expected_text_stands_before_any_text(
    expected: list[int], steps: list[tuple[bool, int, list[int]]]
) -> None:
    """However a text grows, or goes back and then grows, the drafter sees it whole behind it."""
    recorder = Recorder()
    drafter = PredictedDrafter(recorder, expected)
    text: list[int] = []
    texts = []
    for goes_back, length, new in steps:
        text = text[:length] if goes_back else [*text, *new]
        texts.append([*expected, *text])
        drafter.draft(text, 3)
    assert recorder.asked == texts


COSTS = [0, 1, 1.2, 1.35, 1.45, 1.7, 1.8, 1.9, 1.95, 2.9, 3.0, 3.1, 3.2]
"""Costs of steps by their tokens as they were measured once, on a quiet machine."""


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether guesses pay off does not depend on what else the machine does."""
    monkeypatch.setattr(StepCosts, "table", property(lambda self: list(COSTS)))


def test_what_comes_true_comes_faster(smollm2_path: Path) -> None:
    """More tokens are guessed than without, and the text is the same; so it is with a wrong one."""
    options: dict[str, Any] = {"max_tokens": 48, "temperature": 0, "speculation": True}
    with Llama(smollm2_path, context_length=512) as llama:
        alone = llama.generate("The three largest cities are", **options)
        helped = llama.generate("The three largest cities are", prediction=alone.text, **options)
        misled = llama.generate(
            "The three largest cities are", prediction="Nothing of the kind.", **options
        )
        assert helped.tokens == misled.tokens == alone.tokens
        assert helped.statistics.accepted_tokens > alone.statistics.accepted_tokens
        with pytest.raises(InvalidOptionError, match="prediction"):
            llama.generate("Hello", prediction=["a"])  # type: ignore[arg-type]


def test_a_prediction_over_http_is_counted(smollm2_path: Path) -> None:
    """OpenAI's field gives the same text, and says how much of it came true."""
    asked = [{"role": "user", "content": "Count from one to ten in words."}]
    body: dict[str, Any] = {"messages": asked, "max_tokens": 40, "temperature": 0}
    models = {"smollm2": smollm2_path}
    with (
        running_server(ServerSettings(models=models, only_given=True)) as server,
        server.client() as client,
    ):
        path = "/v1/chat/completions"
        alone = client.post(path, json=body).json()
        text = alone["choices"][0]["message"]["content"]
        content = [{"type": "text", "text": text}]
        helped = client.post(
            path, json={**body, "prediction": {"type": "content", "content": content}}
        ).json()
        wrong = client.post(path, json={**body, "prediction": {"type": "content"}})
    assert helped["choices"][0]["message"] == alone["choices"][0]["message"]
    details = [each["usage"]["completion_tokens_details"] for each in (alone, helped)]
    assert details[0]["accepted_prediction_tokens"] == 0
    assert details[1]["accepted_prediction_tokens"] > 5
    assert wrong.status_code == 400
