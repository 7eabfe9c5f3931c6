"""Moderations over real sockets: a tiny random model in place of a Llama Guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.servers import RunningServer, running_server
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.generation.judging.moderation import Moderation
from edgellama.llama import Llama
from edgellama.server.judging.moderations import MEANINGS, OPENAI_CATEGORIES, _letters, _result
from edgellama.server.settings import ServerSettings
from edgellama.text.guard_prompts import VERSIONS, SafetyCategory

PATH = "/v1/moderations"


@pytest.fixture(scope="module")
def guard_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with room for Llama Guard's prompt."""
    folder = tmp_path_factory.mktemp("models")
    return write_tiny_llama(folder / "guard.gguf", TinyLlama(context_length=4096))


@pytest.fixture(scope="module")
def server(tiny_path: Path, guard_path: Path) -> Iterator[RunningServer]:
    """A server of two models, the second of which is a guard by its name."""
    models = {"tiny": tiny_path, "my-guard": guard_path}
    with running_server(ServerSettings(models=models, only_given=True)) as running:
        yield running


def test_judgements_are_the_librarys(client: httpx.Client, guard_path: Path) -> None:
    """Each text has its own, by the model that is a guard."""
    texts = ["How is glue made?", "Hello"]
    answer = client.post(PATH, json={"input": texts, "version": 3, "threshold": 0}).json()
    assert answer["model"] == "my-guard"
    with Llama(guard_path) as llama:
        expected = [llama.moderate(text, version=3, threshold=0) for text in texts]
    assert [found["unsafe_probability"] for found in answer["results"]] == [
        judged.unsafe_probability for judged in expected
    ]
    assert [found["flagged"] for found in answer["results"]] == [True, True]
    part = [{"type": "text", "text": texts[0]}]
    one = client.post(PATH, json={"input": part, "version": 3, "threshold": 0}).json()
    assert one["results"] == answer["results"][:1]


def test_categories_become_openais() -> None:
    """Those that fit have OpenAI's name, the others their own; scores are those of the verdict."""
    categories = (SafetyCategory("S10", "Hate"), SafetyCategory("S13", "Elections"))
    result = _result(Moderation("unsafe", categories, 0.9))
    assert result["categories"]["hate"] is True and result["categories"]["violence"] is False
    assert result["category_scores"]["S13: Elections"] == 0.9
    assert set(result["categories"]) == {*OPENAI_CATEGORIES, "S13: Elections"}
    meant = {name for names in MEANINGS.values() for name in names}
    assert meant <= set(OPENAI_CATEGORIES)
    own = {_letters(each.name) for version in VERSIONS.values() for each in version.categories}
    alone = {"specializedadvice", "privacy", "intellectualproperty", "elections"}
    assert own - set(MEANINGS) == alone


@pytest.mark.parametrize(
    "body",
    [
        {"input": "Hello"},
        {"input": "Hello", "model": "tiny"},
        {"input": []},
        {"input": [""]},
        {"input": [{"type": "image_url"}]},
        {"input": "a", "version": 9},
        {"input": "a", "version": 3, "threshold": 2},
        {"input": "a", "version": 3, "model": "tiny"},
        {"input": ["a"] * 129},
    ],
)
def test_what_cannot_be_judged_is_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    """A model that is no guard, a context that is too short, and malformed input."""
    answer = client.post(PATH, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text
