"""The page in a real browser, with a real model: python -m pytest -m browser tests/browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from browser.conftest import Served, until

pytest.importorskip("selenium")

from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

LONG = "Tell me a very long story about a dragon, with many chapters."
HOSTILE = (
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "![a](http://evil.example/a.png) ![b](javascript:window.hit=1)",
    "[link](javascript:window.hit=1) [ok](https://ok.example/a)",
    "<a href=\"javascript:window.hit=1\" onmouseover='window.hit=1'>a</a>",
    "```html\n<script>window.hit=1</script>\n```",
    '```"><img src=x onerror=window.hit=1>\ncode\n```',
    "`<svg onload=window.hit=1>`",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<style>@import 'http://evil.example/a.css'</style>",
    "| a |\n|---|\n| <b onclick=window.hit=1>x</b> |",
    "<form action=http://evil.example><input name=attributes></form>",
    "[a]: http://ok.example 'x\"onmouseover=window.hit=1'\n\n[a]",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
)
FORMULAS = r"""The root is \(x = \frac{-b}{2a}\), $a_1*b_1$ and $a_2*b_2$.
It costs $5 and $10, not `$x$` or \$3.

\[
\int_0^1 x
- 1
\]

$$\sum_i i$$ $$ \nosuch{x} $$

$$ \href{javascript:window.hit=1}{x} $$

| a | b |
|---|--:|
| $x$ | 2 |

3. third
"""
ALLOWED = (
    "return [...document.querySelectorAll('#messages .body *')].flatMap(each => ["
    "...(['SCRIPT','IMG','IFRAME','STYLE','FORM','INPUT','SVG','OBJECT','LINK','MATH']"
    ".includes(each.nodeName.toUpperCase()) ? [each.outerHTML] : []),"
    "...[...each.attributes].filter(one => /^on|^style$|^src/.test(one.name)"
    " || /javascript:/i.test(one.value)).map(one => one.name + '=' + one.value)])"
)
INCREMENTAL = """
const [texts, done] = arguments;
(async () => {
  const base = document.querySelector('script[type=module]').src.replace('app.js', '');
  const { MarkdownView } = await import(base + 'markdown.js');
  const body = document.createElement('div');
  body.className = 'body';
  document.getElementById('messages').append(body);
  for (const text of texts) {
    const view = new MarkdownView(body);
    for (let end = 1; end <= text.length; end += 1) view.update(text.slice(0, end));
  }
  await new Promise((resolve) => setTimeout(resolve, 300));
  done(window.hit ?? null);
})();
"""


class Page:
    """The page as somebody who looks at it and types."""

    def __init__(self, driver: Any, served: Served) -> None:
        self.driver = driver
        self.served = served

    def open(self, place: str = "") -> Page:
        """Go there, and wait until the page is ready."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.served.url}/{place}")
        return self.ready()

    def ready(self) -> Page:
        """Wait until its modules have run."""
        until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
        return self

    def type(self, *keys: str) -> None:
        """Keys for what has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def send(self, text: str) -> None:
        """Write a message and send it."""
        self.driver.find_element(By.ID, "text").send_keys(text, Keys.ENTER)

    def texts(self, kind: str) -> list[str]:
        """What the messages of a kind say."""
        script = f"return [...document.querySelectorAll('.{kind} .body')].map(x => x.textContent)"
        return list(self.driver.execute_script(script))

    def is_shown(self, name: str) -> bool:
        """Whether an element can be seen."""
        return bool(self.driver.find_element(By.ID, name).is_displayed())

    def finish(self) -> str:
        """Wait for the reply's end; the last reply."""
        until(lambda: self.is_shown("send") and not self.is_shown("stop"), 60)
        return self.texts("assistant")[-1]

    def begin(self) -> None:
        """Wait until something of a reply is there."""
        until(lambda: len((self.texts("assistant") or [""])[-1]) > 20)

    def press(self, label: str) -> None:
        """Press the last button with these words."""
        buttons = self.driver.find_elements(By.XPATH, f"//main//button[text()='{label}']")
        buttons[-1].click()

    def note(self) -> str:
        """What stands below the last reply."""
        return "".join(x.text for x in self.driver.find_elements(By.CSS_SELECTOR, ".note"))

    def problems(self) -> list[str]:
        """What the console complains of, beside connections that a test has cut."""
        log = self.driver.get_log("browser")
        return [x["message"] for x in log if x["level"] == "SEVERE" and "ERR_" not in x["message"]]


