"""The app in a real Chromium: reloading, walking back, several tabs, links, loading, a shared app,
and the Stream panel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.browser_page import Page, drop, marks, serve_fake, solve

pytestmark = marks
ZOE = "Zoe sorts 12 shells into 3 boxes. How many shells lie in one box?"


def panel(page: Page) -> str:
    return page.run(
        "return document.querySelector('#lm-tabs "
        "button[role=tab][aria-selected=true]').dataset.tabId"
    )


def later(page: Page) -> None:
    """A minute later by the page's clock: for a moment after a page load a change of the address is
    no step of the visitor's."""
    page.run("const now = Date.now; Date.now = () => now() + 60_000")


def heights(page: Page) -> dict[int, int]:
    """Of the line at the top, by the width of the screen."""
    found = {}
    for width in (1440, 1100, 800, 390):
        page.resize(width)
        found[width] = round(
            page.run("return document.querySelector('.top').getBoundingClientRect().height")
        )
    return found


def test_a_first_visitor_sees_what_to_press(page: Page, url: str) -> None:
    page.open_anew(url)
    assert (
        "Press Solve" in page.text("#lm-status")
        and page.run("return document.querySelectorAll('.tile').length") == 6
    )
    box = page.run("return document.querySelector('#lm-problem textarea').value")
    assert box and page.run("return !document.querySelector('#lm-solve').disabled")
    text = page.text(".tile:nth-child(2) .tx")
    page.click(".tile:nth-child(2)")
    page.until("return document.querySelector('#lm-problem textarea').value === arguments[0]", text)
    assert page.errors() == []


def test_walking_back_and_forth(page: Page, url: str) -> None:
    page.open(url)
    later(page)
    page.tab("Memories")
    page.until("return location.search === '?panel=memories'")
    page.until("return document.querySelectorAll('table.bank tbody a').length >= 2")
    first, second = page.run(
        "return [...document.querySelectorAll('table.bank tbody a')].slice(0, 2).map(a => "
        "a.dataset.memory)"
    )
    for name in (first, second):
        page.click(f"table.bank tbody a[data-memory='{name}']")
        page.until(
            "return new URL(location.href).searchParams.get('memory') === arguments[0]", name
        )
    page.tab("Distil")
    page.until("return location.search === '?panel=distil'")
    opened = (
        "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
        "arguments[0]"
    )
    page.driver.back()
    page.until(opened, second)
    assert panel(page) == "memories"
    page.driver.back()
    page.until(opened, first)
    page.driver.back()
    page.until(opened, "")
    assert panel(page) == "memories" and page.driver.current_url.endswith("?panel=memories")
    page.driver.back()
    page.until(lambda: panel(page) == "solve")
    page.driver.forward()
    page.until(lambda: panel(page) == "memories")
    page.driver.forward()
    page.until(opened, first)
    assert page.errors() == []


def test_a_problem_can_be_linked_to(page: Page, url: str) -> None:
    page.open(f"{url}?problem={quote('What is 3 + 4 & 5?')}")
    page.until(
        "return document.querySelector('#lm-problem textarea').value === 'What is 3 + 4 & 5?'"
    )
    page.click("#lm-solve")
    page.there("#lm-receipt .receipt")
    page.write("#lm-problem textarea", ZOE)
    page.click("#lm-solve")
    page.until("return new URL(location.href).searchParams.get('problem') === arguments[0]", ZOE)
    page.until("return document.querySelector('#lm-stop').disabled")
    page.tab("Memories")
    page.tab("Solve")
    page.write("#lm-problem textarea", " ")  # which is refused, and has no place in the address
    page.click("#lm-solve")
    page.says("#lm-status", "The problem is empty")
    assert page.run("return new URL(location.href).searchParams.get('problem')") == ZOE
    page.write("#lm-problem textarea", ZOE.replace("12", "16"))
    page.click("#lm-solve")
    page.until(
        "return new URL(location.href).searchParams.get('problem') === arguments[0]",
        ZOE.replace("12", "16"),
    )
    page.until("return document.querySelector('#lm-stop').disabled")
    page.driver.back()
    page.until(
        "return new URL(location.href).searchParams.get('problem') === arguments[0]",
        ZOE.replace("12", "16"),
    )
    page.open(f"{url}?panel=about")
    page.until(lambda: panel(page) == "about")
    assert page.errors() == []


