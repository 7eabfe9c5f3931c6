"""Which requests go to the same replica, and a replica's application without Ray."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.cluster.affinity import ResponseKeys, affinity_key
from edgellama.cluster.ray_serve import ReplicaOptions
from edgellama.cluster.served_application import ServedApplication, plain_scope
from edgellama.quant.errors import InvalidOptionError, ModelNotFoundError
from edgellama.server.settings import Limits, ServerSettings

HI, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
REPLY, MORE = {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}
OTHER = {"role": "user", "content": "Something else"}


def key_of(body: Any, responses: ResponseKeys | None = None, **headers: str) -> str | None:
    """The key of a body's JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return affinity_key(named, json.dumps(body).encode(), responses or ResponseKeys())


@pytest.mark.parametrize(
    ("first", "later", "another"),
    [
        ({"messages": [SYSTEM, HI]}, {"messages": [SYSTEM, HI, REPLY, MORE], "seed": 1},
         {"messages": [SYSTEM, OTHER]}),
        ({"system": "A", "messages": [HI]}, {"system": "A", "messages": [HI, REPLY, MORE]},
         {"system": "B", "messages": [HI]}),
        ({"input": "Hi", "instructions": "A"}, {"instructions": "A", "input": "Hi", "stream": True},
         {"input": "Ho", "instructions": "A"}),
        ({"input": [HI]}, {"input": [HI, REPLY, MORE]}, {"input": [OTHER]}),
        ({"prompt": "x" * 600}, {"prompt": "x" * 800}, {"prompt": "y" * 600}),
        ({"prompt_cache_key": "a", "messages": [HI]},
         {"prompt_cache_key": "a", "messages": [OTHER]}, {"prompt_cache_key": "b"}),
        ({"user": "a", "messages": [HI]}, {"user": "a", "messages": [OTHER]}, {"user": "b"}),
        ({"model": "m", "messages": [HI]}, {"messages": [HI, REPLY], "model": "m"},
         {"model": "n", "messages": [HI]}),
        ({"prompt": [1, 2]}, {"prompt": [1, 2]}, {"prompt": [1, 3]}),
    ],
)  # fmt: skip
def test_a_conversation_keeps_its_key(first: Any, later: Any, another: Any) -> None:
    """While it grows, whatever else changes; another conversation has another one."""
    assert key_of(first) == key_of(later) is not None
    assert key_of(first) != key_of(another)


def test_a_header_goes_before_all_else() -> None:
    """A client that knows better says so."""
    keys = {key_of({"messages": [message]}, x_session_id="7") for message in (HI, OTHER)}
    assert len(keys) == 1 and keys != {key_of({"messages": [HI]})}


def test_a_response_goes_on_where_it_was_made() -> None:
    """Its id is known for as long as there is room for it."""
    responses = ResponseKeys(most=2)
    for number in range(3):
        responses.note(f"resp_{number}", f"key {number}")
    later = [{"previous_response_id": f"resp_{number}", "input": "More"} for number in range(3)]
    keys = [key_of(each, responses) for each in later]
    assert keys[1:] == ["key 1", "key 2"]
    assert keys[0] == key_of({"input": "More"})


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"messages": value, "input": value, "system": value}).encode()
))  # fmt: skip
def test_any_body_has_a_key_or_none(body: bytes) -> None:
    """Broken and strange ones go anywhere, and are told what is wrong by the replica."""
    key = affinity_key({}, body, ResponseKeys())
    assert key is None or len(key) == 32
    assert key == affinity_key({}, body, ResponseKeys())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "models is missing"),
        ({"models": "smollm2", "paralel": 2}, "'paralel' is no option of a replica"),
        ({"models": "smollm2", "parallel": 0}, "parallel is 0"),
        ({"models": "smollm2", "max_waiting": "many"}, "max_waiting is 'many'"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], words: str) -> None:
    """Before anything is deployed, with what is allowed."""
    with pytest.raises(InvalidOptionError, match=words):
        ReplicaOptions.of(arguments)


def test_a_model_that_is_not_there_is_said() -> None:
    """By the replica that looks for it on its machine."""
    with pytest.raises(ModelNotFoundError):
        ReplicaOptions.of({"models": ["nowhere.gguf"]}).settings()


def scope_of(path: str, body: bytes) -> dict[str, Any]:
    """A request as a server hands it on."""
    headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "app": object(),
    }  # fmt: skip


def test_a_scope_tells_nothing_of_pages() -> None:
    """A replica knows no list of pages, and would refuse those that the front has let through."""
    scope = scope_of("/v1/models", b"")
    told = [(b"Origin", b"https://a.example"), (b"Sec-Fetch-Site", b"cross-site")]
    plain = plain_scope(
        {**scope, "headers": [*told, *scope["headers"], (b"sec-fetch-mode", b"cors")]}
    )
    assert plain["headers"] == scope["headers"] and "app" not in plain


async def texts_of(application: ServedApplication, body: Any, most: int | None = None) -> bytes:
    """The bytes of an answer, or of its first ``most`` messages."""
    data = json.dumps(body).encode()
    scope = plain_scope(scope_of("/v1/chat/completions", data))
    found, number = b"", 0
    answer = application.answer(pickle.loads(pickle.dumps(scope)), data)
    async for message in answer:
        found += pickle.loads(pickle.dumps(message)).get("body", b"")
        number += 1
        if number == most:
            await answer.aclose()  # type: ignore[attr-defined]
            break
    return found


def test_an_application_answers_without_a_socket(tiny_path: Path, tmp_path: Path) -> None:
    """Whole answers, streams, errors; who leaves ends its text, and the end lets go of all."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, limits=Limits(parallel=1),
        store=tmp_path / "responses.sqlite",
    )  # fmt: skip

    async def run() -> None:
        application = ServedApplication(settings)
        await application.start()
        asked = {"messages": [HI], "max_tokens": 5, "temperature": 0, "ignore_eos": True}
        whole = json.loads(await texts_of(application, asked))["choices"][0]["message"]["content"]
        stream = await texts_of(application, {**asked, "stream": True})
        events = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: {")]
        deltas = [json.loads(event)["choices"][0]["delta"].get("content") for event in events]
        assert "".join(delta or "" for delta in deltas) == whole
        assert b"temperature" in await texts_of(application, {**asked, "temperature": -1})
        assert await texts_of(application, {**asked, "stream": True, "max_tokens": None}, most=3)
        # One text at a time: this one could not begin before the one that was left has ended.
        assert await texts_of(application, asked)
        await application.stop()
        assert not application._running

    asyncio.run(run())


def test_a_missing_package_of_the_server_is_named() -> None:
    """Ray Serve has no msgspec of its own; who lacks it reads what to install."""
    lines = "import sys; sys.modules['msgspec'] = None; import edgellama.cluster.ray_serve"
    found = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert "EdgellamaError: the server needs msgspec; run: " in last
    assert last.endswith("-m pip install msgspec")