@pytest.fixture
def page(browser: Any, served: Served) -> Page:
    """The page, freshly opened."""
    if served.process.poll() is not None:
        served.start()
    return Page(browser, served).open()


def test_a_message_is_answered_and_kept(page: Page) -> None:
    """The reply streams in, has figures, survives a reload, and everything came from the server."""
    page.send("Say hello in five words.")
    reply = page.finish()
    assert reply.strip()
    assert "tokens/s" in page.driver.find_element(By.CSS_SELECTOR, ".assistant .tools").text
    assert "of 4,096 tokens" in page.driver.find_element(By.ID, "context").text
    page.driver.refresh()
    page.ready()
    until(lambda: page.texts("assistant") == [reply])
    assert page.texts("user") == ["Say hello in five words."]
    script = "return performance.getEntriesByType('resource').map(each => each.name)"
    names = page.driver.execute_script(script)
    assert len(names) > 10 and all(name.startswith(page.served.url) for name in names)
    assert page.problems() == []


def test_escape_stops_and_the_beginning_stays(page: Page) -> None:
    """What came is kept, says that it was stopped, and can be continued; the server rests."""
    page.send(LONG)
    page.begin()
    page.type(Keys.ESCAPE)
    reply = page.finish()
    assert page.note() == "Stopped." and len(reply) > 20
    assert httpx.get(f"{page.served.url}/health").json()["running"] == 0
    page.press("Continue")
    until(lambda: len(page.texts("assistant")[-1]) > len(reply) + 10)
    page.type(Keys.ESCAPE)
    assert page.finish().startswith(reply.strip()[:20])
    assert len(page.texts("assistant")) == 1 and page.problems() == []


def test_messages_and_the_field_are_one_column(page: Page) -> None:
    """Their edges are in line, whether there is a scrollbar or not."""
    page.send("Say hello.")
    page.finish()
    script = """
        const edges = (name) => {
            const box = document.querySelector(name).getBoundingClientRect();
            return [Math.round(box.left), Math.round(box.right)];
        };
        return [edges(".message.assistant"), edges(".field")];
    """
    for _ in range(2):
        message, field = page.driver.execute_script(script)
        assert message == field
        page.driver.execute_script("document.querySelector('.message').style.height = '300vh'")


def test_only_a_message_with_text_can_be_sent(page: Page) -> None:
    """The button rests while the field has nothing but spaces."""
    button, text = (page.driver.find_element(By.ID, name) for name in ("send", "text"))
    assert not button.is_enabled()
    text.send_keys("   ")
    assert not button.is_enabled()
    text.send_keys("Hi")
    assert button.is_enabled()
    button.click()
    assert page.finish() and not button.is_enabled()


def test_a_reload_while_it_writes_loses_nothing(page: Page) -> None:
    """What was there before the reload is there after it."""
    page.send(LONG)
    page.begin()
    before = page.texts("assistant")[-1]
    page.driver.refresh()
    page.ready()
    until(lambda: page.texts("assistant") and page.texts("assistant")[-1].startswith(before[:20]))
    page.finish()
    assert page.texts("user") == [LONG] and page.problems() == []


def test_edits_and_repetitions_are_branches(page: Page) -> None:
    """Other versions can be gone back to."""
    page.send("Name a colour.")
    page.finish()
    page.press("Regenerate")
    page.finish()
    assert "2 / 2" in page.driver.find_element(By.CSS_SELECTOR, ".assistant .tools").text
    page.press("Edit")
    page.type(Keys.CONTROL, "a", Keys.NULL, "Name an animal.", Keys.ENTER)
    until(lambda: page.texts("user") == ["Name an animal."])
    page.finish()
    page.driver.find_element(By.CSS_SELECTOR, ".user [aria-label='Previous version']").click()
    until(lambda: page.texts("user") == ["Name a colour."])
    page.driver.refresh()
    page.ready()
    until(lambda: page.texts("user") == ["Name a colour."])
    assert page.problems() == []


def test_two_tabs_see_the_same(page: Page) -> None:
    """A reply that one tab asks for grows in the other, too."""
    page.send("Say one word.")
    page.finish()
    driver, first = page.driver, page.driver.current_window_handle
    place = driver.current_url.rpartition("/#")[2]
    driver.switch_to.new_window("tab")
    second = page.open(f"#{place}")
    until(lambda: len(second.texts("user")) == 1)
    driver.switch_to.window(first)
    page.send("Say two words.")
    page.finish()
    seen = page.texts("assistant")
    driver.switch_to.window(driver.window_handles[-1])
    until(lambda: second.texts("assistant") == seen)
    assert second.texts("user") == ["Say one word.", "Say two words."]
    assert page.problems() == []


