"""Embeddings over real sockets, in two protocols: a tiny random model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edgellama.llama import Llama

TEXTS = ["Hello world", "Bye"]


@pytest.fixture(scope="module")
def expected(tiny_path: Path) -> Any:
    """The library's own vectors."""
    with Llama(tiny_path) as llama:
        return llama.embed(TEXTS)


def test_vectors_are_the_librarys(client: httpx.Client, expected: Any) -> None:
    """Numbers, base64 and Ollama's form hold the same vectors in the same order."""
    plain = client.post("/v1/embeddings", json={"input": TEXTS}).json()
    coded = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    ollama = client.post("/api/embed", json={"model": "tiny", "input": TEXTS}).json()
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded["data"]]
    assert np.array_equal(decoded, expected)
    assert np.array_equal(np.float32([row["embedding"] for row in plain["data"]]), expected)
    assert np.array_equal(np.float32(ollama["embeddings"]), expected)
    assert [row["index"] for row in plain["data"]] == [0, 1]
    assert plain["usage"]["prompt_tokens"] == ollama["prompt_eval_count"] > 0


def test_the_older_endpoint_gives_one_vector(client: httpx.Client, expected: Any) -> None:
    """Its length is not one, its direction is the same."""
    answer = client.post("/api/embeddings", json={"model": "tiny", "prompt": TEXTS[0]}).json()
    vector = np.float32(answer["embedding"])
    assert np.allclose(vector / np.linalg.norm(vector), expected[0], atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
        ("/v1/embeddings", {"input": [1, 2]}, "check_embedding_ctx_length=False"),
        ("/v1/embeddings", {"input": []}, "empty"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "64"),
        ("/v1/embeddings", {"input": "a", "temperature": 1}, "temperature"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "base64"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "2048"),
        ("/v1/embeddings", {"input": "x" * 999}, "256"),
        ("/v1/embeddings", {"model": "none", "input": "a"}, "tiny"),
        ("/api/embed", {"input": "a", "options": {"topk": 3}}, "topk"),
        ("/api/embed", {"input": "x" * 999, "truncate": False}, "256"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: httpx.Client, path: str, body: dict[str, Any], words: str
) -> None:
    """An error says what is allowed."""
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 404) and words in answer.text


def test_ollama_cuts_long_texts_off_unless_told_otherwise(client: httpx.Client) -> None:
    """``truncate`` is true by default there."""
    answer = client.post("/api/embed", json={"input": "x" * 999})
    assert answer.status_code == 200 and answer.json()["prompt_eval_count"] == 256


def test_a_slip_is_told_with_what_is_allowed_here(client: httpx.Client) -> None:
    """Options of texts are none of vectors; a field that is missing is named."""
    answer = client.post("/v1/embeddings", json={"input": "a", "temperature": 1})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "temperature"
    assert "dimensions" in answer.json()["error"]["message"]
    assert "min_p" not in answer.json()["error"]["message"]
    missing = client.post("/v1/embeddings", json={}).json()["error"]
    assert (missing["param"], missing["message"]) == ("input", "input: missing")
