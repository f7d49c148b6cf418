"""The map of a large bank in a real browser: what a person waits for, from opening the page to the first picture."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ..records import LatentmemError
from . import search
from .work import PeerMissing, Side, Work

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
         "--window-size=1400,1000")
DRAWN = "const map = document.querySelector('#lm-map .lm-figure'); return Number((map && map.dataset.points) || 0);"
PATIENCE = 60  # seconds


def first_picture(work: Work) -> Side:
    """Seconds from opening the page of a memory, which shows the map, until all points are drawn. The app runs already;
    the picture is computed for this visit. Each run has an app and a browser of its own, and all share a loaded model, or
    the one that a first page begins to load would be measured along."""
    from ..bank import Bank
    from ..engine import Engine
    from ..settings import Settings
    from ..ui import build, launch_options

    tools = _tools()
    folder = tempfile.TemporaryDirectory(prefix="latentmem-bench-")
    path = Path(folder.name) / "bank.sqlite"
    bank = search.filled(work.mapped, work.seed, path)
    wanted = bank.infos(limit=1)[0].id
    bank.close()
    loaded = Engine(Settings(model=work.model, device=work.device, dtype=work.dtype, bank=path))
    for _ in loaded.load():
        pass

    def run() -> float:
        engine = loaded.changed(on_bank=Bank(Path(folder.name) / path.name))  # the folder stays as long as this
        app = build(engine)
        _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(engine))
        driver = _chromium(*tools)
        try:
            return _wait(driver, f"{address}?memory={wanted}", work.mapped)
        finally:
            driver.quit()
            app.close()
            engine.bank.close()

    return Side(run, f"{work.mapped} memories, headless chromium on the same machine, the app already running and its model "
                     "loaded, its map not yet computed, nothing in the browser's cache")


def _wait(driver: Any, address: str, points: int) -> float:
    began = time.perf_counter()
    driver.get(address)
    while driver.execute_script(DRAWN) < points:
        if time.perf_counter() - began > PATIENCE:
            raise LatentmemError(f"The map showed {driver.execute_script(DRAWN)} of {points} points after {PATIENCE} s: "
                                 "open the app and look.")
        time.sleep(0.02)
    return time.perf_counter() - began


def _tools() -> tuple[str, str]:
    """The browser and its driver. Raises PeerMissing where one of them is missing, or selenium."""
    try:
        import selenium  # noqa: F401 - only whether it is there
    except ImportError:
        raise PeerMissing("the browser was not measured: selenium is not installed, pip install selenium") from None
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not browser or not driver:
        raise PeerMissing("the browser was not measured: chromium or chromedriver is not installed")
    return browser, driver


def _chromium(browser: str, driver: str) -> Any:
    """A headless browser with an empty cache."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