def test_a_broken_connection_is_told_and_mended(page: Page) -> None:
    """The server dies in mid-reply and comes back: the question is there, to be asked again."""
    page.send(LONG)
    page.begin()
    page.served.kill()
    until(lambda: "connection" in page.driver.find_element(By.ID, "notice").text.lower())
    page.served.start()
    page.finish()
    assert page.texts("user") == [LONG]
    page.press("Regenerate")
    page.begin()
    page.type(Keys.ESCAPE)
    page.finish()
    page.served.kill()
    page.send("Are you there?")
    until(lambda: "broke" in page.driver.find_element(By.ID, "notice").text)
    text = page.driver.find_element(By.ID, "text")
    assert text.get_attribute("value") == "Are you there?"
    page.served.start()
    text.send_keys(Keys.ENTER)
    until(lambda: len(page.texts("user")) == 2)
    page.type(Keys.ESCAPE)
    page.finish()
    assert page.problems() == []


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_says_never_runs(page: Page, text: str) -> None:
    """The model says it letter by letter; the page shows it, and neither runs nor fetches it."""
    name = page.served.ask(content="Say it.", choices=[text])
    page.open(f"#/c/{name}")
    until(lambda: page.texts("assistant"))
    assert page.driver.execute_script(ALLOWED) == []
    assert page.driver.execute_script("return window.hit ?? null") is None
    script = "return performance.getEntriesByType('resource').map(each => each.name)"
    assert not [each for each in page.driver.execute_script(script) if "evil" in each]
    for link in page.driver.find_elements(By.CSS_SELECTOR, "#messages a"):
        assert "noopener" in link.get_attribute("rel") and link.get_attribute("target") == "_blank"
    assert page.problems() == []


def test_formulas_tables_and_lists_are_drawn(page: Page) -> None:
    """What stands between marks is MathML; prices, code and what is no formula stay text.

    Columns are aligned as the text says, and numbers go on.
    """
    name = page.served.ask(content="Say it.", choices=[FORMULAS])
    page.open(f"#/c/{name}")
    until(lambda: page.texts("assistant"))
    found = "return [...document.querySelectorAll('.body math')].map(each => each.textContent)"
    assert [text.replace("\u2062", "") for text in page.driver.execute_script(found)] == [
        *("x=\u2212b2a", "a1\u2217b1", "a2\u2217b2", "\u222b01x\u22121", "\u2211ii", "x"),
    ]
    (text,) = page.texts("assistant")
    assert "It costs $5 and $10, not $x$ or $3." in text
    assert r"$$ \nosuch{x} $$" in text and r"\href{javascript:window.hit=1}" in text
    cell = "return getComputedStyle(document.querySelector('.body td[align=right]')).textAlign"
    assert page.driver.execute_script(cell) in ("right", "-webkit-right")
    assert page.driver.execute_script("return document.querySelector('.body ol').start") == 3
    assert page.driver.execute_async_script(INCREMENTAL, [FORMULAS]) is None
    assert page.problems() == []


def test_letters_that_run_to_the_left_do(page: Page) -> None:
    """Each paragraph, list and table of a text by its own letters, whatever stands beside it."""
    hebrew = "\u05e9\u05dc\u05d5\u05dd"
    text = f"{hebrew} abc\n\n- {hebrew}\n- two\n\nabc {hebrew}\n\n1. abc\n"
    page.open(f"#/c/{page.served.ask(content=hebrew, choices=[text])}")
    until(lambda: page.texts("assistant"))
    found = (
        "return [...document.querySelectorAll('.body ul, .body ol')]"
        ".map(each => getComputedStyle(each).direction)"
    )
    assert page.driver.execute_script(found) == ["rtl", "ltr"]
    left = (
        "return [...document.querySelectorAll('.assistant .body p')].map(each => {"
        "const range = document.createRange(); range.selectNodeContents(each);"
        "const [text, box] = [range, each].map(one => one.getBoundingClientRect());"
        "return Math.round(text.left - box.left)})"
    )
    first, second = page.driver.execute_script(left)
    assert first > 100 and second == 0


