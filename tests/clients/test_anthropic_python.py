"""anthropic's Python client."""

from __future__ import annotations

from typing import Any

import pytest

from clients.conftest import Served

anthropic = pytest.importorskip("anthropic")
ASKED: Any = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    """A client with the key."""
    return anthropic.Anthropic(base_url=served.url, api_key=served.key, max_retries=0)


def test_messages(client: Any) -> None:
    """Whole, by the stream helper, and as raw events."""
    options: Any = {"model": "smollm2", "messages": ASKED, "max_tokens": 12}
    options["extra_body"] = {"temperature": 0}
    whole = client.messages.create(**options, system="Answer in one word.")
    assert whole.content[0].text and whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**options, system="Answer in one word.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    events = [event.type for event in client.messages.create(**options, stream=True)]
    assert events[0] == "message_start" and events[-1] == "message_stop"


def test_count_tokens(client: Any) -> None:
    """As many as the message then has."""
    counted = client.messages.count_tokens(model="smollm2", messages=ASKED)
    usage = client.messages.create(model="smollm2", messages=ASKED, max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors(client: Any, served: Served) -> None:
    """Each status is the client's own class."""
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="none", messages=ASKED, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="smollm2", messages=[], max_tokens=1)
    with pytest.raises(anthropic.AuthenticationError):
        wrong = anthropic.Anthropic(base_url=served.url, api_key="wrong")
        wrong.messages.create(model="smollm2", messages=ASKED, max_tokens=1)
