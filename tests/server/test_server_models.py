"""Models on the shelf: loaded once, let go of, and never more than fit; with tiny random models."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.llama import Llama
from edgellama.server.answers.leaving import Leaving
from edgellama.server.answers.text_queue import TextQueue
from edgellama.server.answers.turns import leased
from edgellama.server.connections.wire import client_has_left
from edgellama.server.errors import RequestError
from edgellama.server.models import model_line, model_shelf
from edgellama.server.models.catalogue import Catalogue
from edgellama.server.models.model_shelf import MODEST_CONTEXT, ModelShelf

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models by name."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_tiny_llama(folder / f"{name}.gguf", TinyLlama(seed=seed))
        for seed, name in enumerate(("first", "second"))
    }


class Memory:
    """So much is free, and each model on the shelf takes ``needed`` of it."""

    def __init__(self, free: int, needed: int = 100) -> None:
        self.free = free
        self.needed = needed


def shelf_of(
    paths: dict[str, Path],
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    keep_alive_s: float = math.inf,
) -> ModelShelf:
    """A shelf whose memory is what the test says."""

    def free(self: ModelShelf) -> int:
        return memory.free - memory.needed * len(self.loaded)

    monkeypatch.setattr(ModelShelf, "predicted_bytes", lambda self, model: memory.needed)
    monkeypatch.setattr(ModelShelf, "_free_bytes", free)
    return ModelShelf(
        Catalogue(paths, only_given=True, aliases={}),
        engine={"context_length": 64},
        keep_alive_s=lambda model: keep_alive_s,
        available_bytes=lambda: None,
    )


def test_a_context_is_as_long_as_scaled_positions_make_it(paths: dict[str, Path]) -> None:
    """Told of a model before it is loaded, as it will be."""
    for engine, factor in (({}, 1), ({"rope_scaling": "yarn:4"}, 4), ({"rope_scaling": "none"}, 1)):
        catalogue = Catalogue(paths, only_given=True, aliases={})
        shelf = ModelShelf(
            catalogue,
            engine=engine,
            keep_alive_s=lambda model: 0.0,
            available_bytes=lambda: None,
        )
        model = catalogue.find(None)
        assert model.facts.context_length is not None
        assert shelf.context_length(model) == factor * model.facts.context_length


def test_a_model_is_loaded_once(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for it at the same time."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(1000), monkeypatch)

        async def use() -> Llama:
            async with shelf.lease("first") as llama:
                await asyncio.sleep(0)
                return llama

        used = await asyncio.gather(*(use() for _ in range(5)))
        assert len({id(llama) for llama in used}) == 1
        await shelf.close()
        assert shelf.loaded == {}

    asyncio.run(main())


def test_a_load_is_given_up_when_the_server_ends(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling kernels may take minutes: it ends before the next one."""
    has_begun = threading.Event()

    def compiles_for_ever(path: Path, *, progress: Callable[[int, int], None], **_: object) -> None:
        while True:
            progress(0, 1)
            has_begun.set()

    async def main() -> None:
        shelf = shelf_of(paths, Memory(1000), monkeypatch)
        monkeypatch.setattr("edgellama.llama.Llama", compiles_for_ever)

        async def use() -> None:
            async with shelf.lease("first"):
                pass

        using = asyncio.create_task(use())
        await asyncio.to_thread(has_begun.wait)
        shelf.stop(RequestError(503, "the server was stopped"))
        for attempt in (using, use()):
            with pytest.raises(RequestError, match="stopped"):
                await attempt
        assert shelf.loaded == {}

    asyncio.run(main())