def test_a_whole_chat_is_printed(page: Page) -> None:
    """Not only what the window shows, and without what is there to be pressed."""
    text = "A paragraph.\n\n" * 60
    page.open(f"#/c/{page.served.ask(content='Print.', choices=[text])}")
    until(lambda: page.texts("assistant"))
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        box = page.driver.find_element(By.ID, "messages")
        assert box.size["height"] >= int(box.get_attribute("scrollHeight")) > 1000
        assert not any(map(page.is_shown, ("sidebar", "composer", "open-settings")))
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_half_of_it_never_runs_either(page: Page) -> None:
    """While a hostile text grows, no beginning of it becomes more than text."""
    assert page.driver.execute_async_script(INCREMENTAL, HOSTILE) is None
    assert page.driver.execute_script(ALLOWED) == [] and page.problems() == []


def test_the_policy_holds_where_all_else_fails(page: Page) -> None:
    """Markup as a text, inline scripts and foreign addresses are refused by the browser itself."""
    inline = (
        "const s = document.createElement('script');"
        "try { s.textContent = 'window.hit=1'; document.body.append(s) } catch { }"
        "try { document.body.innerHTML = '<img src=x onerror=window.hit=1>' } catch { return 'no' }"
        "return window.hit ?? null"
    )
    assert page.driver.execute_script(inline) == "no"
    assert page.driver.execute_script("return window.hit ?? null") is None


def test_keys_reach_everything(page: Page) -> None:
    """Shift+Enter breaks a line, Ctrl+K searches, Enter opens what is found."""
    page.send("The quick brown fox, unmistakably.")
    page.finish()
    page.type(Keys.CONTROL, Keys.SHIFT, "o", Keys.NULL)
    until(lambda: page.texts("user") == [])
    page.type("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert page.driver.find_element(By.ID, "text").get_attribute("value") == "one\ntwo"
    page.type(Keys.CONTROL, "k", Keys.NULL, "UNMISTAKABLY quick")
    until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#conversations a")) == 1)
    page.type(Keys.ENTER)
    until(lambda: page.texts("user") == ["The quick brown fox, unmistakably."])
    assert page.problems() == []


def test_everything_has_a_name(page: Page) -> None:
    """Screen readers find words for every control, and are told of the reply."""
    page.send("Say hello.")
    reply = page.finish()
    nameless = [
        each.get_attribute("outerHTML")
        for each in page.driver.find_elements(By.CSS_SELECTOR, "button, input, select, textarea")
        if each.is_displayed() and not each.accessible_name
    ]
    assert nameless == []
    live = page.driver.find_element(By.ID, "live").get_attribute("textContent")
    assert " ".join(reply.split())[:10] in " ".join(live.split())


def test_a_phone_shows_one_thing_at_a_time(page: Page) -> None:
    """The list opens over the chat with the focus in it, Escape closes it, nothing sticks out."""
    page.driver.set_window_size(500, 850)
    opener = page.driver.find_element(By.ID, "open-sidebar")
    until(lambda: opener.get_attribute("aria-expanded") == "false")
    opener.click()
    until(lambda: page.driver.switch_to.active_element.get_attribute("id") == "close-sidebar")
    assert opener.get_attribute("aria-expanded") == "true"
    assert page.driver.execute_script("return document.querySelector('main').inert")
    page.type(Keys.ESCAPE)
    until(lambda: opener.get_attribute("aria-expanded") == "false")
    assert page.driver.switch_to.active_element.get_attribute("id") == "text"
    page.send("Hello.")
    page.finish()
    emulated = {"width": 340, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    for name in ("speed", "context"):
        assert page.driver.find_element(By.ID, name).size["height"] < 24, "on one line"
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    width = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.driver.execute_script(width)
    assert page.problems() == []


def test_enter_that_ends_a_composition_sends_nothing(page: Page) -> None:
    """Neither where the browser says that it composes, nor where the key's code alone does."""
    page.type("kana")
    press = "document.getElementById('text').dispatchEvent(new KeyboardEvent('keydown', %s))"
    for how in ("{key: 'Enter', isComposing: true}", "{key: 'Enter', keyCode: 229}"):
        page.driver.execute_script(press % how)
    assert page.driver.find_element(By.ID, "text").get_attribute("value") == "kana"
    assert page.texts("user") == []


def test_conversations_are_renamed_and_deleted(page: Page) -> None:
    """By the menu of the list, with the keyboard alone."""
    page.send("Say something to forget.")
    page.finish()
    more = until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "[aria-current] + button"))[0]
    page.driver.execute_script("arguments[0].focus()", more)
    page.type(Keys.ENTER)
    page.type(Keys.ENTER)
    page.type("Another name", Keys.ENTER)
    found = "//nav//a[contains(., 'Another name')]"
    until(lambda: page.driver.find_elements(By.XPATH, found))
    until(lambda: page.driver.title.startswith("Another name"))
    more = until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "[aria-current] + button"))[0]
    page.driver.execute_script("arguments[0].focus()", more)
    page.type(Keys.ENTER)
    page.type(Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)
    page.type(Keys.ENTER)
    until(lambda: not page.driver.find_elements(By.XPATH, found))
    until(lambda: page.texts("user") == [])
    assert page.problems() == []


