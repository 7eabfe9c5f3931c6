"""The page's files and routes over real sockets: what is sent, kept, found and refused."""

from __future__ import annotations

import asyncio
import http.client
import re
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.patience import PATIENCE_S, until
from harness.servers import RunningServer, running_server, sse_events

from edgellama.generation.chat.conversation import Conversation
from edgellama.generation.results import Chunk
from edgellama.server.answers.events import Piece
from edgellama.server.browser import chat as page_chat
from edgellama.server.browser.chat import ChatFields, ReplyWriter, new_turn
from edgellama.server.browser.files import FOLDER, TYPES, page_files
from edgellama.server.models.model_shelf import MODEST_CONTEXT
from edgellama.server.settings import ServerSettings
from edgellama.server.stores import page_conversations
from edgellama.server.stores.page_conversations import conversation_file, whole

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = f"/page/files/{page_files().version}"
XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'{{7*7}}\x00"
GREEDY = {"temperature": 0, "max_tokens": 4}


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """A client without conversations."""
    with server.client() as client:
        for each in client.get("/page/conversations").json()["conversations"]:
            client.delete(f"/page/conversations/{each['id']}")
        yield client


def ask(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """The events of a reply."""
    answer = client.post("/page/chat", json={**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    return [content for _, content in sse_events(answer.text)]


def shown(client: httpx.Client, name: str) -> dict[str, Any]:
    """A conversation as the page reads it."""
    found: dict[str, Any] = client.get(f"/page/conversations/{name}").json()
    return found


def test_browsers_get_the_page_and_others_the_old_words(client: httpx.Client) -> None:
    """What accepts HTML gets the page; Ollama's clients read what they always did."""
    page = client.get("/", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    assert "<!doctype html>" in page.text and "{files}" not in page.text
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        plain = client.get("/", headers=accept)
        assert plain.text == "edgellama is running"
        assert "Accept" in plain.headers["vary"] and "Accept" in page.headers["vary"]
    assert client.head("/").status_code == 200


def test_the_policy_lets_nothing_foreign_run(client: httpx.Client) -> None:
    """The page forbids inline scripts and styles, other hosts, frames, and markup made of texts."""
    for path in ("/", f"{FILES}/app.js", f"{FILES}/icon.svg"):
        headers = client.get(path, headers=BROWSER).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    index = client.get("/", headers=BROWSER).text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", index)


def test_everything_that_files_name_is_there(client: httpx.Client) -> None:
    """Whatever the index and the modules name lies in the folder: nothing comes from elsewhere."""
    index = client.get("/", headers=BROWSER).text
    named = re.findall(r'(?:src|href)="([^"#]+)"', index)
    assert len(named) >= 4
    for name in named:
        assert name.startswith(f"{FILES}/")
        answer = client.get(name)
        assert answer.status_code == 200 and answer.headers["cache-control"].endswith("immutable")
    for path in FOLDER.rglob("*.js"):
        for name in re.findall(r'^import .*?"(\.[^"]+)";$', path.read_text("utf-8"), re.M):
            place = (path.parent / name).resolve().relative_to(FOLDER.resolve()).as_posix()
            assert (
                client.get(f"{FILES}/{place}").headers["content-type"].startswith("text/javascript")
            )


def test_vendored_libraries_have_their_licences() -> None:
    """Beside every library lies what it may be used under; every file is of a kind that is sent."""
    vendored = FOLDER / "vendor"
    for path in vendored.glob("*.js"):
        assert len((vendored / f"{path.stem}-LICENSE.txt").read_text("utf-8")) > 500
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} <= {*TYPES, ".html"}


@pytest.mark.parametrize(
    "name",
    [
        *("../security.py", "..%2fsecurity.py", "%2e%2e/security.py", "/etc/passwd", "", "."),
        *("vendor", "vendor/", "vendor/../app.js", "app.js%00", "app.js/", "APP.JS", "index.html"),
        *("..\\security.py", "%5c..%5csecurity.py", "vendor%2fmarked.js%2f..%2f..", "__init__.py"),
    ],
)
def test_only_listed_files_are_sent(server: RunningServer, name: str) -> None:
    """A name is looked up in a list, never taken for a path."""
    for folder in (FILES, "/page/files/0123456789abcdef"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", f"{folder}/{name}")
        answer = connection.getresponse()
        assert answer.status == 404 and b"import" not in answer.read()
        connection.close()


def test_a_reply_streams_and_is_kept(client: httpx.Client) -> None:
    """Events begin with both messages, bring the text, end with figures; then it can be read."""
    begun, *pieces, end = ask(client, content="Hello  there", system="Be kind", model="tiny")
    assert begun["type"] == "begun" and begun["title"] == "Hello there"
    assert begun["messages"][-1]["details"] == {"model": "tiny"}
    text = "".join(each["text"] for each in pieces if each["type"] == "text")
    assert end["type"] == "end" and end["message"]["content"] == text
    details = end["message"]["details"]
    assert details["generated_tokens"] <= 4 and details["context_length"] == 256
    found = shown(client, begun["conversation"])
    assert [each["role"] for each in found["messages"]] == ["user", "assistant"]
    assert found["messages"][1] == end["message"] and found["leaf"] == end["message"]["id"]
    assert found["settings"] == {"model": "tiny", "system": "Be kind", "options": GREEDY}


def test_what_a_reply_waits_for_is_told_soon(server: RunningServer, client: httpx.Client) -> None:
    """The page says it before a text comes, more often than other streams say that they live."""
    assert ReplyWriter.ping_s < server.settings.ping_s
    queue = server.state.queue
    loop = server.server.servers[0].get_loop()
    queue.num_running += queue.width
    told: list[str] = []
    is_full = True
    try:
        body = {"content": "Hello", "model": "tiny", **GREEDY}
        with client.stream("POST", "/page/chat", json=body) as answer:
            for line in answer.iter_lines():
                told.append(line)
                if '"state"' in line and is_full:
                    is_full = False
                    queue.num_running -= queue.width
                    loop.call_soon_threadsafe(queue.advance)
    finally:
        queue.num_running -= queue.width if is_full else 0
    states = [line for line in told if '"state"' in line]
    assert any("waiting, position 1" in line for line in states)
    assert any('"end"' in line for line in told)


def test_edits_and_repetitions_are_branches(client: httpx.Client) -> None:
    """An edited message and another reply stand beside the first; nothing is lost."""
    begun, *_, end = ask(client, content="one")
    name, first = begun["conversation"], begun["messages"][0]["id"]
    ask(client, conversation=name, parent=end["message"]["id"], content="two")
    ask(client, conversation=name, parent=first)
    *_, edited = ask(client, conversation=name, parent=None, content="uno")
    messages = shown(client, name)["messages"]
    by_parent = [(each["role"], each["parent"]) for each in messages]
    assert by_parent.count(("assistant", first)) == 2
    assert [each["content"] for each in messages if each["parent"] is None] == ["one", "uno"]
    assert len(messages) == 7 and shown(client, name)["leaf"] == edited["message"]["id"]
    assert client.post(f"/page/conversations/{name}", json={"leaf": first}).status_code == 200
    assert shown(client, name)["leaf"] == first


def test_a_reply_is_gone_on_with(client: httpx.Client) -> None:
    """What was cut grows where it stands."""
    begun, *_, end = ask(client, content="Count", max_tokens=2)
    before = end["message"]
    *_, after = ask(client, conversation=begun["conversation"], parent=before["id"], goes_on=True)
    assert after["message"]["id"] == before["id"]
    assert after["message"]["content"].startswith(before["content"])
    assert len(shown(client, begun["conversation"])["messages"]) == 2


def test_every_word_of_a_search_must_be_there(client: httpx.Client) -> None:
    """In any message or the title, in any case and order; signs of SQL are letters."""
    ask(client, content="Über die Brücke, 100% sicher")
    ask(client, content="Another matter _ altogether'")

    def find(text: str) -> list[str]:
        answer = client.get("/page/conversations", params={"search": text})
        return [each["title"][:4] for each in answer.json()["conversations"]]

    assert find("") == ["Anot", "Über"]
    assert find("brücke ÜBER") == ["Über"] and find("brücke another") == []
    assert find("100%") == ["Über"] and find("_") == ["Anot"] and find("'") == ["Anot"]
    assert find("%") == ["Über"] and find("' OR 1=1 --") == []


def test_conversations_are_renamed_and_deleted(client: httpx.Client, server: RunningServer) -> None:
    """A title may change, never to nothing; what is deleted leaves no row behind."""
    begun, *_ = ask(client, content="a secret")
    path = f"/page/conversations/{begun['conversation']}"
    assert client.post(path, json={"title": "  A new \n name "}).status_code == 200
    assert client.get(path).json()["title"] == "A new name"
    assert client.post(path, json={"title": " "}).status_code == 400
    assert client.post(path, json={"leaf": "0"}).status_code == 404
    assert client.post(path, json={"created": 0}).status_code == 400
    assert client.delete(path).status_code == 200 and client.get(path).status_code == 404
    assert client.delete(path).status_code == 404
    assert server.settings.store is not None
    stored = server.settings.store.with_name("conversations.sqlite")
    connection = sqlite3.connect(stored)
    assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    connection.close()
    if sys.platform != "win32":
        assert stat.S_IMODE(stored.stat().st_mode) == 0o600


def test_what_was_exported_is_imported(client: httpx.Client) -> None:
    """All versions come back with the shown one, beside the conversation that they came from."""
    begun, *_ = ask(client, content="first")
    path = f"/page/conversations/{begun['conversation']}"
    question = begun["messages"][0]["id"]
    ask(client, conversation=begun["conversation"], parent=question)
    exported = client.get(path).json()
    exported["leaf"] = exported["messages"][1]["id"]
    exported["messages"][1]["details"] |= {"finish_reason": "writing", "hit": {"a": 1}}
    made = client.post("/page/conversations", json=exported)
    assert made.status_code == 200 and made.json()["id"] != exported["id"]
    found = client.get(f"/page/conversations/{made.json()['id']}").json()
    assert [each["content"] for each in found["messages"]] == [
        each["content"] for each in exported["messages"]
    ]
    ids = [each["id"] for each in found["messages"]]
    assert not set(ids) & {each["id"] for each in exported["messages"]}
    assert [each["parent"] for each in found["messages"]] == [None, ids[0], ids[0]]
    assert (found["leaf"], found["title"]) == (ids[1], exported["title"])
    assert "finish_reason" not in found["messages"][1]["details"]
    assert "hit" not in found["messages"][1]["details"]


MESSAGE = {"id": "a", "role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{**MESSAGE, "role": "system"}]}, "messages[0].role"),
        ({"messages": [{**MESSAGE, "content": None}]}, "messages[0].content"),
        ({"messages": [{**MESSAGE, "parent": "b"}, {**MESSAGE, "id": "b"}]}, "messages[0].parent"),
        ({"messages": [{**MESSAGE, "parent": "a"}]}, "messages[0].parent"),
        ({"messages": [MESSAGE, MESSAGE]}, "messages[1].id"),
        ({"messages": [{**MESSAGE, "details": {"tokens_per_second": "x"}}]}, "tokens_per_second"),
        ({"leaf": "b"}, "leaf"),
        ({"title": " "}, "title"),
        ({"settings": {"options": {"stop": {"a": 1}}}}, "settings.options.stop"),
        ({"settings": []}, "settings"),
    ],
)
def test_a_file_that_was_not_exported_is_refused(
    client: httpx.Client, changes: dict[str, Any], place: str
) -> None:
    """What is wrong is named, and nothing is kept of it."""
    before = client.get("/page/conversations").json()
    answer = client.post(
        "/page/conversations", json={"title": "t", "messages": [MESSAGE], **changes}
    )
    assert answer.status_code == 400 and place in answer.json()["error"]["message"]
    assert client.get("/page/conversations").json() == before


def test_what_is_said_stays_text(client: httpx.Client) -> None:
    """Markup is kept letter by letter, and sent as JSON alone."""
    begun, *_ = ask(client, content=XSS)
    answer = client.get(f"/page/conversations/{begun['conversation']}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["messages"][0]["content"] == XSS


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"content": 7}, 400),
        ({"content": "a", "temprature": 1}, 400),
        ({"content": "a", "temperature": -1}, 400),
        ({"content": "a", "schema": {"type": "nothing"}}, 400),
        ({"content": "a", "model": "../x"}, 404),
        ({"content": "a", "conversation": "none"}, 404),
        ({"content": "a", "parent": "none"}, 404),
        ({"parent": None, "goes_on": True}, 400),
    ],
)
def test_what_cannot_be_answered_keeps_nothing(
    client: httpx.Client, fields: dict[str, Any], status: int
) -> None:
    """An error before the first token is a status of its own, and leaves no conversation."""
    answer = client.post("/page/chat", json=fields)
    assert answer.status_code == status and answer.json()["error"]["message"]
    assert client.get("/page/conversations").json() == {"conversations": []}


