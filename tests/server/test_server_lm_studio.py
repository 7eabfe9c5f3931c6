"""LM Studio's protocol over real sockets: a tiny random model."""

from __future__ import annotations

import httpx


def test_models_say_whether_they_are_loaded(client: httpx.Client) -> None:
    """With the context that they have then; by name, too."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/v1/chat/completions", json=chat).status_code == 200
    (told,) = client.get("/api/v0/models").json()["data"]
    assert (told["id"], told["type"], told["compatibility_type"]) == ("tiny", "llm", "gguf")
    assert told["state"] == "loaded" and told["loaded_context_length"] > 0
    assert client.get("/api/v0/models/tiny").json() == told
    (newer,) = client.get("/api/v1/models").json()["models"]
    (loaded,) = newer["loaded_instances"]
    assert (newer["key"], loaded["id"], newer["format"]) == ("tiny", "tiny", "gguf")
    assert loaded["config"]["context_length"] == told["loaded_context_length"]
    assert newer["max_context_length"] == told["max_context_length"]
    assert newer["size_bytes"] > 0 and newer["quantization"]["bits_per_weight"] > 0


def test_texts_are_those_of_openais_protocol(client: httpx.Client) -> None:
    """Texts under this protocol's paths are OpenAI's, and so is the shape of errors."""
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    assert client.post("/api/v0/chat/completions", json=chat).json()["choices"]
    assert client.post("/api/v0/completions", json={"prompt": "a"}).json()["choices"]
    assert client.post("/api/v0/embeddings", json={"input": "a"}).json()["data"]
    assert client.get("/api/v0/models/none").json()["error"]["message"]


def test_anthropics_clients_list_models_in_their_shape(client: httpx.Client) -> None:
    """At the path that OpenAI's clients use, told apart by their header."""
    headers = {"anthropic-version": "2023-06-01"}
    page = client.get("/v1/models", headers=headers).json()
    (told,) = page["data"]
    assert (told["type"], told["id"], page["has_more"]) == ("model", "tiny", False)
    assert page["first_id"] == page["last_id"] == "tiny"
    assert client.get("/v1/models/tiny", headers=headers).json() == told