def test_a_chat_is_imported(page: Page, tmp_path: Path) -> None:
    """What was exported as JSON is a chat again, and is shown; what was not is told."""
    name = page.served.ask(content="To be moved.", choices=["**Moved**"])
    exported = httpx.get(f"{page.served.url}/page/conversations/{name}").text
    httpx.delete(f"{page.served.url}/page/conversations/{name}")
    (tmp_path / "chat.json").write_text(exported, "utf-8")
    (tmp_path / "note.json").write_text("no JSON", "utf-8")
    field = page.driver.find_element(By.ID, "import-file")
    field.send_keys(str(tmp_path / "note.json"))
    until(lambda: page.is_shown("notice"))
    assert "note.json is no chat" in page.driver.find_element(By.ID, "notice").text
    field.send_keys(str(tmp_path / "chat.json"))
    until(lambda: page.texts("assistant"))
    assert page.texts("user") == ["To be moved."] and page.texts("assistant")[0].strip() == "Moved"
    assert not page.is_shown("notice") and name not in page.driver.current_url


def test_settings_hold(page: Page) -> None:
    """A schema makes JSON of the reply; a wrong one is told before anything is sent."""
    page.driver.find_element(By.ID, "open-settings").click()
    schema = page.driver.find_element(By.ID, "option-schema")
    schema.send_keys("{no")
    page.send("Anything.")
    until(lambda: "JSON Schema" in page.driver.find_element(By.ID, "settings-error").text)
    schema.send_keys(Keys.CONTROL, "a")
    schema.send_keys('{"enum": ["yes"]}')
    page.driver.find_element(By.ID, "text").send_keys(Keys.CONTROL, "a")
    page.send("Anything.")
    assert page.finish().strip() == '"yes"'
    page.driver.find_element(By.XPATH, "//aside[@id='settings']//button[text()='Reset']").click()
    assert page.problems() == []


def test_the_key_is_asked_for_once(browser: Any, tmp_path: Path) -> None:
    """A wrong key is asked for again, the right one holds for the tab, and nothing shows before."""
    served = Served(tmp_path / "data", key="open sesame")
    try:
        page = Page(browser, served)
        browser.get(served.url)
        text = browser.find_element(By.ID, "key-text")
        until(text.is_displayed)
        text.send_keys("wrong", Keys.ENTER)
        until(lambda: text.is_displayed() and not text.get_attribute("value"))
        text.send_keys("open sesame", Keys.ENTER)
        page.ready()
        page.send("Say hello.")
        assert page.finish().strip()
        browser.refresh()
        page.ready()
        until(lambda: page.texts("user") == ["Say hello."])
        assert not browser.find_element(By.ID, "key-text").is_displayed()
    finally:
        served.kill()


def test_a_reply_goes_on_while_another_chat_is_shown(page: Page) -> None:
    """Looking elsewhere ends nothing; on coming back the reply grows, and Stop stops it."""
    page.send(LONG)
    page.begin()
    place = page.driver.current_url
    page.driver.find_element(By.ID, "new-chat").click()
    until(lambda: page.texts("user") == [])
    assert httpx.get(f"{page.served.url}/health").json()["running"] == 1
    page.driver.execute_script("location.href = arguments[0]", place)
    until(lambda: page.texts("assistant"))
    before = len(page.texts("assistant")[0])
    until(lambda: len(page.texts("assistant")[0]) > before and page.is_shown("stop"))
    page.driver.find_element(By.ID, "stop").click()
    until(lambda: httpx.get(f"{page.served.url}/health").json()["running"] == 0)
    until(lambda: page.note() == "Stopped." and not page.is_shown("stop"))
    assert page.problems() == []


def test_the_machine_is_shown(page: Page) -> None:
    """Memory by model, the queue, and the bandwidth once it is asked for."""
    page.driver.find_element(By.ID, "machine-tab").click()
    box = page.driver.find_element(By.ID, "machine")
    until(lambda: "smollm2" in box.text and "Waiting" in box.text)
    page.driver.find_element(By.ID, "measure-smollm2").click()
    until(lambda: "GB/s" in box.text)
    assert page.problems() == []
