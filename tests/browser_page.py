"""What the tests in a real Chromium share: a server of the app, a browser tab, and the few things
done in it."""

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
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BUILT = (
    "return document.querySelector('#lm-facts li') && document.querySelector('#lm-tabs "
    "[role=tabpanel] .block')"
)
# `host` of the map, `ids` of its points, and where point i lies in it, in pixels
AT = """const host = document.querySelector('#lm-map .lm-figure');
const {xaxis, yaxis} = host._fullLayout;
const {ids, x, y} = latentmem.mapData.points;
const at = (i) => [xaxis._offset + xaxis.d2p(x[i]), yaxis._offset + yaxis.d2p(y[i])];"""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
)
DRAWN = (
    "return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= arguments[0]"
)
OPENED = (
    "return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]"
)
PATIENCE = 90.0  # seconds; a shared machine is slow at times

marks = [pytest.mark.browser]
if not (CHROMIUM and DRIVER):
    marks.append(
        pytest.mark.skip(
            reason="needs chromium and chromedriver on the path, Debian's chromium and "
            "chromium-driver"
        )
    )


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
        print(log.read_text(errors="replace")[-4000:])  # pytest shows it where a test failed


def serve_fake(log: Path, *options: str, **env: str) -> Iterator[str]:
    """The app over an engine without a model; `env`: settings, e.g. LATENTMEM_HOSTED="1"."""
    port = free_port()
    yield from serve(
        [sys.executable, "-m", "tests.fake_engine", "--port", str(port), *options],
        port,
        log,
        {**os.environ, **env},
    )


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
        self.driver.set_script_timeout(PATIENCE)

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.errors()  # gradio reports its own open stream as an error when a page is left
        self.driver.get(url)
        self.until(BUILT)

    def open_anew(self, url: str) -> None:
        """Opens the app as a first visitor: nothing of the test before comes back."""
        # a page of the same origin without our scripts
        self.driver.get(f"{url.split('?')[0]}manifest.json")
        self.run("sessionStorage.clear()")
        self.open(url)

    def resize(self, width: int = 0, height: int = 900) -> None:
        """The size of a screen, below 500 pixels that of a phone; without one its own again."""
        if not width:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            return
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def reload(self) -> list[str]:
        """Presses the browser's reload; gives the errors from before it, without gradio's complaint
        of being interrupted."""
        before = self.errors()
        self.driver.refresh()
        self.until(BUILT)
        return before + [
            e for e in self.errors() if "AbortError" not in e and "errored out" not in e
        ]

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def until(
        self, script: str | Callable[[], Any], *values: Any, seconds: float = PATIENCE
    ) -> Any:
        """Waits until a script or a function gives something true."""
        deadline = time.monotonic() + seconds
        while not (found := script() if callable(script) else self.run(script, *values)):
            assert time.monotonic() < deadline, (
                f"waited in vain for {script}: {self.text('body')[-600:]}"
            )
            time.sleep(0.1)
        return found

    def there(self, css: str, count: int = 0) -> None:
        """Waits for an element, or for just so many."""
        found = "const n = document.querySelectorAll(arguments[0]).length;"
        self.until(found + "return arguments[1] ? n === arguments[1] : n > 0", css, count)

    def says(self, css: str, words: str) -> None:
        """Waits until these words stand in the first such element."""
        said = "return document.querySelector(arguments[0])?.innerText.includes(arguments[1])"
        self.until(said, css, words)

    def click(self, css: str) -> None:
        """A click in the middle of a visible element, once it is enabled and stands still."""
        self.until(
            "const e = document.querySelector(arguments[0]);"
            "if (!e || e.disabled || !e.getClientRects().length) return false;"
            "e.scrollIntoView({block: 'center'});"
            "const {x, y} = e.getBoundingClientRect(), was = e.lastSeenAt;"
            "e.lastSeenAt = `${x} ${y}`; return was === e.lastSeenAt;",
            css,
        )
        self.driver.find_element("css selector", css).click()

    def tab(self, name: str) -> None:
        self.run(
            "[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText === "
            "arguments[0]).click()",
            name,
        )

    def write(self, css: str, text: str) -> None:
        # a panel is built when it is first shown
        self.until("return document.querySelector(arguments[0])", css)
        box = self.driver.find_element("css selector", css)
        self.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select?.()", box)
        box.send_keys(text)

    def text(self, css: str) -> str:
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')",
            css,
        )

    def errors(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]


def solve(page: Page, text: str) -> None:
    """Asks, and waits for the receipt of this question: one that is there on the press is old, and
    may have been brought back by the page a moment before."""
    page.write("#lm-problem textarea", text)
    page.run(
        "document.querySelector('#lm-solve').addEventListener('click', () => "
        "document.querySelector('#lm-receipt .receipt')?.setAttribute('data-old', ''), {capture: "
        "true, once: true})"
    )
    page.click("#lm-solve")
    page.until(
        "return document.querySelector('#lm-receipt .receipt:not([data-old])') && "
        "document.querySelector('#lm-cards .attempt') && "
        "document.querySelector('#lm-stop').disabled"
    )


def drop(page: Page, css: str, file: Path) -> None:
    """Gives a file to an upload area."""
    found = f"{css} input[type=file]"
    page.until("return document.querySelector(arguments[0])", found)
    page.run(
        "const i = document.querySelector(arguments[0]); i.style.display = 'block'; "
        "i.hidden = false;",
        found,
    )
    page.driver.find_element("css selector", found).send_keys(str(file))


def click_point(page: Page, wanted: str = "") -> str:
    """A real click on the point of a memory, or on the one that lies most by itself and is not
    open; its memory's id."""
    from selenium.webdriver import ActionChains

    where = page.run(
        f"""{AT}
        host.scrollIntoView({{block: 'center'}});
        const open = new URL(location.href).searchParams.get('memory');
        const points = ids.map((id, i) => ({{id, at: at(i)}}));
        const apart = (p, q) => Math.hypot(p.at[0] - q.at[0], p.at[1] - q.at[1]);
        const far = (p) => Math.min(1e9, ...points.filter(q => q !== p).map(q => apart(p, q)));
        const best = points.find(p => p.id === arguments[0]) ??
          points.filter(p => p.id !== open).sort((a, b) => far(b) - far(a))[0];
        const box = host.getBoundingClientRect();
        return {{id: best.id, x: box.left + best.at[0], y: box.top + best.at[1]}};""",
        wanted,
    )
    time.sleep(0.4)
    mouse = ActionChains(page.driver)
    mouse.w3c_actions.pointer_action.move_to_location(round(where["x"]), round(where["y"]))
    mouse.pause(0.3).click().perform()
    return where["id"]