def test_a_reload_keeps_the_work(page: Page, url: str) -> None:
    page.open(url)
    solve(page, ZOE)
    said = page.text("#lm-receipt .receipt")
    page.click("#lm-distil-this")
    page.there("#lm-outcome .outcome.open")
    assert page.reload() == []  # on the Distil panel
    page.tab("Solve")
    page.until(
        "return document.querySelector('#lm-receipt .receipt')?.innerText === arguments[0]", said
    )
    assert page.run("return document.querySelector('#lm-problem textarea').value") == ZOE
    assert page.run("return document.querySelectorAll('#lm-cards .attempt').length") == 16
    page.tab("Distil")
    page.there("#lm-outcome .outcome.open")
    page.click("#lm-keep")
    page.there("#lm-outcome .outcome.kept")
    assert page.errors() == []


@pytest.mark.parametrize("panel", ["Solve", "Memories"])
def test_a_run_goes_on_while_the_page_is_reloaded(page: Page, url: str, panel: str) -> None:
    page.open(url)
    page.write("#lm-problem textarea", "Answer this a bit slowly?")
    page.click("#lm-solve")
    going = (
        "return document.querySelectorAll('#lm-cards .card').length && "
        "!document.querySelector('#lm-stop').disabled"
    )
    page.until(going)  # not the cards of the run before, which this tab still shows at first
    page.tab(panel)
    page.until(
        "return arguments[0] === 'Solve' || location.search.includes('panel=memories') && "
        "latentmem.mapData.extras",
        panel,
    )
    assert page.reload() == []
    page.tab("Solve")
    page.until(going)
    before = page.run("return document.querySelector('#lm-cards').innerText.length")
    page.until(
        "return document.querySelector('#lm-cards').innerText.length > arguments[0] + 20", before
    )
    page.click("#lm-stop")
    page.says("#lm-status", "Stopped")
    solve(page, ZOE)  # and the model is free again
    assert page.errors() == []


@pytest.fixture(scope="module")
def slow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app that takes its time."""
    log = tmp_path_factory.mktemp("slow") / "log"
    yield from serve_fake(log, "--memories", "3", "--pace", "0.04")


def test_a_press_in_the_queue_outlives_a_reload_and_has_its_turn(
    page: Page, other: Page, slow_url: str
) -> None:
    other.open(slow_url)
    other.write("#lm-problem textarea", "Answer this very slowly?")  # until it is stopped
    other.click("#lm-solve")
    other.there("#lm-cards .card")
    assert other.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
    page.open_anew(slow_url)
    page.write("#lm-problem textarea", ZOE)
    page.click("#lm-solve")
    page.says("#lm-status", "Waiting for the model")
    page.says("#lm-status", "1 run ahead")
    assert page.reload() == []
    page.says("#lm-status", "Waiting for the model")
    page.says("#lm-solve-time", "after 1 other run")
    assert page.run("return document.querySelector('#lm-problem textarea').value") == ZOE
    assert not page.run("return document.querySelector('#lm-receipt .receipt')")
    other.click("#lm-stop")
    other.says("#lm-status", "Stopped")
    other.until("return !document.querySelector('#lm-solve').disabled")
    assert "writing…" not in other.text("#lm-cards")
    page.there("#lm-receipt .receipt")  # the stopped run made room
    assert page.errors() == [] and other.errors() == []


def test_two_tabs_of_one_browser_do_not_mix(page: Page, url: str) -> None:
    page.open(url)
    solve(page, ZOE)
    first = page.driver.current_window_handle
    # has a copy of the first one's sessionStorage
    page.run("window.open(location.pathname + '?problem=Another+one%3F')")
    page.until(lambda: len(page.driver.window_handles) == 2)
    page.driver.switch_to.window(next(h for h in page.driver.window_handles if h != first))
    try:
        page.until(
            "return document.querySelector('#lm-problem textarea')?.value === 'Another one?'"
        )
        assert not page.run("return document.querySelector('#lm-receipt .receipt')")
        solve(page, "What do two tabs share?")
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    assert page.reload() == []
    page.there("#lm-receipt .receipt")
    assert page.run("return document.querySelector('#lm-problem textarea').value") == ZOE


def test_loading_is_said_with_progress_and_ends_by_itself(page: Page, tmp_path: Path) -> None:
    server = serve_fake(tmp_path / "log", "--memories", "3", "--pace", "0.15", "--cold")
    try:
        page.open(next(server))
        page.there("#lm-facts progress")
        assert "Downloading the model" in page.text("#lm-facts")
        loading = heights(page)
        assert page.run("return document.querySelector('#lm-facts progress')"), "measured in time"
        page.says("#lm-facts", "ready")
        assert heights(page) == loading, "nothing moves when the model is ready"
        assert page.errors() == []
    finally:
        page.resize()
        page.driver.get("about:blank")
        server.close()


@pytest.fixture(scope="module")
def hosted_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a shared app."""
    limits = {"CHARS": "300", "STEPS": "3", "QUEUE": "3"}  # in the queue, and one at work
    yield from serve_fake(
        *(tmp_path_factory.mktemp("hosted") / "log", "--memories", "6", "--pace", "0.01"),
        LATENTMEM_HOSTED="1",
        **{f"LATENTMEM_HOSTED_{name}": limit for name, limit in limits.items()},
    )


