"""ollama-python."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clients.conftest import Served

ollama = pytest.importorskip("ollama")
ASKED: Any = [{"role": "user", "content": "Name a colour."}]
GREEDY = {"temperature": 0, "num_predict": 12, "num_ctx": 2048}


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    """A client with the key."""
    return ollama.Client(served.url, headers={"authorization": f"Bearer {served.key}"})


def test_models(client: Any) -> None:
    """Lists, details, what is loaded, and a pull of what is there."""
    assert "smollm2:latest" in [model.model for model in client.list().models]
    shown = client.show("smollm2")
    assert shown.modelinfo["llama.context_length"] == 2048 and shown.details.family == "llama"
    assert "completion" in shown.capabilities
    assert [line.status for line in client.pull("smollm2", stream=True)][-1] == "success"
    client.generate("smollm2", "Hi", options=GREEDY)
    assert client.ps().models[0].model == "smollm2:latest"


def test_a_model_of_ones_own(client: Any) -> None:
    """A model of one's own can be made, used, copied and deleted, and is never pushed."""
    assert client.create("clients-test", from_="smollm2", system="Be brief.").status == "success"
    try:
        shown = client.show("clients-test")
        assert shown.system == "Be brief." if hasattr(shown, "system") else shown.modelfile
        assert client.chat("clients-test", ASKED, options=GREEDY).message.content
        client.copy("clients-test", "clients-copy")
        client.delete("clients-copy")
        with pytest.raises(ollama.ResponseError, match="pushes no models"):
            client.push("clients-test")
    finally:
        client.delete("clients-test")
    assert "clients-test:latest" not in [model.model for model in client.list().models]


def test_chat(client: Any) -> None:
    """Whole and in pieces give the same text, with figures."""
    whole = client.chat("smollm2", ASKED, options=GREEDY, keep_alive="10m")
    pieces = list(client.chat("smollm2", ASKED, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert pieces[-1].done_reason == whole.done_reason and whole.eval_count == pieces[-1].eval_count
    assert whole.total_duration > 0


def test_generate(client: Any) -> None:
    """A context goes on, raw prompts stay as they are."""
    first = client.generate("smollm2", "My name is Ada.", options=GREEDY)
    second = client.generate("smollm2", "Go on.", options=GREEDY, context=first.context)
    assert second.prompt_eval_count > first.prompt_eval_count
    raw = client.generate("smollm2", "Once upon a time", raw=True, options=GREEDY)
    assert raw.response and raw.prompt_eval_count == 4


def test_embed(client: Any) -> None:
    """Several at once, and the older call."""
    found = client.embed("smollm2", ["A cat.", "A dog."])
    assert [len(vector) for vector in found.embeddings] == [576, 576]
    assert len(client.embeddings("smollm2", "A cat.").embedding) == 576


def test_errors(client: Any) -> None:
    """The client's error has our words."""
    with pytest.raises(ollama.ResponseError, match="no model 'none'") as caught:
        client.chat("none", ASKED)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="hf:OWNER/REPO"):
        client.pull("../../etc/passwd")


def test_async_client(served: Served) -> None:
    """The client for event loops gets the same."""

    async def main() -> str:
        headers = {"authorization": f"Bearer {served.key}"}
        client = ollama.AsyncClient(served.url, headers=headers)
        stream = await client.chat("smollm2", ASKED, options=GREEDY, stream=True)
        return "".join([piece.message.content async for piece in stream])

    assert asyncio.run(main())


def test_structured_answers_and_tools(client: Any) -> None:
    """A schema holds, and a Python function is a tool."""
    import json

    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: The first number.
            b: The second number.
        """
        return a + b

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    options = {"temperature": 0, "num_predict": 60}
    answer = client.chat("smollm2", ASKED, format=schema, options=options)
    assert "n" in json.loads(answer.message.content)
    assert json.loads(client.chat("smollm2", ASKED, format="json", options=options).message.content)
    asked: Any = [{"role": "user", "content": "What is 2 + 3? Use the tool."}]
    called = client.chat("smollm2", asked, tools=[add], options=options)
    assert called.message.content or called.message.tool_calls
