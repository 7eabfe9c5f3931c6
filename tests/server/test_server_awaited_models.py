"""Models that are waited for while clients leave, files change and others go; nothing is loaded."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama
from starlette.requests import Request
from starlette.responses import Response

from edgellama.models.library import StoredModel
from edgellama.server.answers.state import ServerState
from edgellama.server.errors import RequestError
from edgellama.server.llama_cpp.state import props
from edgellama.server.models import catalogue
from edgellama.server.models.catalogue import Catalogue, ServedModel
from edgellama.server.models.model_shelf import ModelShelf
from edgellama.server.ollama.routes import chat, generate
from edgellama.server.settings import ServerSettings

TIMEOUT_S = 60.0
MODEL_BYTES = 100


class Machine:
    """Models that are names of files, each of which takes so much of the memory until it closed.

    A test holds up what runs in threads by clearing an event.
    """

    def __init__(self) -> None:
        self.free = 10 * MODEL_BYTES
        self.opened: list[str] = []
        self.num_open = 0
        self.predicted: list[str] = []
        self.may_predict, self.may_open, self.may_close = (threading.Event() for _ in range(3))
        for event in (self.may_predict, self.may_open, self.may_close):
            event.set()

    def predict(self, model: ServedModel) -> int:
        """What each model takes."""
        self.predicted.append(model.path.name)
        assert self.may_predict.wait(TIMEOUT_S)
        return MODEL_BYTES

    def open(self, model: ServedModel) -> Any:
        """Something to close."""
        self.opened.append(model.path.name)
        self.num_open += 1
        assert self.may_open.wait(TIMEOUT_S)
        return SimpleNamespace(close=self._close)

    def _close(self) -> None:
        assert self.may_close.wait(TIMEOUT_S)
        self.num_open -= 1

    def free_bytes(self) -> int:
        """What no model takes."""
        return self.free - MODEL_BYTES * self.num_open


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """What all shelves of a test load from."""
    made = Machine()
    monkeypatch.setattr(ModelShelf, "predicted_bytes", lambda self, model: made.predict(model))
    monkeypatch.setattr(ModelShelf, "_open", lambda self, model: made.open(model))
    monkeypatch.setattr(ModelShelf, "_free_bytes", lambda self: made.free_bytes())
    return made


def shelf_of(models: Catalogue) -> ModelShelf:
    """A shelf whose models stay as long as nobody says otherwise."""
    return ModelShelf(
        models, engine={}, keep_alive_s=lambda model: math.inf, available_bytes=lambda: None
    )


def shelf_of_names(*names: str) -> ModelShelf:
    """A shelf of given models."""
    given = {name: Path(f"{name}.gguf") for name in names}
    return shelf_of(Catalogue(given, only_given=True, aliases={}))


async def use(shelf: ModelShelf, name: str, keep_alive_s: float | None = None) -> None:
    """A model, for a moment."""
    async with shelf.lease(name, keep_alive_s):
        pass


async def a_while() -> None:
    """Let everything go on that can."""
    for _ in range(10):
        await asyncio.sleep(0.001)


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what a test expects."""

    async def wait() -> None:
        while not is_so():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), TIMEOUT_S)


async def leave(waiting: asyncio.Task[None]) -> None:
    """End a wait as a client does that goes."""
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


