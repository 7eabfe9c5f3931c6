"""A server over stages: streams, clients that leave, and stages that die in mid-answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.stage_harness import MortalStage
from conftest import CliRunner
from harness.patience import until
from harness.servers import RunningServer, client_of, running_server, served, sse_events

from edgellama.cluster.spread_llama import SpreadLlama
from edgellama.cluster.stages.stage import Stage
from edgellama.quant.gguf.file import GGUFFile
from edgellama.server.settings import Opener, ServerSettings

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"messages": HELLO, "ignore_eos": True, "temperature": 0.7, "seed": 3}


class Deaths:
    """Lets a stage die at chosen calls, and holds calls up while ``gate`` is closed."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.at: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> bool:
        self.gate.wait(20)
        self.num_calls += 1
        return self.num_calls in self.at


class Spread:
    """Two stages of the tiny model, and who lets them die."""

    def __init__(self, path: Path) -> None:
        self.deaths, self.path = Deaths(), path
        self.stages: list[MortalStage] = []

    def open(self) -> SpreadLlama:
        """The model over them."""
        return SpreadLlama(self.path, self._made, chunk_tokens=128)

    def _made(self, file: GGUFFile) -> list[MortalStage]:
        layers = int(file.metadata["llama.block_count"])
        ranges = range(1), range(1, layers)
        self.stages = [
            MortalStage(
                lambda each=each: Stage(file, each, num_threads=1, exact=True),  # type: ignore[misc]
                self.deaths,
            )
            for each in ranges
        ]
        return self.stages


@pytest.fixture
def spread(tiny_path: Path, tmp_path: Path) -> Iterator[tuple[Spread, RunningServer]]:
    """A server of the tiny model over two stages."""
    made = Spread(tiny_path)
    settings = ServerSettings(
        models={"tiny": tiny_path},
        openers={"tiny": Opener(made.open, 10_000_000)},
        only_given=True,
        store=tmp_path / "responses.sqlite",
    )
    with running_server(settings) as running:
        yield made, running


@pytest.fixture(scope="module")
def expected(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The answer of a server of one process."""
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    settings = ServerSettings(
        models={"tiny": tiny_path}, engine={"exact": True}, only_given=True, store=store
    )
    with running_server(settings) as running, running.client() as client:
        return str(answer(client, **LONG)["choices"][0]["message"]["content"])


def answer(client: Any, path: str = CHAT, **fields: Any) -> Any:
    """What a request gives."""
    response = client.post(path, json={"max_tokens": 40, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_answers_are_those_of_one_process(
    spread: tuple[Spread, RunningServer], expected: str
) -> None:
    """Whole and streamed, with log-probabilities and a schema; vectors, figures and the page."""
    with spread[1].client() as client:
        assert answer(client, **LONG)["choices"][0]["message"]["content"] == expected
        text = client.post(CHAT, json={**LONG, "max_tokens": 40, "stream": True}).text
        chunks = [content for _, content in sse_events(text)][:-1]
        deltas = [each["choices"][0]["delta"].get("content") or "" for each in chunks]
        assert "".join(deltas) == expected
        assert answer(client, messages=HELLO, logprobs=True)["choices"][0]["logprobs"]["content"]
        choices = {"regex": "[a-c]{3}"}
        assert (
            len(answer(client, messages=HELLO, **choices)["choices"][0]["message"]["content"]) == 3
        )
        embedded = client.post("/v1/embeddings", json={"input": ["Hello", "a"]}).json()
        assert len(embedded["data"]) == 2
        for path in ("/metrics", "/health", "/api/ps", "/v1/models", "/page/machine"):
            assert client.get(path).status_code in (200, 404), path


def test_a_killed_stage_is_a_pause(spread: tuple[Spread, RunningServer], expected: str) -> None:
    """Stages die in the prompt and twice in mid-answer; the client reads the same text."""
    made, running = spread
    made.deaths.at = {1, 4, 31, 32, 60}
    with running.client() as client:
        assert answer(client, **LONG)["choices"][0]["message"]["content"] == expected
    assert sum(stage.num_deaths for stage in made.stages) == 5


def test_several_clients_survive_deaths(
    spread: tuple[Spread, RunningServer], expected: str
) -> None:
    """Answers side by side lose nothing."""
    made, running = spread
    made.deaths.at = set(range(10, 400, 37))
    found: list[str] = []

    def ask() -> None:
        with running.client() as client:
            found.append(answer(client, **LONG)["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_a_client_that_leaves_ends_its_text_alone(
    spread: tuple[Spread, RunningServer], expected: str
) -> None:
    """Stages compute nothing more for it, and another client's answer goes on."""
    made, running = spread
    with running.client() as client:
        with client.stream("POST", CHAT, json={**LONG, "stream": True}) as response:
            next(response.iter_lines())
        assert answer(client, **LONG)["choices"][0]["message"]["content"] == expected
        until(lambda: not running.state.described_answers())
    # The context of 256 tokens would have taken two calls for each.
    assert made.deaths.num_calls < 400


def test_the_command_serves_a_spread_model(tiny_path: Path, run_cli: CliRunner) -> None:
    """Where one machine is enough no cluster is needed; what cannot be is said in one line."""
    with served(tiny_path, "--machines", "here:4GB:20") as (_, facts), client_of(facts) as client:
        assert answer(client, messages=HELLO)["choices"][0]["message"]["content"] is not None
    for arguments, words in (
        (("--machines", "here:1MB:20", "--attention", "cuda"), "--attention is nothing that"),
        ((tiny_path, "--machines", "here:1MB:20"), "--machines spreads one MODEL; 2 are given"),
        (("--machines", "here:1MB:20"), "a further machine of"),
    ):
        result = run_cli("serve", tiny_path, *arguments)
        assert result.returncode != 0
        assert words in result.stderr and "Traceback" not in result.stderr