def test_what_came_is_kept_when_the_client_leaves(client: httpx.Client) -> None:
    """A broken connection ends the reply; its beginning stays, and says so."""
    with client.stream("POST", "/page/chat", json={"content": "a", "temperature": 0}) as answer:
        lines = answer.iter_lines()
        head = next(line for line in lines if "begun" in line)
        next(line for line in lines if '"text"' in line)
    name = sse_events(head + "\n\n")[0][1]["conversation"]

    def last_reply() -> Any:
        reply = shown(client, name)["messages"][-1]
        return reply if reply["details"].get("finish_reason") != "writing" else None

    reply = until(last_reply)
    assert reply["details"]["finish_reason"] in ("cancelled", "context", "stop")
    assert reply["content"]


def test_a_schema_holds(client: httpx.Client) -> None:
    """The schema field makes JSON of the reply."""
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    *_, end = ask(client, content="a", schema=schema, max_tokens=60)
    assert re.fullmatch(r'\s*\{\s*"a"\s*:\s*1\s*\}\s*', end["message"]["content"])


def test_models_say_what_they_take(client: httpx.Client) -> None:
    """The picker's list has predicted memory, and the machine's tab what is loaded."""
    ask(client, content="a")
    (model,) = client.get("/page/models").json()["models"]
    assert model["name"] == "tiny" and model["is_loaded"]
    assert model["predicted_bytes"] > model["file_bytes"]

    def idle_machine() -> Any:
        found = client.get("/page/machine").json()
        return found if found["models"][0]["sessions"] == [] == found["answers"] else None

    # The reply's thread lets go of its session a moment after the last word.
    found = until(idle_machine)
    assert found["models"][0]["name"] == "tiny" and found["parallel"] == 4
    assert found["models"][0]["predicted_tokens"] == MODEST_CONTEXT
    assert found["totals"]["texts"] >= 1 and found["running"] == 0


