"""Thinking on the page in a real browser: folded once the answer begins, and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.servers import RunningServer, running_server
from reference.thinking_model import ANSWER, THOUGHT, write_thinking_model

from browser.conftest import until
from edgellama.server.settings import ServerSettings

pytest.importorskip("selenium")

from selenium.webdriver import Keys
from selenium.webdriver.common.by import By


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of a model that thinks."""
    model = write_thinking_model(tmp_path / "thinker.gguf")
    settings = ServerSettings(
        models={"thinker": model}, only_given=True, store=tmp_path / "responses.sqlite"
    )
    with running_server(settings) as running:
        yield running


def send(browser: Any, text: str, number: int) -> Any:
    """Ask, and wait for the end of the reply of that number."""
    browser.find_element(By.ID, "text").send_keys(text, Keys.ENTER)
    selector = "#messages .message.assistant"

    def ended() -> Any:
        replies = browser.find_elements(By.CSS_SELECTOR, selector)
        is_writing = browser.find_elements(By.CSS_SELECTOR, ".writing")
        if len(replies) == number and not is_writing and ANSWER in replies[-1].text:
            return replies[-1]
        return None

    return until(ended)


def test_thinking_is_a_block_that_can_be_folded(server: RunningServer, browser: Any) -> None:
    """It is folded behind the answer, opens by a click, and comes back with the conversation."""
    browser.get(server.url)
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
    reply = send(browser, "What is 2 + 2?", 1)
    block = reply.find_element(By.CSS_SELECTOR, "details.thinking")
    assert block.get_attribute("open") is None
    assert THOUGHT not in reply.text
    assert reply.find_element(By.CLASS_NAME, "body").text == ANSWER
    block.find_element(By.TAG_NAME, "summary").click()
    assert block.find_element(By.CLASS_NAME, "thought").text == THOUGHT
    browser.refresh()
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "details.thinking"))
    browser.execute_script(
        "document.getElementById('option-think').value = 'off';"
        "document.getElementById('option-think').dispatchEvent(new Event('change'));"
    )
    quick = send(browser, "Sure?", 2)
    assert not quick.find_elements(By.CSS_SELECTOR, "details.thinking")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