def test_a_shared_app_keeps_visitors_apart(page: Page, other: Page, hosted_url: str) -> None:
    page.open(hosted_url), other.open(hosted_url)
    facts = page.text("#lm-facts")
    assert "6 memories" in facts and "0 of them yours" in facts
    solve(page, ZOE)
    page.click("#lm-distil-this")
    page.there("#lm-outcome .outcome.open")
    page.click("#lm-keep")
    page.says("#lm-facts", "1 of them yours")
    assert page.reload() == []
    page.says("#lm-facts", "1 of them yours")
    mine = page.run("return document.querySelector('#lm-outcome a[data-memory]').dataset.memory")
    other.open(f"{hosted_url}?memory={mine}")
    other.says("#lm-memory-notice", "no memory")
    assert "6 memories" in other.text("#lm-facts")
    other.tab("About")
    about = other.text("#lm-about")
    assert "nobody else sees them" in about and "at most 300 characters" in about
    assert other.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
    assert page.errors() == [] and other.errors() == []


def test_a_full_queue_says_so_and_does_not_strand_the_page(
    page: Page, other: Page, hosted_url: str
) -> None:
    """Of the four places, three in the queue and one at work, an address has two."""
    third = Page()
    try:
        for tab, text in (
            (page, "Answer this slowly?"),
            (other, "Second in the queue?"),
            (third, "Third and too many?"),
        ):
            tab.open_anew(hosted_url)
            tab.write("#lm-problem textarea", text)
        page.click("#lm-solve")
        page.there("#lm-cards .card")
        other.click("#lm-solve")
        other.says("#lm-status", "1 run ahead")
        third.click("#lm-solve")
        third.says("#lm-status", "its queue is full")
        third.until(
            "return !document.querySelector('#lm-solve').disabled && "
            "document.querySelector('#lm-stop').disabled"
        )
        page.click("#lm-stop")
        other.there("#lm-receipt .receipt")
        solve(third, "Third and too many?")  # pressed again, it has its turn
    finally:
        third.driver.quit()


def test_a_comparison_can_be_stopped_and_the_keyboard_keeps_its_place(
    page: Page, slow_url: str
) -> None:
    page.open_anew(slow_url)
    page.write("#lm-problem textarea", ZOE)
    page.click("#lm-solve")
    page.until(
        "const b = document.querySelector('#lm-cards .body'); b?.focus(); return "
        "document.activeElement === b && b"
    )
    before = page.text("#lm-cards")
    page.until(
        "return document.querySelector('#lm-cards').innerText.length > arguments[0] + 80",
        len(before),
    )
    assert page.run("return document.activeElement.matches('#lm-cards .body')"), (
        "its card was drawn again meanwhile"
    )
    page.until(
        "return document.querySelector('#lm-receipt .receipt') && "
        "document.querySelector('#lm-stop').disabled"
    )
    page.click("#lm-compare")
    page.click("#lm-stop")
    page.says("#lm-columns", "Stopped")
    page.until("return document.querySelector('#lm-stop').disabled")
    page.click("#lm-compare")
    page.there("#lm-columns .column", 3)
    page.until("return document.querySelector('#lm-stop').disabled")
    assert page.errors() == []


# ---------- your own problems


def test_a_file_is_voted_on_and_learnt_from(page: Page, url: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    nasty = "<img src=x onerror='window.hurt=1'> What are 2 and 3?"
    file.write_text("\n".join([nasty, *(f"Zoe finds {n} shells and 4 more. Sum?" for n in (5, 6))]))
    page.open_anew(f"{url}?panel=distil")
    drop(page, "#lm-build-file", file)
    page.there("#lm-build-table tbody tr", 3)
    assert page.text("#lm-build") == "Vote on 3 problems"
    page.click("#lm-build")
    page.until("return /^(Learn|Done)/.test(document.querySelector('#lm-build').innerText)")
    assert page.reload() == []
    page.until("return document.querySelector('#lm-build')?.innerText.startsWith('Learn')")
    page.click("#lm-build")
    page.until("return document.querySelector('#lm-build').innerText === 'Done'")
    assert "learnt and kept on the map" in page.text("#lm-build-status")
    page.click("#lm-build-table a[data-memory]")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
    assert page.run("return window.hurt === undefined") and page.errors() == []


# ---------- the Stream panel


@pytest.fixture(scope="module")
def stream_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("app")
    yield from serve_fake(
        home / "log", "--memories", "3", "--pace", "0.2", LATENTMEM_BANK=str(home / "bank.sqlite")
    )


HEIGHT = "return document.querySelector(arguments[0] + ' .lm-figure').offsetHeight"
LINES = "return document.querySelectorAll('#lm-stream-curve .scatterlayer .trace').length"
ARRIVALS = "return document.querySelectorAll('#lm-stream-problems .arrival').length"


def still(page: Page, script: str, seconds: float = 3) -> int:
    """What a script gives, once it has been the same for a while."""
    value, since = page.run(script), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.1)
        if (now := page.run(script)) != value:
            value, since = now, time.monotonic()
    return value


