"""Stages as actors of a real Ray cluster on this machine; ``python -m pytest -m ray``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from harness.servers import client_of, served

from edgellama.cluster.ray_stages import RayStage, start_stages
from edgellama.cluster.spread_llama import SpreadLlama
from edgellama.cluster.stage_actor import StageOrder
from edgellama.engine.model_identity import model_identity
from edgellama.engine.program.hooks import StepRows
from edgellama.llama import Llama
from edgellama.quant.errors import (
    EdgellamaError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
)
from edgellama.quant.gguf.file import GGUFFile

pytestmark = pytest.mark.ray
PROMPT = "The three laws of robotics are"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without stages, and two nodes that are called as machines."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.desk = cluster.add_node(num_cpus=1, resources={"desk": 1})
    cluster.laptop = cluster.add_node(num_cpus=1, resources={"laptop": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def stages_of(path: Path, **how: Any) -> Any:
    """A function that starts two stages of the starter model, one on each node."""

    def make(file: GGUFFile) -> list[RayStage]:
        identity, options = model_identity(file), {"num_threads": 1, "exact": True}
        orders = [
            StageOrder(str(path), layers, identity, place, options)
            for layers, place in ((range(12), "desk"), (range(12, 30), "laptop"))
        ]
        return start_stages(orders, **how)

    return make


@pytest.fixture(scope="module")
def expected(smollm2_path: Path) -> str:
    """The text of one process."""
    with Llama(smollm2_path, exact=True, context_length=512) as llama:
        return llama.generate(PROMPT, max_tokens=40, seed=3, temperature=0.7).text


def pid_of(stage: RayStage) -> int:
    """The process that a stage runs in, once it is there."""
    import ray

    while True:
        try:
            return int(ray.get(stage._actor.__ray_call__.remote(lambda actor: os.getpid())))
        except ray.exceptions.ActorUnavailableError:
            time.sleep(0.05)


def test_a_text_over_two_nodes_is_that_of_one_process(
    cluster: Any, smollm2_path: Path, expected: str
) -> None:
    """Bit-identical logits give the same sampled text; a chat runs over the same stages."""
    with SpreadLlama(smollm2_path, stages_of(smollm2_path), context_length=512) as llama:
        pids = {pid_of(stage) for stage in llama.stages}
        assert len(pids | {os.getpid()}) == 3
        if sys.platform == "linux" and os.geteuid() == 0:
            # Ray's workers would give way to any other program.
            assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {
                os.getpriority(os.PRIO_PROCESS, 0)
            }
        assert llama.generate(PROMPT, max_tokens=40, seed=3, temperature=0.7).text == expected
        assert llama.chat().send("Say hello.", max_tokens=8).text
        batch = llama.generate_batch([PROMPT, "One, two,", PROMPT], max_tokens=40, seed=3,
                                     temperature=0.7)  # fmt: skip
        texts = {result.index: result.text for result in batch}
        assert texts[0] == texts[2] == expected


@pytest.mark.parametrize(("number", "has_line"), [(0, True), (1, True), (1, False)])
def test_a_killed_actor_is_a_pause(
    cluster: Any, smollm2_path: Path, expected: str, number: int, has_line: bool
) -> None:
    """A stage's process dies in mid-answer; the text goes on as if nothing had been."""
    stages = stages_of(smollm2_path, has_line=has_line)
    with SpreadLlama(smollm2_path, stages, context_length=512) as llama:
        text, is_killed = "", False
        for chunk in llama.stream(PROMPT, max_tokens=40, seed=3, temperature=0.7):
            text += chunk.text
            if not is_killed and text.count(" ") >= 8:
                os.kill(pid_of(llama.stages[number]), signal.SIGKILL)
                is_killed = True
        assert is_killed
        assert text == expected