def test_the_machine_tells_who_is_served(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a reply is made its model, what it waits for and its session are listed."""
    seen, reply = threading.Event(), Conversation.regenerate

    def held(self: Conversation, **options: Any) -> Any:
        assert seen.wait(PATIENCE_S)
        return reply(self, **options)

    monkeypatch.setattr(Conversation, "regenerate", held)
    with client.stream("POST", "/page/chat", json={**GREEDY, "content": "a"}) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"state"' in line)
        with httpx.Client(base_url=client.base_url) as other:
            found = other.get("/page/machine").json()
            (kept,) = other.get("/page/conversations").json()["conversations"]
            writing = shown(other, kept["id"])["messages"][-1]["details"]["finish_reason"]
        seen.set()
        assert any('"end"' in line for line in lines)
    assert found["answers"] == [{"model": "tiny", "state": "working"}]
    (session,) = found["models"][0]["sessions"]
    assert session["num_tokens"] == 0 and found["running"] == 1 and writing == "writing"


def test_the_weights_are_read_for_a_measure(client: httpx.Client) -> None:
    """The bandwidth of a model that is listed; of no other."""
    found = client.post("/page/read-speed", json={"model": "tiny"})
    assert found.json()["bytes_per_second"] > 0
    assert client.post("/page/read-speed", json={"model": "../x"}).status_code == 404
    assert client.post("/page/read-speed", json={}).status_code == 400


def test_the_key_guards_all_but_the_files(tiny_path: Path, tmp_path: Path) -> None:
    """Without the key the page itself is seen, and nothing that anybody said."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, api_keys=("secret",),
        store=tmp_path / "responses.sqlite",
    )  # fmt: skip
    with running_server(settings) as server, server.client() as client:
        assert client.get("/", headers=BROWSER).status_code == 200
        assert client.get(f"{FILES}/app.js").status_code == 200
        for path in ("conversations", "conversations/a", "models", "machine", "files/../models"):
            assert client.get(f"/page/{path}").status_code in (401, 404)
            assert "tiny" not in client.get(f"/page/{path}").text
        assert client.get("/page/conversations").status_code == 401
        assert client.post("/page/chat", json={"content": "a"}).status_code == 401
        evil = {"origin": "http://evil.example", "authorization": "Bearer secret"}
        assert client.post("/page/chat", json={"content": "a"}, headers=evil).status_code == 403
        assert client.get("/", headers={**BROWSER, "host": "evil.example"}).status_code == 403


