"""A real Chromium and the real model, served by a process that tests may kill and start again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1200,850"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is for ``python -m pytest -m browser``."""
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.browser)


class Served:
    """The starter model on one port, with a folder of its own for what is kept."""

    def __init__(self, folder: Path, key: str = "") -> None:
        self.key = key
        self._environment = {**os.environ, "XDG_DATA_HOME": str(folder)}
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, on the same port as before."""
        command = [sys.executable, "-m", "edgellama", "serve", "smollm2", "--context", "4096"]
        more = ["--port", "0", "--api-key", "sk"] if not self.port else ["--port", str(self.port)]
        more += ["--api-key", self.key] if self.key and self.port else []
        self.process = subprocess.Popen(
            [*command, *more], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            env=self._environment,
        )  # fmt: skip
        if not self.port:
            assert self.process.stdout is not None
            self.port = json.loads(self.process.stdout.readline())["port"]
            self.kill()
            self.start()
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.communicate()

    def ask(self, **fields: Any) -> str:
        """Have the model say something; the conversation's id."""
        answer = httpx.post(f"{self.url}/page/chat", json=fields, timeout=60)
        assert answer.status_code == 200, answer.text
        begun = answer.text.partition("data: ")[2].partition("\n")[0]
        name: str = json.loads(begun)["conversation"]
        return name


def until(found: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``found`` gives once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the starter model."""
    served = Served(tmp_path_factory.mktemp("data"))
    try:
        yield served
    finally:
        served.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A Chromium with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()
