"""Replicas on Ray Serve, on a cluster of this machine; ``python -m pytest -m ray``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from places import EXAMPLES
from reference.tiny_models import TinyLlama, write_tiny_llama

pytestmark = pytest.mark.ray
CHAT = "/v1/chat/completions"
KEY = "secret"
KNOWN = {"authorization": f"Bearer {KEY}"}
EXAMPLE = EXAMPLES / "replicas.yaml"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Clients of two replicas of a tiny model with a long context."""
    pytest.importorskip("ray.serve")
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from edgellama.cluster.ray_serve import ReplicaOptions, replicated

    folder = tmp_path_factory.mktemp("replicas")
    tiny_path = write_tiny_llama(folder / "tiny.gguf", TinyLlama(context_length=9000))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = ReplicaOptions.of(
        {"models": str(tiny_path), "parallel": 2, "api_keys": [KEY], "cors": ["https://a.example"]}
    )
    tiny = {"num_cpus": 0.1}
    serve.run(replicated(options, num_replicas=2, ray_actor_options=tiny), blocking=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KNOWN, timeout=60) as client:
        yield client
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def ask(client: httpx.Client, text: str, **fields: Any) -> httpx.Response:
    """The answer to a short chat."""
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 4, "temperature": 0, **fields}
    return client.post(CHAT, json=body)


def replica_of(response: httpx.Response) -> str:
    """Which replica has answered."""
    assert response.status_code == 200, response.text
    return response.headers["x-edgellama-replica"]


def replica_pids() -> set[int]:
    """Processes of replicas on this machine."""
    found = psutil.process_iter(["pid", "cmdline"])
    return {p.pid for p in found if ":Replica" in " ".join(p.info["cmdline"] or ())}


def test_a_conversation_stays_with_its_replica(client: httpx.Client) -> None:
    """Many conversations use both; what clients name goes together, and responses go on."""
    texts = [f"Question {number}" for number in range(12)]
    first = [replica_of(ask(client, text)) for text in texts]
    assert len(set(first)) == 2
    for text, replica in zip(texts, first, strict=True):
        reply = [{"role": "assistant", "content": "So?"}, {"role": "user", "content": "More"}]
        messages = [{"role": "user", "content": text}, *reply]
        later = client.post(CHAT, json={"messages": messages, "max_tokens": 2, "temperature": 1})
        assert replica_of(later) == replica
    named = {replica_of(ask(client, text, prompt_cache_key="x")) for text in texts}
    assert len(named) == 1


def test_responses_go_on_where_they_were_made(client: httpx.Client) -> None:
    """A chain of responses, whose later inputs say nothing of the first one, has one replica."""
    for number in range(4):
        body: dict[str, Any] = {"input": f"Start {number}", "max_output_tokens": 4}
        replicas = set()
        for _ in range(3):
            response = client.post("/v1/responses", json=body)
            replicas.add(replica_of(response))
            body = {**body, "input": "Go on", "previous_response_id": response.json()["id"]}
        assert len(replicas) == 1


def test_protocols_streams_and_errors_come_through(client: httpx.Client) -> None:
    """Answers and streams are those of one server, and errors have the shape of each protocol."""
    whole = ask(client, "Hi", max_tokens=8).json()["choices"][0]["message"]["content"]
    events = ask(client, "Hi", max_tokens=8, stream=True).text.splitlines()
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events
              if event.startswith("data: {")]  # fmt: skip
    assert "".join(delta.get("content") or "" for delta in deltas) == whole
    assert events[-2] == "data: [DONE]"
    assert ask(client, "Hi", temperature=-1).status_code == 400
    for path in ("/v1/messages", "/v1//messages/"):
        assert client.post(path, content=b"{").json()["type"] == "error"
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    huge = client.post(CHAT, content=b"x" * 21_000_000)
    assert huge.status_code == 413 and "allowed" in huge.text