def test_who_has_left_before_its_turn_gets_no_model(machine: Machine) -> None:
    """A model stays that would have to make room for one that nobody waits for any more."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        machine.may_open.clear()
        shelf = shelf_of_names("first", "second")
        first = asyncio.create_task(use(shelf, "first"))
        await until(lambda: machine.opened)
        second = asyncio.create_task(use(shelf, "second"))
        await asyncio.sleep(0)
        await leave(second)
        machine.may_open.set()
        await first
        await shelf._line.close()
        assert list(shelf.loaded) == ["first"] and machine.opened == ["first.gguf"]
        assert machine.predicted == ["first.gguf"]
        await shelf.close()

    asyncio.run(main())


@pytest.mark.parametrize("free", [MODEL_BYTES, 10 * MODEL_BYTES])
def test_who_has_left_during_the_prediction_gets_no_model(machine: Machine, free: int) -> None:
    """Whether there is room or another would have to make it."""

    async def main() -> None:
        machine.free = free
        shelf = shelf_of_names("first", "second")
        await use(shelf, "first")
        machine.may_predict.clear()
        second = asyncio.create_task(use(shelf, "second"))
        await until(lambda: len(machine.predicted) == 2)
        await leave(second)
        machine.may_predict.set()
        await shelf._line.close()
        assert list(shelf.loaded) == ["first"] and machine.opened == ["first.gguf"]
        await shelf.close()

    asyncio.run(main())


def test_a_loaded_model_is_there_until_another_is_known_to_need_room(machine: Machine) -> None:
    """While one is loaded and a further one waits behind it, and while memory is predicted."""

    async def main() -> None:
        machine.free = 2 * MODEL_BYTES
        shelf = shelf_of_names("first", "second", "third")
        await use(shelf, "first")
        machine.may_open.clear()
        others = [asyncio.create_task(use(shelf, name)) for name in ("second", "third")]
        await until(lambda: len(machine.opened) == 2)
        await asyncio.wait_for(use(shelf, "first"), TIMEOUT_S)
        machine.may_predict.clear()
        machine.may_open.set()
        await until(lambda: "third.gguf" in machine.predicted)
        async with shelf.lease("first"), shelf.lease("second"):
            machine.may_predict.set()
            await until(lambda: shelf._is_short_of_room)
            late = asyncio.create_task(use(shelf, "first"))
            await asyncio.sleep(0.01)
            assert not late.done()
        await asyncio.gather(*others, late)
        await shelf.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_model_that_is_being_closed_makes_room(machine: Machine, is_asked: bool) -> None:
    """One that has expired, or was to go, is waited for; nobody is told to take a smaller one."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        shelf = shelf_of_names("first", "second")
        machine.may_close.clear()
        await use(shelf, "first", None if is_asked else 0.0)
        unloading = asyncio.create_task(shelf.unload("first") if is_asked else asyncio.sleep(0))
        await until(lambda: not shelf.loaded)
        second = asyncio.create_task(use(shelf, "second"))
        await until(lambda: "second.gguf" in machine.predicted)
        await a_while()
        assert not second.done()
        machine.may_close.set()
        await asyncio.gather(second, unloading)
        assert machine.opened == ["first.gguf", "second.gguf"]
        await shelf.close()

    asyncio.run(main())


def test_no_other_model_goes_while_one_is_being_closed(machine: Machine) -> None:
    """What is being closed may be room enough."""

    async def main() -> None:
        machine.free = 2 * MODEL_BYTES
        shelf = shelf_of_names("first", "second", "third")
        await use(shelf, "first")
        machine.may_close.clear()
        await use(shelf, "second", 0.0)
        await until(lambda: "second" not in shelf.loaded)
        third = asyncio.create_task(use(shelf, "third"))
        await until(lambda: "third.gguf" in machine.predicted)
        await a_while()
        machine.may_close.set()
        await third
        assert list(shelf.loaded) == ["first", "third"]
        await shelf.close()

    asyncio.run(main())


class Made:
    """The files of a cache: one that is in use, and one that is made anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stored = {name: self._store(name, f"{name}.gguf") for name in ("other", "mine")}

    def _store(self, name: str, file_name: str) -> StoredModel:
        path = self._folder / file_name
        path.touch()
        return StoredModel(name, path, "made")

    def make_anew(self) -> None:
        """Let a name mean another file."""
        self.stored["mine"] = self._store("mine", "new.gguf")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """What the catalogues of a test find in the cache."""
    files = Made(tmp_path)
    monkeypatch.setattr(catalogue, "stored_models", lambda: list(files.stored.values()))
    return files


def test_a_model_made_anew_while_room_is_waited_for_is_the_new_one(
    machine: Machine, made: Made
) -> None:
    """Its memory is predicted anew, too, and the old file is not opened."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        shelf = shelf_of(Catalogue({}, only_given=False, aliases={}))
        async with shelf.lease("other"):
            waiting = asyncio.create_task(use(shelf, "mine"))
            await until(lambda: shelf._is_short_of_room)
            made.make_anew()
            shelf.outdate("mine")
        await waiting
        assert machine.predicted == ["other.gguf", "mine.gguf", "new.gguf"]
        assert machine.opened == ["other.gguf", "new.gguf"]
        assert list(shelf.loaded) == ["mine"]
        await shelf.close()

    asyncio.run(main())


