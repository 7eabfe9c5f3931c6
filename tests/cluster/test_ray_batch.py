"""Batches on Ray Data, on a cluster of this machine; ``python -m pytest -m ray``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CliRunner

pytestmark = pytest.mark.ray
OPTIONS = ("-n", "12", "--temperature", "0.8", "--seed", "5", "-w", "4", "-c", "64")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes."""
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=2)
    yield cluster.address
    cluster.shutdown()


def prompts(folder: Path, count: int) -> Path:
    """A file of prompts, two of which cannot run."""
    path = folder / "in.jsonl"
    lines: list[Any] = [{"id": f"p{number}", "prompt": f"Number {number} is"}
                        for number in range(count)]  # fmt: skip
    lines[3] = {"id": "p3", "prompt": "word " * 200}
    texts = [json.dumps(line) for line in lines]
    texts[5] = "no JSON"
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path


def lines_of(path: Path) -> dict[Any, Any]:
    """Lines by id, each there once."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def test_lines_are_those_of_one_process(
    address: str, smollm2_path: Path, tmp_path: Path, run_cli: CliRunner
) -> None:
    """Texts and errors alike; the same command again finds nothing left to do."""
    source = prompts(tmp_path, 30)
    exact = (*OPTIONS, "--exact")
    run_cli("batch", smollm2_path, source, tmp_path / "one.jsonl", *exact)
    many = ("batch", smollm2_path, source, tmp_path / "many.jsonl", *exact, "--ray")
    result = run_cli(*many, "--address", address)
    assert "2 of 30 lines failed" in result.stderr, result.stderr
    assert lines_of(tmp_path / "many.jsonl") == lines_of(tmp_path / "one.jsonl")
    again = run_cli(*many, "--address", address)
    assert again.returncode == 0 and "30 were done before" in again.stderr


def test_a_killed_batch_goes_on_and_killed_workers_are_replaced(
    address: str, smollm2_path: Path, tmp_path: Path, run_cli: CliRunner
) -> None:
    """Workers die by the way; the driver is killed, too; every line comes once in the end."""
    source, target = prompts(tmp_path, 60), tmp_path / "out.jsonl"
    arguments = ["batch", str(smollm2_path), str(source), str(target), *OPTIONS]
    arguments += ["--ray", "--address", address]
    driver = subprocess.Popen(
        [sys.executable, "-m", "edgellama", *arguments], stderr=subprocess.PIPE
    )
    killed = False
    while not (target.exists() and target.read_bytes().count(b"\n") >= 12):
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        if not killed and (pids := worker_pids()):
            time.sleep(1)
            # One of the test before may still have been at its end.
            with contextlib.suppress(ProcessLookupError):
                os.kill(max(pids), signal.SIGKILL)
                killed = True
        time.sleep(0.05)
    driver.kill()
    driver.communicate()
    num_done = target.read_bytes().count(b"\n")
    assert killed and num_done < 60
    result = run_cli(*arguments)
    assert "done before" in result.stderr, result.stderr
    assert set(lines_of(target)) == {f"p{number}" for number in range(60)} - {"p5"} | {6}


def worker_pids() -> set[int]:
    """The processes of workers on this machine."""
    import psutil

    found = psutil.process_iter(["pid", "cmdline"])
    return {p.pid for p in found if "BatchWorker" in " ".join(p.info["cmdline"] or ())}


def test_what_is_wrong_on_a_node_is_one_line(
    address: str, smollm2_path: Path, tmp_path: Path, run_cli: CliRunner
) -> None:
    """An option that no model takes, a cluster that is not there, an option without --ray."""
    source = prompts(tmp_path, 8)
    command = ("batch", smollm2_path, source, tmp_path / "out.jsonl", *OPTIONS)
    for more, words in (
        (("--ray", "--address", address, "--lora", "nowhere.gguf"), "nowhere.gguf"),
        (("--ray", "--address", "127.0.0.1:9"), "no Ray cluster at 127.0.0.1:9"),
        (("--workers", "2"), "--workers needs --ray"),
    ):
        result = run_cli(*command, *more)
        assert result.returncode != 0
        assert words in result.stderr and "Traceback" not in result.stderr, result.stderr
