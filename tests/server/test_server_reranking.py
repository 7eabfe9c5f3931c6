"""Reranking over real sockets: a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from edgellama.llama import Llama

DOCUMENTS = ["A cat.", "Dogs bark.", "It rains."]
ASKED: dict[str, Any] = {"query": "cats?", "documents": DOCUMENTS}


def test_ranks_are_the_librarys(client: httpx.Client, tiny_path: Path) -> None:
    """Scores and order are those of ``Llama.rerank``; documents come back where they are wanted."""
    with Llama(tiny_path) as llama:
        expected = llama.rerank(ASKED["query"], DOCUMENTS)
    answer = client.post("/v1/rerank", json=ASKED).json()
    found = [(each["index"], each["relevance_score"]) for each in answer["results"]]
    assert [index for index, _ in found] == [each.index for each in expected]
    assert [score for _, score in found] == pytest.approx([each.score for each in expected])
    assert answer["usage"]["total_tokens"] == sum(each.num_tokens for each in expected)
    assert answer["model"] == "tiny"
    objects = [{"text": text} for text in DOCUMENTS]
    wish = {"documents": objects, "top_n": 1, "return_documents": True}
    best = client.post("/rerank", json={**ASKED, **wish}).json()["results"]
    assert [each["document"]["text"] for each in best] == [expected[0].document]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"documents": []}, "0 documents; allowed: 1 to 2048"),
        ({"documents": [5]}, "documents"),
        ({"query": 3}, "query"),
        ({"top_n": 0}, "top_n is 0"),
        ({"documents": ["x " * 400]}, "the context 256"),
        ({"prompt": "{query}"}, "{document}"),
        ({"answers": ["yes"]}, "answers"),
        ({"temperature": 1}, "no field 'temperature'"),
        ({"document": ["a"]}, "did you mean documents?"),
        ({"model": "none"}, "tiny"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: httpx.Client, changes: dict[str, Any], words: str
) -> None:
    """An error says what is allowed."""
    answer = client.post("/v1/rerank", json={**ASKED, **changes})
    assert answer.status_code in (400, 404)
    assert words in answer.text