def test_a_stream_is_watched_reloaded_stopped_taken_up_again_and_downloaded(
    page: Page, stream_url: str, tmp_path: Path
) -> None:
    page.open(stream_url)
    page.tab("Stream")
    assert "Nothing has been streamed yet" in page.text("#lm-stream-status")
    assert page.run(HEIGHT, "#lm-stream-curve") == 0, "no empty axes"
    page.write("#lm-stream-seed input", "3")
    page.click("#lm-stream-start")
    page.until(LINES + " === 3")
    assert page.run(HEIGHT, "#lm-stream-curve") > 200
    page.until(ARRIVALS + " >= 2")
    assert page.reload() == []
    page.until(
        "return document.querySelector('#lm-stream-stop') && "
        "!document.querySelector('#lm-stream-stop').disabled"
    )
    page.until(LINES + " === 3")
    page.until(ARRIVALS + " >= 2")  # what was there comes back
    before = page.run(ARRIVALS)
    assert page.run("return document.querySelector('#lm-stream-seed input').value") == "3"
    page.until(ARRIVALS + " > arguments[0]", before)  # and it is live
    page.click("#lm-stream-stop")
    page.says("#lm-stream-status", "Press Go on")
    stopped = still(page, ARRIVALS)
    assert stopped < 8, "the problem in hand is ended, and no other is begun"
    assert page.reload() == []
    page.says("#lm-stream-status", "Press Go on")
    page.until(LINES + " === 3")
    assert page.run(ARRIVALS) >= stopped and page.text("#lm-stream-table tbody th")
    assert page.text("#lm-stream-start") == "Go on"
    assert "Begin again" in page.text("#lm-stream-again")
    page.until("return document.querySelector('#lm-stream-download').getClientRects().length")
    page.click("#lm-stream-start")
    page.says("#lm-stream-status", "Done: 8 problems answered")
    page.there("#lm-stream-problems .arrival", 8)
    assert "8" in page.text("#lm-stream-table tbody td:nth-of-type(2)")
    page.driver.execute_cdp_cmd(
        "Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    page.click("#lm-stream-download")
    page.until(lambda: [f for f in tmp_path.glob("*.jsonl") if f.read_text().endswith("\n")])
    lines = [json.loads(x) for x in next(tmp_path.glob("*.jsonl")).read_text().splitlines()]
    assert [x["record"] for x in lines].count("Result") == 24
    assert page.errors() == []


AT_ONCE = """const eager = setInterval(() => {
    const go = document.querySelector('#lm-stream-start');
    if (go.disabled || !go.innerText.includes('Go on')) return;
    clearInterval(eager);
    go.click();
}, 5);"""


def test_going_on_the_moment_a_stream_has_stopped_is_not_lost(page: Page, stream_url: str) -> None:
    """gradio believes the stopped event to be running until its cancel is answered, and such an
    event ignores a press."""
    page.open(stream_url)
    page.tab("Stream")
    page.write("#lm-stream-seed input", "5")
    page.click("#lm-stream-start")
    for arrivals in (1, 2, 3):
        page.until(
            f"{ARRIVALS} >= {arrivals} && !document.querySelector('#lm-stream-stop').disabled"
        )
        page.run(AT_ONCE)
        page.click("#lm-stream-stop")
    page.says("#lm-stream-status", "Done: 8 problems answered")
    assert page.errors() == []


def test_an_uploaded_set_cannot_bring_markup(page: Page, stream_url: str, tmp_path: Path) -> None:
    nasty = "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{window.hurt}} 4"
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"problem": nasty, "answer": "<script>window.hurt=1</script>"}) + "\n{broken\n"
    )
    page.open(stream_url)
    page.tab("Stream")
    drop(page, "#lm-stream-file", file)
    page.says("#lm-stream-file", "mine")
    page.click("#lm-stream-start")
    page.says("#lm-stream-status", "Done: 1 problem answered")
    assert "line 2 is not JSON" in page.text("#lm-stream-status")
    assert "<img src=x" in page.text("#lm-stream-problems") and page.run(
        "return window.hurt === undefined"
    )
    assert page.reload() == []
    page.says("#lm-stream-file", "mine")  # the upload, too
    page.says("#lm-stream-status", "line 2 is not JSON")
