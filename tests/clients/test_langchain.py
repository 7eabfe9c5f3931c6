"""LangChain's models for OpenAI and for Ollama."""

from __future__ import annotations

from typing import Any

import pytest

from clients.conftest import Served


def test_chat_openai(served: Served) -> None:
    """invoke, stream, and usage; LangChain names the limit max_completion_tokens."""
    module = pytest.importorskip("langchain_openai")
    model = module.ChatOpenAI(
        model="smollm2",
        base_url=served.openai_url,
        api_key=served.key,
        temperature=0,
        max_tokens=12,
        stream_usage=True,
    )
    whole = model.invoke([("system", "Be brief."), ("human", "Name a colour.")])
    pieces = list(model.stream([("system", "Be brief."), ("human", "Name a colour.")]))
    assert "".join(piece.content for piece in pieces) == whole.content != ""
    assert whole.usage_metadata["output_tokens"] <= 12
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata)


def test_embeddings_openai(served: Served) -> None:
    """Texts work; token ids of another vocabulary are refused with what helps."""
    module = pytest.importorskip("langchain_openai")
    options: Any = {"model": "smollm2", "base_url": served.openai_url, "api_key": served.key}
    embeddings = module.OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["A cat.", "A dog."])) == 2


def test_chat_ollama(served: Served) -> None:
    """invoke, stream and embeddings work over Ollama's protocol."""
    module = pytest.importorskip("langchain_ollama")
    headers = {"headers": {"authorization": f"Bearer {served.key}"}}
    options: Any = {"model": "smollm2", "base_url": served.url, "client_kwargs": headers}
    model = module.ChatOllama(**options, temperature=0, num_predict=12)
    whole = model.invoke("Name a colour.")
    pieces = list(model.stream("Name a colour."))
    assert "".join(piece.content for piece in pieces) == whole.content != ""
    assert len(module.OllamaEmbeddings(**options).embed_query("A cat.")) == 576


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
def test_structured_answers_and_tools(served: Served, protocol: str) -> None:
    """with_structured_output and bind_tools give what they promise."""
    import pydantic

    class Person(pydantic.BaseModel):
        """A person."""

        name: str
        age: int

    options: Any = {"model": "smollm2", "temperature": 0}
    if protocol == "openai":
        module = pytest.importorskip("langchain_openai")
        options |= {"base_url": served.openai_url, "api_key": served.key, "max_tokens": 400}
        model = module.ChatOpenAI(**options)
        bound = model.bind_tools([Person], tool_choice="required")
        assert bound.invoke("Ada is 36.").tool_calls[0]["name"] == "Person"
    else:
        module = pytest.importorskip("langchain_ollama")
        headers = {"headers": {"authorization": f"Bearer {served.key}"}}
        options |= {"base_url": served.url, "client_kwargs": headers, "num_predict": 100}
        model = module.ChatOllama(**options)
        assert model.bind_tools([Person]).invoke("Ada is 36.") is not None
    found = model.with_structured_output(Person, method="json_schema").invoke("Ada is 36.")
    assert isinstance(found, Person)
