"""Streams that are lost and made anew: what a client gets is one stream, or an error."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.cluster.stream_replay import (
    DivergedError,
    SentStream,
    failure_event,
    lost_answer,
    with_seed,
)

SSE, LINES = b"text/event-stream; charset=utf-8", b"application/x-ndjson"


def chat_stream(name: str, texts: list[str], created: int = 7) -> list[bytes]:
    """Events of a chat's stream, as one replica would make them."""
    head = {"id": name, "object": "chat.completion.chunk", "created": created}
    deltas: list[dict[str, Any]] = [{"role": "assistant"}, *({"content": text} for text in texts)]
    events = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    usage = {**head, "choices": [], "usage": {"cached_tokens": random.randrange(99)}}
    data = [json.dumps(event, separators=(",", ":")) for event in (*events, usage)]
    return [f"data: {each}\n\n".encode() for each in data] + [b"data: [DONE]\n\n"]


def through(media_type: bytes, first: list[bytes], second: list[bytes], num_sent: int) -> bytes:
    """What a client gets of a stream that is lost after so many bodies, and made anew."""
    sent = SentStream(media_type)
    for body in first[:num_sent]:
        sent.note(body)
    replay = sent.again()
    rest = [replay.new(body) for body in second]
    return b"".join([*first[:num_sent], *rest, replay.end()])


@given(st.lists(st.text(max_size=8), max_size=12), st.data())
@settings(max_examples=80, deadline=None)
def test_a_stream_goes_on_as_if_nothing_had_been(texts: list[str], data: st.DataObject) -> None:
    """Wherever it was lost, however its bytes come, under the names that the client knows."""
    first = chat_stream("chatcmpl-a", texts, created=1700000001)
    second = chat_stream("chatcmpl-b", texts, created=1700000099)
    num_sent = data.draw(st.integers(0, len(first)))
    joined = b"".join(second)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(joined)), max_size=6)))
    ends = [0, *cuts, len(joined)]
    pieces = [joined[start:end] for start, end in itertools.pairwise(ends)]
    found = through(SSE, first, [b": waiting\n\n", *pieces], num_sent)
    assert b": waiting\n\n" in found
    clean = found.replace(b": waiting\n\n", b"")
    wanted = b"".join(first)
    if num_sent == 0:
        # Nothing is known of the lost stream's names.
        wanted = joined
    assert _without_usage(clean) == _without_usage(wanted)


def _without_usage(stream: bytes) -> list[bytes]:
    return [event for event in stream.split(b"\n\n") if b'"usage"' not in event]


def test_a_stream_that_is_lost_twice() -> None:
    """What was passed on of the second is what the third goes on from."""
    streams = [chat_stream(name, list("abcdef")) for name in ("x", "y", "z")]
    sent = SentStream(SSE)
    for body in streams[0][:3]:
        sent.note(body)
    for stream, end in ((streams[1], 5), (streams[2], 99)):
        replay = sent.again()
        for body in stream[:end]:
            new = replay.new(body)
            sent.note(new)
    assert b'"z"' not in new and sent.again()._digests == _digests(streams[0])


def _digests(stream: list[bytes]) -> list[bytes]:
    sent = SentStream(SSE)
    for body in stream:
        sent.note(body)
    return sent.again()._digests


def test_another_stream_is_told_from_the_same() -> None:
    """Nothing is passed on of a text that differs, or that ends before the lost one did."""
    first = chat_stream("a", ["One", " two", " three"])
    for other in (["One", " too", " three"], ["One two", " three"]):
        with pytest.raises(DivergedError, match="another one"):
            through(SSE, first, chat_stream("b", other), 4)
    with pytest.raises(DivergedError, match="shorter"):
        through(SSE, first, chat_stream("b", ["One", " two", " three"])[:2], 4)
    sent = SentStream(SSE)
    sent.note(first[0][:20])
    with pytest.raises(DivergedError, match="middle of an event"):
        sent.again()


def test_lines_with_times_of_their_own_are_the_same() -> None:
    """Ollama's lines have the moment in each, and their ends have durations."""

    def lines(second: int) -> list[bytes]:
        moment = f"2026-01-01T00:00:{second:02}.5Z"
        head = {"model": "m", "created_at": moment}
        parts: list[dict[str, Any]] = [{"response": f"{n} {n}"} for n in range(5)]
        parts.append({"done": True, "total_duration": second})
        return [json.dumps({**head, **part}, separators=(",", ":")).encode() + b"\n"
                for part in parts]  # fmt: skip

    found = through(LINES, lines(1), lines(9), 3)
    texts = [json.loads(line).get("response") for line in found.splitlines()]
    assert texts == [*(f"{n} {n}" for n in range(5)), None]


def test_an_answer_without_events_is_made_anew_as_a_whole() -> None:
    """If nothing of it was sent; else it cannot be."""
    assert through(b"application/json", [], [b'{"a":', b"1}"], 0) == b'{"a":1}'
    with pytest.raises(DivergedError):
        through(b"application/json", [b'{"a":'], [b'{"a":1}'], 1)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", {"messages": []}, {"messages": [], "seed": 5}),
        ("/v1/messages", {"seed": None}, {"seed": 5}),
        ("/v1/responses", {"seed": -1, "input": "a"}, {"seed": 5, "input": "a"}),
        ("/v1/completions", {"seed": 3}, {"seed": 3}),
        ("/api/chat", {"model": "a"}, {"model": "a", "options": {"seed": 5}}),
        ("/api/generate", {"options": {"seed": 0}}, {"options": {"seed": 0}}),
        ("/api/generate", {"options": [1]}, {"options": [1]}),
        ("/v1/embeddings", {"input": "a"}, {"input": "a"}),
        ("/v1/completions", [1], [1]),
    ],
)
def test_a_text_without_a_seed_gets_one(path: str, body: object, expected: object) -> None:
    """Where its protocol has it; requests that are no texts, or wrong, stay as they are."""
    assert json.loads(with_seed(path, json.dumps(body).encode(), 5)) == expected


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 10000])
def test_what_is_no_request_stays_as_it_is(body: bytes) -> None:
    """Replicas say what is wrong with it."""
    assert with_seed("/v1/completions", body, 5) == body


@pytest.mark.parametrize(
    ("path", "media_type", "expected"),
    [
        ("/v1/chat/completions", SSE, b'data: {"error":{"message":"the replica'),
        ("/v1/messages", SSE, b'event: error\ndata: {"type":"error","error":{"type":"over'),
        ("/v1/responses", SSE, b'event: error\ndata: {"type":"error","code":"replica_lost"'),
        ("/api/chat", LINES, b'{"error":"the replica that made this answer was lost, and why"}\n'),
        ("/v1/models", b"application/json", b""),
    ],
)
def test_a_lost_stream_ends_with_an_error_of_its_protocol(
    path: str, media_type: bytes, expected: bytes
) -> None:
    """Not with a connection that is cut."""
    event = failure_event(path, media_type, lost_answer("why"))
    assert event.startswith(expected) and bool(event) == bool(expected)
