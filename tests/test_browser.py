"""The app in a real Chromium: the journey of a visitor, and that foreign text stays text."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader")
NASTY = "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{window.hurt}} </div><script>window.hurt=1</script> \\frac{1}{2}"
PATIENCE = 90.0  # seconds; a shared machine is slow at times

pytestmark = pytest.mark.browser
if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
    pytestmark = [pytest.mark.browser, pytest.mark.skip(reason="needs Debian's chromium and chromium-driver")]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(command: list[str], port: int, log: Path, env: dict[str, str]) -> Iterator[str]:
    """Starts a server, waits until it answers, gives its address and ends it."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    yield from serve([sys.executable, "-m", "tests.fake_engine", "--port", str(port), "--memories", "12", "--pace", "0.004"],
                     port, tmp_path_factory.mktemp("app") / "log", dict(os.environ))


class Page:
    """One browser tab and the few things the tests do in it."""

    def __init__(self, width: int = 1440, height: int = 900) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.errors()  # gradio reports its own open stream as an error when a page is left
        self.driver.get(url)
        self.until("return document.querySelector('#lm-facts li') && document.querySelector('#lm-solve')")

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def until(self, script: str | Callable[[], Any], *values: Any, seconds: float = PATIENCE) -> Any:
        """Waits until a script or a function gives something true."""
        deadline = time.monotonic() + seconds
        while not (found := script() if callable(script) else self.run(script, *values)):
            assert time.monotonic() < deadline, f"waited in vain for {script}: {self.text('body')[-600:]}"
            time.sleep(0.1)
        return found

    def click(self, css: str) -> None:
        """A click in the middle of a visible element, once it is enabled."""
        self.until("const e = document.querySelector(arguments[0]);"
                   "if (!e || e.disabled || !e.getClientRects().length) return false;"
                   "e.scrollIntoView({block: 'center'}); return true;", css)
        time.sleep(0.2)
        self.driver.find_element("css selector", css).click()

    def tab(self, name: str) -> None:
        self.run("[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText === arguments[0]).click()", name)

    def write(self, css: str, text: str) -> None:
        box = self.driver.find_element("css selector", css)
        self.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select?.()", box)
        box.send_keys(text)

    def text(self, css: str) -> str:
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", css)

    def errors(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    tab = Page()
    yield tab
    tab.driver.quit()


def solve(page: Page, text: str) -> None:
    page.write("#lm-problem textarea", text)
    page.click("#lm-solve")
    page.until("return document.querySelector('#lm-cards .card')")
    page.until("return document.querySelector('#lm-receipt .receipt') && document.querySelector('#lm-stop').disabled")


def test_the_journey(page: Page, url: str) -> None:
    page.open(url)
    assert "12 memories" in page.text("#lm-facts") and "Ask again" in page.text("#lm-status")
    solve(page, "Zoe sorts 12 shells into 4 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelectorAll('#lm-cards .card').length") >= 8
    page.until("return document.querySelector('#lm-cards .katex')")  # formulas are set
    assert page.run("return document.querySelectorAll('#lm-votes .seg').length") >= 2
    page.click("#lm-distil-this")
    page.until("return document.querySelectorAll('#lm-curve .scatterlayer .trace').length === 3")
    page.until("return document.querySelector('#lm-outcome .outcome.open')")
    page.click("#lm-keep")
    page.until("return document.querySelector('#lm-outcome .outcome.kept')")
    page.until("return document.querySelector('#lm-facts').innerText.includes('13 memories')")
    page.click("#lm-before-after")
    page.until("return document.querySelectorAll('#lm-before-after-columns .column').length === 2")
    page.tab("Solve")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    assert "Zoe sorts 12 shells" in page.text("#lm-receipt .used")
    page.click("#lm-receipt a[data-memory]")  # why this memory?
    page.until("return document.querySelector('#lm-memory [data-address]')?.innerText.includes('Zoe sorts 12 shells')")
    page.until("return Number(document.querySelector('#lm-map .lm-figure').dataset.points) === 13")
    assert "?memory=m" in page.driver.current_url
    assert page.run("return document.querySelector('#lm-map .lm-figure').layout.annotations.length") >= 1
    assert page.errors() == []


def test_a_click_on_a_point_opens_its_memory_also_after_an_update(page: Page, url: str) -> None:
    from selenium.webdriver import ActionChains

    page.open(url)
    page.tab("Memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
    for _ in range(2):
        before = page.driver.current_url
        where = page.run("""
            const plot = document.querySelector('#lm-map .lm-figure'); plot.scrollIntoView({block: 'center'});
            const open = new URL(location.href).searchParams.get('memory');
            const points = plot.data.flatMap(d => (d.customdata ?? []).map((id, i) => ({id, x: d.x[i], y: d.y[i]})));
            const far = (p) => Math.min(...points.filter(q => q !== p).map(q => Math.hypot(p.x - q.x, p.y - q.y)));
            const best = points.filter(p => p.id !== open).sort((a, b) => far(b) - far(a))[0];
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
            return {id: best.id, x: box.left + xaxis._offset + xaxis.d2p(best.x),
                    y: box.top + yaxis._offset + yaxis.d2p(best.y)};""")
        time.sleep(0.4)
        mouse = ActionChains(page.driver)
        mouse.w3c_actions.pointer_action.move_to_location(round(where["x"]), round(where["y"]))
        mouse.pause(0.3).click().perform()
        page.until(lambda before=before: page.driver.current_url != before)
        assert where["id"] in page.driver.current_url and where["id"] in page.text("#lm-memory")
        page.write("#lm-ask textarea, #lm-ask input", "A train and a bus")  # a star: Python sends another figure
        page.click("#lm-locate")
        page.until("return document.querySelector('#lm-map .lm-figure').data.some(d => d.name === 'your problem')")
    assert page.errors() == []


def test_foreign_text_stays_text(page: Page, url: str) -> None:
    page.open(url)
    solve(page, NASTY)
    page.click("#lm-distil-this")
    page.until("return document.querySelector('#lm-outcome .outcome.open')")
    page.click("#lm-keep")
    page.until("return document.querySelector('#lm-outcome .outcome.kept')")
    page.tab("Memories")
    page.click("table.bank tbody tr:has(a) a")
    page.until("return document.querySelector('#lm-memory .problem')")
    page.write("#lm-ask textarea, #lm-ask input", NASTY)
    page.click("#lm-locate")
    page.until("return document.querySelector('#lm-map .lm-figure').data.some(d => d.name === 'your problem')")
    page.until("return document.querySelector('#lm-table').innerText.includes('<img src=x')")
    assert "${window.hurt=1}" in page.run("return document.querySelector('#lm-ask textarea, #lm-ask input').value")
    assert page.run("return window.hurt ?? null") is None
    assert page.run("return document.querySelectorAll('.lm-live img, .lm-live script, .lm-figure img').length") == 0
    assert page.errors() == []


def test_the_address_of_a_memory_and_the_keyboard(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Memories")
    page.until("return document.querySelector('table.bank tbody a')")
    name = page.run("return document.querySelector('table.bank tbody tr:last-child a').dataset.memory")
    page.open(f"{url}?memory={name}")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
    from selenium.webdriver.common.keys import Keys

    page.run("document.querySelector('table.bank tbody tr:first-child a').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # a name in the table opens with Enter
    page.until("return document.querySelector('#lm-memory [data-address]').dataset.address !== arguments[0]", name)
    assert page.errors() == []


def test_stop_and_the_place_in_the_queue(page: Page, url: str) -> None:
    page.open(url)
    other = Page(390, 844)
    try:
        other.open(url)
        for tab, text in ((page, "Answer this slowly?"), (other, "Second in the queue?")):
            tab.write("#lm-problem textarea", text)
        page.click("#lm-solve")
        page.until("return document.querySelector('#lm-cards .card')")
        other.click("#lm-solve")
        other.until("return /queue: 1\\/1/.test(document.querySelector('#lm-status').innerText)")
        page.click("#lm-stop")
        page.until("return document.querySelector('#lm-status').innerText.includes('Stopped')")
        page.until("return !document.querySelector('#lm-solve').disabled")
        assert "writing…" not in page.text("#lm-cards")
        other.until("return document.querySelector('#lm-receipt .receipt')")  # the stopped run made room
        assert other.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        assert page.errors() == [] and other.errors() == []
    finally:
        other.driver.quit()


@pytest.mark.real
def test_the_journey_with_a_real_model(tmp_path: Path) -> None:
    """SmolLM2-135M is too weak to learn; what is tested is that every panel lives on the real engine's records."""
    port = free_port()
    small = {"MODEL": "smollm2-135m", "ROLLOUTS": "4", "MAX_NEW_TOKENS": "48", "STEPS": "1",
             "BANK": str(tmp_path / "bank.sqlite")}
    env = {**os.environ, **{f"LATENTMEM_{k}": v for k, v in small.items()}, "GRADIO_SERVER_PORT": str(port)}
    page = Page()
    server = serve([sys.executable, "app.py"], port, tmp_path / "log", env)
    try:
        page.open(next(server))
        page.write("#lm-problem textarea", "What is 2 + 3? Answer with \\boxed{5}.")
        page.click("#lm-solve")
        page.until("return document.querySelector('#lm-cards .card')", seconds=600)
        page.until("return document.querySelector('#lm-receipt .receipt, #lm-status .warn')", seconds=300)
        assert page.text("#lm-status .warn") == ""
        page.click("#lm-distil-this")
        page.until("return document.querySelector('#lm-outcome .outcome, #lm-distil-status .warn')", seconds=300)
        assert page.text("#lm-distil-status .warn") == ""
        if page.run("return document.querySelector('#lm-outcome .outcome.open')"):
            page.click("#lm-keep")
            page.until("return document.querySelector('#lm-outcome .outcome.kept')")
        page.tab("Memories")
        page.write("#lm-ask textarea, #lm-ask input", "What is 2 + 4?")
        page.click("#lm-locate")
        page.until("return document.querySelector('#lm-map .js-plotly-plot, #lm-map .lm-figure.js-plotly-plot')")
        assert page.errors() == []
    finally:
        page.driver.quit()
        server.close()


def test_chromium_is_there() -> None:
    assert shutil.which(CHROMIUM) and shutil.which(DRIVER)