@pytest.mark.parametrize(("number", "has_line"), [(0, True), (1, True), (1, False)])
def test_a_stopped_actor_is_a_pause(
    cluster: Any, smollm2_path: Path, expected: str, number: int, has_line: bool
) -> None:
    """A stage's process hangs in mid-answer and wakes up after it: the texts are as ever."""
    stages = stages_of(smollm2_path, has_line=has_line, silence_s=1, pulse_s=1)
    options: dict[str, Any] = {"max_tokens": 40, "seed": 3, "temperature": 0.7}
    with SpreadLlama(smollm2_path, stages, context_length=512) as llama:
        text, stopped = "", 0
        for chunk in llama.stream(PROMPT, **options):
            text += chunk.text
            if not stopped and text.count(" ") >= 8:
                stopped = pid_of(llama.stages[number])
                os.kill(stopped, signal.SIGSTOP)
        assert text == expected
        assert pid_of(llama.stages[number]) != stopped
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
        assert llama.generate(PROMPT, **options).text == expected
        assert until(lambda: stopped not in stage_pids())


@pytest.mark.parametrize("has_line", [True, False])
def test_a_hung_actor_is_a_pause(
    cluster: Any, smollm2_path: Path, expected: str, has_line: bool
) -> None:
    """A stage's step never ends, while its process says that it is there."""
    import ray

    def hang(actor: Any) -> None:
        # A function of its own, which travels with all that it says.
        from threading import Event

        from edgellama.kernels_cpu.threads.thread_team import ThreadTeam

        ThreadTeam.run = lambda *arguments, **how: Event().wait()  # type: ignore

    stages = stages_of(smollm2_path, has_line=has_line, silence_s=0.5, stuck_s=1)
    with SpreadLlama(smollm2_path, stages, context_length=512) as llama:
        text, hung = "", 0
        for chunk in llama.stream(PROMPT, max_tokens=40, seed=3, temperature=0.7):
            text += chunk.text
            if not hung and text.count(" ") >= 8:
                hung = pid_of(llama.stages[1])
                ray.get(llama.stages[1]._actor.__ray_call__.remote(hang))
        assert hung and text == expected
        assert pid_of(llama.stages[1]) != hung


def test_hooks_over_two_nodes(cluster: Any, smollm2_path: Path) -> None:
    """A function of this process changes what other nodes compute, as in one process."""

    def steer(rows: np.ndarray, step: StepRows) -> None:
        rows[:, :8] += step.positions[:, None] % 5

    texts = []
    with (
        Llama(smollm2_path, exact=True, context_length=512) as whole,
        SpreadLlama(smollm2_path, stages_of(smollm2_path), context_length=512) as spread,
    ):
        for llama in (whole, spread):
            hook = llama.add_hook(steer, layers=[5, 20])
            how: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "logprobs": 1}
            texts.append(llama.generate(PROMPT, **how))
            llama.remove_hook(hook)
            texts.append(llama.generate(PROMPT, regex="[a-z ]+", **how))
    assert texts[0].logprobs == texts[2].logprobs != texts[1].logprobs
    assert texts[1].logprobs == texts[3].logprobs
    with (
        SpreadLlama(
            smollm2_path, stages_of(smollm2_path, has_line=False), context_length=512
        ) as spread,
        pytest.raises(InvalidOptionError, match="no connection of its own"),
    ):
        spread.add_hook(steer)


def test_an_actor_that_is_killed_again_and_again(
    cluster: Any, smollm2_path: Path, expected: str
) -> None:
    """In a long prompt, while it comes back, in a batch: every text is that of one process."""
    long = PROMPT * 60
    with Llama(smollm2_path, exact=True, context_length=1024, num_threads=1) as whole:
        wanted = whole.generate(long, max_tokens=12, seed=3, temperature=0.7).text
    with SpreadLlama(
        smollm2_path, stages_of(smollm2_path), context_length=1024, chunk_tokens=128
    ) as llama:
        kills = 0

        def kill(done: int, total: int) -> None:
            nonlocal kills
            if kills < 2:
                os.kill(pid_of(llama.stages[kills]), signal.SIGKILL)
                kills += 1

        killer = threading.Thread(target=lambda: (time.sleep(0.3), kill(0, 0)))
        killer.start()
        text = llama.generate(long, max_tokens=12, seed=3, temperature=0.7, on_prefill=kill).text
        killer.join()
        assert kills == 2 and text == wanted
        stages = [llama.stages[0], llama.stages[0], llama.stages[1]]
        found = {}
        options = {"max_tokens": 40, "seed": 3, "temperature": 0.7}
        batch = llama.generate_batch([PROMPT, "One, two,", PROMPT, "A"] * 2, width=4, **options)
        for result in batch:
            found[result.index] = result.text
            if stages:
                os.kill(pid_of(stages.pop()), signal.SIGKILL)
        assert {found[0], found[2], found[4], found[6]} == {expected}