def test_models_without_work_make_room(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that rests goes before another is loaded; it comes back when it is asked for."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        for name in ("first", "second", "first"):
            async with shelf.lease(name):
                assert list(shelf.loaded) == [name]
        await shelf.close()

    asyncio.run(main())


def test_models_at_work_are_waited_for(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model is loaded once the first has no work any more, not before."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        async with shelf.lease("first") as llama:

            async def use_second() -> None:
                async with shelf.lease("second"):
                    assert list(shelf.loaded) == ["second"]

            waiting = asyncio.create_task(use_second())
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert list(shelf.loaded) == ["first"] and not waiting.done()
            assert llama.generate("Hello", max_tokens=1).tokens
        await waiting
        await shelf.close()

    asyncio.run(main())


async def short_of_room(shelf: ModelShelf) -> None:
    """Until a model waits for others to make room."""
    while not shelf._is_short_of_room:
        await asyncio.sleep(0.001)


def test_who_waits_for_room_is_not_overtaken(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes later waits behind, also for the loaded model; who wants the same goes along."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        order: list[str] = []
        may_end = asyncio.Event()

        async def use(name: str, text: str) -> None:
            async with shelf.lease(name):
                assert list(shelf.loaded) == [name]
                order.append(text)
                await may_end.wait()

        async with shelf.lease("first"):
            tasks = []
            for name, text in (("second", "b1"), ("first", "a2"), ("second", "b2")):
                tasks.append(asyncio.create_task(use(name, text)))
                await asyncio.wait_for(short_of_room(shelf), TIMEOUT_S)
            await asyncio.sleep(0)
            assert order == []
        while len(order) < 2:
            await asyncio.sleep(0.005)
        assert order == ["b1", "b2"]
        await asyncio.wait_for(short_of_room(shelf), TIMEOUT_S)
        tasks.append(asyncio.create_task(use("second", "b3")))
        await asyncio.sleep(0)
        assert order == ["b1", "b2"]
        may_end.set()
        await asyncio.gather(*tasks)
        assert order == ["b1", "b2", "a2", "b3"]
        await shelf.close()

    asyncio.run(main())


def test_who_leaves_the_line_holds_up_nobody(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind go on with the model that is loaded; no use of a model is left over."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)

        async def use(name: str) -> None:
            async with shelf.lease(name):
                pass

        async with shelf.lease("first"):
            waiting = asyncio.create_task(use("second"))
            await asyncio.wait_for(short_of_room(shelf), TIMEOUT_S)
            behind = asyncio.create_task(use("first"))
            await asyncio.sleep(0)
            assert not behind.done()
            waiting.cancel()
            await behind
            assert shelf.loaded["first"].num_uses == 1
        assert [entry.num_uses for entry in shelf.loaded.values()] == [0]
        await shelf.close()

    asyncio.run(main())


def test_work_whose_client_leaves_waits_for_no_model(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings, counts of tokens and the like leave the line, and let those behind go on."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        state: Any = SimpleNamespace(shelf=shelf)
        leaving = Leaving()

        async def work() -> None:
            async with leased(state, leaving, "second"):
                pytest.fail("it was left before")

        async with shelf.lease("first"):
            working = asyncio.create_task(work())
            await asyncio.wait_for(short_of_room(shelf), TIMEOUT_S)
            leaving.stop(client_has_left())
            with pytest.raises(RequestError, match="the client has left"):
                await working
            async with shelf.lease("first"):
                assert shelf.loaded["first"].num_uses == 2
        with pytest.raises(RequestError, match="the client has left"):
            await work()
        await shelf.close()

    asyncio.run(main())


def test_a_model_of_which_nobody_is_left_is_not_in_use(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is cancelled in the moment that brings the model gives its use back."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(1000), monkeypatch)
        asked: list[asyncio.Task[None]] = []
        monkeypatch.setattr(
            model_line.AwaitedModel,
            "give",
            lambda self, entry: (give(self, entry), asked[0].cancel()),
        )

        async def use() -> None:
            async with shelf.lease("first"):
                pytest.fail("it was cancelled before")

        asked.append(asyncio.create_task(use()))
        await asyncio.wait(asked)
        assert asked[0].cancelled()
        assert [entry.num_uses for entry in shelf.loaded.values()] == [0]
        await shelf.close()

    give = model_line.AwaitedModel.give
    asyncio.run(main())


def test_the_end_of_the_server_ends_the_wait_for_room(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits two minutes for a model that will not be loaded."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        async with shelf.lease("first"):

            async def use() -> None:
                async with shelf.lease("second"):
                    pass

            waiting = asyncio.create_task(use())
            await asyncio.wait_for(short_of_room(shelf), TIMEOUT_S)
            shelf.stop(RequestError(503, "the server was stopped"))
            with pytest.raises(RequestError, match="stopped"):
                await waiting
        await shelf.close()

    asyncio.run(main())


def test_who_waits_too_long_is_sent_away(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a 503 that says when to come again, and both sizes."""
    monkeypatch.setattr(model_shelf, "WAIT_FOR_ROOM_S", 0.01)

    async def main() -> None:
        shelf = shelf_of(paths, Memory(150), monkeypatch)
        async with shelf.lease("first"):
            with pytest.raises(RequestError, match="GB") as caught:
                async with shelf.lease("second"):
                    pass
            assert caught.value.status == 503 and "retry-after" in caught.value.headers
        await shelf.close()

    asyncio.run(main())


def test_what_never_fits_is_refused_before_it_is_loaded(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footprint decides: nothing is opened."""
    monkeypatch.setattr(ModelShelf, "_open", lambda self, model: pytest.fail("it was loaded"))

    async def main() -> None:
        shelf = shelf_of(paths, Memory(50), monkeypatch)
        with pytest.raises(RequestError, match="smaller model") as caught:
            async with shelf.lease("first"):
                pass
        assert caught.value.status == 507

    asyncio.run(main())


def test_a_footprint_is_predicted_from_the_header(paths: dict[str, Path]) -> None:
    """It counts weights and a text, a modest one where nobody says how long texts may be."""

    def footprint(context_length: int | None) -> int:
        shelf = ModelShelf(
            Catalogue(paths, only_given=True, aliases={}),
            engine={"context_length": context_length},
            keep_alive_s=lambda model: 0.0,
            available_bytes=lambda: None,
        )
        return shelf.predicted_bytes(shelf.catalogue.find("first"))

    async def main() -> None:
        assert paths["first"].stat().st_size < footprint(64) < footprint(256)
        assert footprint(None) == footprint(MODEST_CONTEXT)

    asyncio.run(main())


def test_a_model_goes_after_its_time(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time begins when the last use ends, and a use may give another."""

    async def main() -> None:
        shelf = shelf_of(paths, Memory(1000), monkeypatch, keep_alive_s=0.01)
        async with shelf.lease("first"):
            await asyncio.sleep(0.03)
            assert "first" in shelf.loaded
        async with shelf.lease("first", keep_alive_s=math.inf):
            pass
        await asyncio.sleep(0.03)
        assert "first" in shelf.loaded
        async with shelf.lease("first", keep_alive_s=0.0):
            pass
        for _ in range(200):
            if not shelf.loaded:
                break
            await asyncio.sleep(0.005)
        assert shelf.loaded == {}
        await shelf.close()

    asyncio.run(main())


def test_a_damaged_model_is_not_listed(tmp_path: Path, paths: dict[str, Path]) -> None:
    """Others are; asking for it says what is wrong, without its folder."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    catalogue = Catalogue({**paths, "broken": broken}, only_given=True, aliases={})
    assert [model.name for model in catalogue.usable()] == ["first", "second"]


def test_places_are_given_in_order() -> None:
    """Who came first goes first; a place that is left is no hole; a full line refuses."""

    async def main() -> None:
        queue = TextQueue(width=1, max_waiting=2)
        places = [queue.place() for _ in range(3)]
        with pytest.raises(RequestError) as caught:
            queue.place()
        assert caught.value.status == 429
        turns = [asyncio.create_task(place.turn()) for place in places]
        await asyncio.sleep(0)
        assert [place.position for place in places] == [0, 1, 2]
        turns[1].cancel()
        queue.leave(places[1])
        queue.leave(places[0])
        await turns[2]
        assert queue.num_running == 1 and queue.num_waiting == 0
        queue.leave(places[2])
        assert queue.num_running == 0

    asyncio.run(main())