def test_who_may_call_is_decided_at_the_front(client: httpx.Client) -> None:
    """Before a body is read; a page of the list has its header once, another one is refused."""
    huge = b"x" * 21_000_000
    for path, shape in ((CHAT, "error"), ("/v1/messages", "type"), ("/api/chat", "error")):
        refused = httpx.post(f"{client.base_url}{path}", content=huge)
        assert refused.status_code == 401 and shape in refused.json()
    page = {"origin": "https://a.example", "sec-fetch-site": "cross-site"}
    allowed = client.get("/v1/models", headers={**page, "sec-fetch-mode": "cors"})
    assert allowed.status_code == 200
    assert allowed.headers.get_list("access-control-allow-origin") == ["https://a.example"]
    foreign = client.get("/v1/models", headers={"origin": "https://b.example"})
    assert foreign.status_code == 403


def test_a_client_that_leaves_ends_its_text(client: httpx.Client) -> None:
    """More streams are left than run at once, and later ones have their turn."""
    for number in range(6):
        messages = [{"role": "user", "content": "Hi"}]
        body = {"messages": messages, "stream": True, "ignore_eos": True}
        with client.stream("POST", CHAT, json={**body, "seed": number}) as response:
            next(response.iter_lines())
    assert replica_of(ask(client, "Hi"))


def test_a_killed_replica_loses_no_later_request(client: httpx.Client) -> None:
    """Answers that have not begun are asked of another one; another one takes its place."""
    before = replica_pids()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    assert {ask(client, f"Text {number}").status_code for number in range(8)} == {200}
    deadline = time.monotonic() + 60
    while len(replica_pids()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(replica_pids() - before) == 1


LONG = {"max_tokens": 2500, "ignore_eos": True, "stream": True}
STREAMS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], **LONG},
    "/v1/completions": {"prompt": "Hi", "temperature": 1, **LONG},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], **LONG},
    "/api/generate": {"model": "tiny", "prompt": "Hi",
                      "options": {"num_predict": 2500, "ignore_eos": True}},
}  # fmt: skip


def kill(replica: str) -> None:
    """End a replica's process by force."""
    import ray

    (name,) = [n for n in ray.util.list_named_actors(True) if n["name"].endswith(f"#{replica}")]
    ray.kill(ray.get_actor(name["name"], namespace=name["namespace"]))


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_outlives_its_replica(client: httpx.Client, path: str) -> None:
    """Another one goes on with it under the same names; the text is as long as was asked for."""
    lines: list[str] = []
    replica, num_lines = "", 0
    with client.stream("POST", path, json=STREAMS[path]) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            lines.append(line)
            if not replica and len(lines) > 60:
                replica = response.headers["x-edgellama-replica"]
                kill(replica)
                num_lines = len(lines)
    assert replica and len(lines) > num_lines > 60
    events = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
    assert not [event for event in events if "error" in event]
    assert len({event["id"] for event in events if "id" in event}) <= 1
    if path == "/v1/messages":
        assert events[-2]["usage"]["output_tokens"] == 2500
    elif path == "/api/generate":
        assert events[-1]["eval_count"] == 2500
    else:
        assert lines[-2] == "data: [DONE]"
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    deadline = time.monotonic() + 60
    while len(replica_pids()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)


def test_a_burst_loses_nothing(client: httpx.Client) -> None:
    """More clients than replicas make texts at once: all are answered."""
    statuses: list[int] = []

    def one(number: int) -> None:
        with httpx.Client(base_url=client.base_url, headers=KNOWN, timeout=60) as own:
            statuses.append(ask(own, f"Burst {number % 5}").status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 30


def test_the_example_runs(tmp_path: Path) -> None:
    """The configuration of the documentation, on another port, as its first line says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "replicas.yaml"
    text = EXAMPLE.read_text("utf-8")
    assert "port: 8000" in text and "autoscaling_config" in text
    config.write_text(text.replace("port: 8000", f"port: {port}"), "utf-8")
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    # A cluster of its own, beside the one of the other tests.
    local = {**os.environ, "RAY_ADDRESS": "local"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=local)
    try:
        deadline = time.monotonic() + 90
        status = 0
        while status != 200 and time.monotonic() < deadline:
            time.sleep(0.5)
            with contextlib.suppress(httpx.HTTPError):
                status = httpx.get(f"http://127.0.0.1:{port}/health").status_code
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert replica_of(ask(client, "Hi")), (tmp_path / "log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