def test_a_node_that_goes_and_comes_back_is_a_longer_pause(
    cluster: Any, smollm2_path: Path, expected: str
) -> None:
    """A whole node is killed in mid-answer, another one takes its name."""
    with SpreadLlama(smollm2_path, stages_of(smollm2_path), context_length=512) as llama:
        text, is_killed = "", False
        for chunk in llama.stream(PROMPT, max_tokens=40, seed=3, temperature=0.7):
            text += chunk.text
            if not is_killed and text.count(" ") >= 8:
                cluster.remove_node(cluster.laptop, allow_graceful=False)
                cluster.laptop = cluster.add_node(num_cpus=1, resources={"laptop": 1})
                is_killed = True
        assert is_killed
        assert text == expected


def test_what_is_wrong_on_a_node_is_said(cluster: Any, smollm2_path: Path) -> None:
    """Another file, a missing one, and a machine that is not there, each in one line."""
    with pytest.raises(ModelFileError, match="another model than the driver's"):
        start_stages([StageOrder(str(smollm2_path), range(30), "0" * 32, "desk")])
    with pytest.raises(ModelNotFoundError):
        start_stages([StageOrder("nowhere.gguf", range(30), "0" * 32, "desk")])
    with pytest.raises(EdgellamaError, match="layers 0 to 29 on moon did not start within 2 s"):
        start_stages([StageOrder(str(smollm2_path), range(30), "0" * 32, "moon")], timeout_s=2)


def test_the_command_spreads_a_model(
    cluster: Any, smollm2_path: Path, run_cli: CliRunner, expected: str
) -> None:
    """What does not fit here runs on a machine of the cluster, too, with the same text."""
    result = run_cli(
        *("cluster", "run", smollm2_path, "--machines", "here:140MB:20,desk:140MB:20"),
        *("-c", "256", "--exact", "--address", cluster.address, "-p", PROMPT),
        *("-n", "40", "--seed", "3", "--temperature", "0.7"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip("\n") == expected.rstrip("\n")


def test_a_cluster_that_is_not_there_is_one_line(smollm2_path: Path, run_cli: CliRunner) -> None:
    """The address is named, with how to start a cluster."""
    result = run_cli(
        *("cluster", "run", smollm2_path, "--machines", "here:140MB:20,desk:140MB:20", "-c", "256"),
        *("--address", "127.0.0.1:9", "-p", PROMPT),
    )
    assert result.returncode == 1
    assert "no Ray cluster at 127.0.0.1:9" in result.stderr


def stage_pids() -> set[int]:
    """The processes in which stages run on this machine."""
    import psutil

    found = psutil.process_iter(["pid", "cmdline"])
    return {p.pid for p in found if "ray::StageActor" in " ".join(p.info["cmdline"] or ())}


def until(condition: Callable[[], bool]) -> bool:
    """Whether something comes about within half a minute."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_server_over_nodes_outlives_a_stage_but_no_stage_a_server(
    cluster: Any, smollm2_path: Path
) -> None:
    """A killed actor is a pause of a stream over HTTP; a killed server leaves no actor behind."""
    arguments = ("--machines", "here:140MB:20,desk:140MB:20", "-c", "256", "--exact")
    arguments += ("--parallel", "1", "--address", cluster.address)
    before = stage_pids()
    fields = {
        "prompt": PROMPT, "max_tokens": 40, "seed": 3, "temperature": 0.7, "stream": True,
    }  # fmt: skip
    with (
        served(smollm2_path, *arguments) as started,
        client_of(started[1]) as client,
    ):
        texts = []
        for kills in (False, True):
            text = ""
            with client.stream("POST", "/v1/completions", json=fields) as response:
                for line in response.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    text += json.loads(line[len("data: ") :])["choices"][0]["text"]
                    if kills and text.count(" ") >= 8:
                        (pid,) = stage_pids() - before
                        os.kill(pid, signal.SIGKILL)
                        kills = False
            texts.append(text)
        assert texts[0] == texts[1] and len(texts[0]) > 60
        assert until(lambda: bool(stage_pids() - before))
        started[0].kill()
        assert until(lambda: not stage_pids() - before)
