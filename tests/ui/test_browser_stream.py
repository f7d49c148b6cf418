"""The Stream panel in a real Chromium: it grows, is stopped, goes on, is downloaded, and foreign
text stays text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser_page import Page, marks, serve_fake

pytestmark = marks


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("app")
    yield from serve_fake(
        home / "log", "--memories", "3", "--pace", "0.15", LATENTMEM_BANK=str(home / "bank.sqlite")
    )


HEIGHT = "return document.querySelector(arguments[0] + ' .lm-figure').offsetHeight"
LINES = "return document.querySelectorAll('#lm-stream-curve .scatterlayer .trace').length"


def test_a_stream_is_watched_stopped_taken_up_again_and_downloaded(
    page: Page, url: str, tmp_path: Path
) -> None:
    page.open(url)
    page.tab("Stream")
    assert "Nothing has been streamed yet" in page.text("#lm-stream-status")
    assert page.run(HEIGHT, "#lm-stream-curve") == 0, "no empty axes"
    page.click("#lm-stream-start")
    page.until(LINES + " === 2")
    assert page.run(HEIGHT, "#lm-stream-curve") > 200
    page.until("return document.querySelectorAll('#lm-stream-problems .arrival').length >= 2")
    page.click("#lm-stream-stop")
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('Press Go on')"
    )
    page.until("return document.querySelector('#lm-stream-start').innerText.includes('Go on')")
    page.click("#lm-stream-start")
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('Done: 8 problems "
        "met')"
    )
    page.until("return document.querySelectorAll('#lm-stream-problems .arrival').length === 8")
    assert "8" in page.text("#lm-stream-table tbody td:nth-of-type(2)")
    page.driver.execute_cdp_cmd(
        "Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    page.click("#lm-stream-download")
    page.until(lambda: [f for f in tmp_path.glob("*.jsonl") if f.read_text().endswith("\n")])
    text = next(tmp_path.glob("*.jsonl")).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [x["record"] for x in lines].count("Result") == 16
    assert page.errors() == []


ARRIVALS = "return document.querySelectorAll('#lm-stream-problems .arrival').length"
STOPPED = "return document.querySelector('#lm-stream-status').innerText.includes('Press Go on')"


AT_ONCE = """const eager = setInterval(() => {
    const go = document.querySelector('#lm-stream-start');
    if (go.disabled || !go.innerText.includes('Go on')) return;
    clearInterval(eager);
    go.click();
}, 5);"""


def test_going_on_the_moment_a_stream_has_stopped_is_not_lost(page: Page, url: str) -> None:
    """gradio believes the stopped event to be running until its cancel is answered, and such an
    event ignores a press."""
    page.open(url)
    page.tab("Stream")
    page.write("#lm-stream-seed input", "5")
    page.click("#lm-stream-start")
    for arrivals in (1, 2, 3):
        page.until(
            f"{ARRIVALS} >= {arrivals} && !document.querySelector('#lm-stream-stop').disabled"
        )
        page.run(AT_ONCE)
        page.click("#lm-stream-stop")
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('Done: 8 problems "
        "met')"
    )
    assert page.errors() == []


def still(page: Page, script: str, seconds: float = 3) -> int:
    """What a script gives, once it has been the same for a while."""
    value, since = page.run(script), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.1)
        if (now := page.run(script)) != value:
            value, since = now, time.monotonic()
    return value


def test_a_stream_goes_on_while_the_page_is_reloaded(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Stream")
    page.write("#lm-stream-seed input", "3")
    page.click("#lm-stream-start")
    page.until(ARRIVALS + " >= 2")
    assert page.reload() == []
    page.until(
        "return document.querySelector('#lm-stream-stop') && "
        "!document.querySelector('#lm-stream-stop').disabled"
    )
    page.until(LINES + " === 2")
    page.until(ARRIVALS + " >= 2")  # what was there comes back
    before = page.run(ARRIVALS)
    assert page.run("return document.querySelector('#lm-stream-seed input').value") == "3"
    page.until(ARRIVALS + " > arguments[0]", before)  # and it is live
    page.click("#lm-stream-stop")
    page.until(STOPPED)
    stopped = still(page, ARRIVALS)
    assert stopped < 8, "the problem in hand is ended, and no other is begun"
    assert page.reload() == []
    page.until(STOPPED)
    page.until(LINES + " === 2")
    assert page.run(ARRIVALS) >= stopped and page.text("#lm-stream-table tbody th")
    assert page.text("#lm-stream-start") == "Go on" and "Begin again" in page.text(
        "#lm-stream-again"
    )
    page.until("return document.querySelector('#lm-stream-download').getClientRects().length")
    page.click("#lm-stream-start")
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('Done: 8 problems "
        "met')"
    )
    assert page.errors() == []


def test_an_uploaded_set_cannot_bring_markup(page: Page, url: str, tmp_path: Path) -> None:
    nasty = "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{window.hurt}} 4"
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"problem": nasty, "answer": "<script>window.hurt=1</script>"}) + "\n{broken\n"
    )
    page.open(url)
    page.tab("Stream")
    page.run(
        "const i = document.querySelector('#lm-stream-file input[type=file]'); i.style.display = "
        "'block'; i.hidden = false;"
    )
    page.driver.find_element("css selector", "#lm-stream-file input[type=file]").send_keys(
        str(file)
    )
    page.until("return document.querySelector('#lm-stream-file').innerText.includes('mine')")
    page.click("#lm-stream-start")
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('Done: 1 problem "
        "met')"
    )
    assert "line 2 is not JSON" in page.text("#lm-stream-status")
    assert "<img src=x" in page.text("#lm-stream-problems") and page.run(
        "return window.hurt === undefined"
    )
    assert page.reload() == []
    page.until(
        "return document.querySelector('#lm-stream-file')?.innerText.includes('mine')"
    )  # the upload, too
    page.until(
        "return document.querySelector('#lm-stream-status').innerText.includes('line 2 is not "
        "JSON')"
    )