def test_a_reply_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is in the file before the end, so that a server that is killed loses little."""
    monkeypatch.setattr(page_chat, "KEEP_EVERY_S", -1.0)
    store = conversation_file(tmp_path / "conversations.sqlite")
    turn = new_turn(ChatFields(content="Hello", model="tiny"), {}, None)
    writer = ReplyWriter(turn, store, {}, lambda: None)
    asyncio.run(writer.begin())
    writer.event(Piece(0, Chunk("Good ", 1)))
    writer.event(Piece(0, Chunk("day", 2)))
    kept = asyncio.run(store.ask(partial(whole, name=turn.conversation)))
    store.close()
    assert kept is not None and kept["messages"][1]["content"] == "Good day"
    assert kept["messages"][1]["details"] == {"model": "tiny"}


def test_a_full_disk_is_told(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a text is made if its question cannot be kept; else with it, and it stays shown."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, store=tmp_path / "responses.sqlite"
    )
    with running_server(settings) as server, server.client() as client:
        kept = ask(client, content="Hello")
        limit = "PRAGMA max_page_count=1"  # It becomes as many as there are.
        asyncio.run(server.state.conversations.ask(lambda file: file.execute(limit).fetchall()))
        for _ in range(100):  # What is free in its pages is soon taken.
            answer = client.post("/page/chat", json={**GREEDY, "content": "Hello there"})
            if answer.status_code != 200:
                break
        assert answer.status_code == 507
        assert answer.json()["error"]["message"] == (
            "conversations.sqlite cannot be used: the disk is full"
        )
        assert shown(client, kept[0]["conversation"])["messages"]

    def full(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with running_server(settings) as server, server.client() as client:
        monkeypatch.setattr(page_conversations, "finish", full)
        events = ask(client, content="Hello")
        last = events[-1]
        assert last["type"] == "failed" and "the disk is full" in last["error"]
        assert last["message"]["content"] == "".join(
            event["text"] for event in events if event["type"] == "text"
        )
        reply = shown(client, events[0]["conversation"])["messages"][-1]
        assert reply["content"] == last["message"]["content"]


@pytest.mark.skipif(sys.platform == "win32", reason="files that are open stay there")
def test_a_file_that_was_moved_away_is_made_anew(tiny_path: Path, tmp_path: Path) -> None:
    """What is said from then on is in the new file, not in one that nobody can find."""
    path = tmp_path / "conversations.sqlite"
    settings = ServerSettings(
        models={"tiny": tiny_path}, only_given=True, store=tmp_path / "responses.sqlite"
    )
    with running_server(settings) as server, server.client() as client:
        first = ask(client, content="Hello")[0]["conversation"]
        path.rename(tmp_path / "moved.sqlite")
        assert client.get(f"/page/conversations/{first}").status_code == 404
        later = ask(client, content="Hello again")[0]["conversation"]
        assert shown(client, later)["messages"]
    names = sqlite3.connect(path).execute("SELECT id FROM conversations").fetchall()
    assert names == [(later,)]


def test_a_damaged_file_is_told(tiny_path: Path, tmp_path: Path) -> None:
    """With its name and what to do, not as an internal error."""
    (tmp_path / "conversations.sqlite").write_bytes(b"no database " * 100)
    settings = ServerSettings(models={"tiny": tiny_path}, store=tmp_path / "responses.sqlite")
    with running_server(settings) as server, server.client() as client:
        answer = client.get("/page/conversations")
        assert answer.status_code == 507
        assert "conversations.sqlite cannot be used: it is damaged" in answer.text


def test_a_server_without_a_page(tiny_path: Path, tmp_path: Path) -> None:
    """Browsers read what programs do, no route of the page is there, and no file is made."""
    settings = ServerSettings(
        models={"tiny": tiny_path}, with_page=False, store=tmp_path / "responses.sqlite"
    )
    with running_server(settings) as server, server.client() as client:
        assert client.get("/", headers=BROWSER).text == "edgellama is running"
        for path in (f"{FILES}/app.js", "/page/conversations", "/page/machine"):
            assert client.get(path).status_code == 404
        assert client.post("/page/chat", json={"content": "Hello"}).status_code == 404
    assert not list(tmp_path.glob("conversations*"))