def test_a_model_that_is_gone_before_there_is_room_is_not_found(
    machine: Machine, made: Made
) -> None:
    """Whoever waited for it is told so."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        shelf = shelf_of(Catalogue({}, only_given=False, aliases={}))
        async with shelf.lease("other"):
            waiting = asyncio.create_task(use(shelf, "mine"))
            await until(lambda: shelf._is_short_of_room)
            del made.stored["mine"]
        with pytest.raises(RequestError, match="no model 'mine'; allowed: other") as caught:
            await waiting
        assert caught.value.status == 404
        await shelf.close()

    asyncio.run(main())


def test_a_model_made_anew_while_it_is_loaded_goes_after_its_use(
    machine: Machine, made: Made
) -> None:
    """However long it was to stay: whoever comes next gets the new one."""

    async def main() -> None:
        machine.may_open.clear()
        shelf = shelf_of(Catalogue({}, only_given=False, aliases={}))
        loading = asyncio.create_task(use(shelf, "mine", math.inf))
        await until(lambda: machine.opened)
        made.make_anew()
        shelf.outdate("mine")
        machine.may_open.set()
        await loading
        await until(lambda: not shelf.loaded)
        await use(shelf, "mine")
        assert machine.opened == ["mine.gguf", "new.gguf"]
        await shelf.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_told", [True, False])
def test_a_model_made_anew_while_it_is_in_use_serves_whoever_comes(
    machine: Machine, made: Made, is_told: bool
) -> None:
    """Who has the old one keeps it, however long it was to stay; others get the new one."""

    async def main() -> None:
        shelf = shelf_of(Catalogue({}, only_given=False, aliases={}))
        async with shelf.lease("mine", math.inf) as old:
            made.make_anew()
            if is_told:
                shelf.outdate("mine")
            async with shelf.lease("mine") as new, shelf.lease("mine") as again:
                assert again is new is not old
                assert machine.num_open == len(shelf.in_memory) == 2
        await until(lambda: machine.num_open == 1)
        assert [entry.model.path.name for entry in shelf.in_memory] == ["new.gguf"]
        assert machine.opened == ["mine.gguf", "new.gguf"]
        await shelf.close()
        assert machine.num_open == 0

    asyncio.run(main())


def test_a_model_made_anew_waits_for_the_room_of_the_old_one(machine: Machine, made: Made) -> None:
    """What a name meant before counts as in use until its texts have ended."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        shelf = shelf_of(Catalogue({}, only_given=False, aliases={}))
        async with shelf.lease("mine"):
            made.make_anew()
            coming = asyncio.create_task(use(shelf, "mine"))
            await until(lambda: shelf._is_short_of_room)
            assert machine.opened == ["mine.gguf"]
        await coming
        assert machine.opened == ["mine.gguf", "new.gguf"] and machine.num_open == 1
        await shelf.close()

    asyncio.run(main())


def test_a_given_file_that_is_replaced_serves_whoever_comes(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its path means the new file; while it means none, or half of one, the old one stays."""

    async def main() -> None:
        path = tmp_path / "given.gguf"
        write_tiny_llama(path, TinyLlama())
        whole = write_tiny_llama(tmp_path / "new.gguf", TinyLlama(seed=7)).read_bytes()
        shelf = shelf_of(Catalogue({"given": path}, only_given=True, aliases={}))
        async with shelf.lease("given") as old:
            path.unlink()
            async with shelf.lease(None) as same:
                assert same is old
            for count in (0, 100, len(whole) // 2):
                path.write_bytes(whole[:count])
                async with shelf.lease("given") as same:
                    assert same is old
            assert caplog.text.count("given stays as it was") == 1
            path.write_bytes(whole)
            async with shelf.lease(None) as new, shelf.lease("given") as again:
                assert again is new is not old
                assert shelf.loaded["given"].model.num_bytes == len(whole)
        await shelf.close()
        assert machine.num_open == 0

    asyncio.run(main())


def request_of(
    state: ServerState, method: str, query: str, body: object, has_left: asyncio.Event
) -> Request:
    """A request whose client leaves when it is told to."""
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Any:
        for message in messages:
            return message
        await has_left.wait()
        return {"type": "http.disconnect"}

    application = SimpleNamespace(state=SimpleNamespace(server=state))
    scope = {"type": "http", "method": method, "headers": [], "query_string": query.encode()}
    return Request({**scope, "app": application}, receive)


@pytest.mark.parametrize(
    ("endpoint", "method"), [(props, "GET"), (generate, "POST"), (chat, "POST")]
)
def test_who_leaves_holds_no_place_for_a_model(
    machine: Machine,
    endpoint: Callable[[Request], Awaitable[Response]],
    method: str,
    tmp_path: Path,
) -> None:
    """Programs that only load a model, or ask what it is, leave the line when they go."""

    async def main() -> None:
        machine.free = MODEL_BYTES
        given = {name: tmp_path / f"{name}.gguf" for name in ("first", "second")}
        state = ServerState(ServerSettings(models=given, store=tmp_path / "responses.sqlite"))
        has_left = asyncio.Event()
        request = request_of(state, method, "model=second", {"model": "second"}, has_left)
        async with state.shelf.lease("first"):
            asking = asyncio.ensure_future(endpoint(request))
            await until(lambda: state.shelf._is_short_of_room)
            has_left.set()
            with pytest.raises(RequestError, match="the client has left"):
                await asyncio.wait_for(asking, TIMEOUT_S)
            await asyncio.wait_for(use(state.shelf, "first"), TIMEOUT_S)
        assert machine.opened == ["first.gguf"]
        await state.close()

    asyncio.run(main())
