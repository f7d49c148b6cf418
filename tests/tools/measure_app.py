"""Measures the app in a real Chromium over an engine without a model and prints JSON: `python -m
tests.tools.measure_app`.

How long a page takes from the first byte to being usable, and from pressing Solve to the first
words; then three visitors who press Solve at the same moment: what each sees, when, and which place
in the queue. With --url the app that is already running there is measured instead, for example one
with real weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser_page import Page, serve_fake

PROBLEMS = (
    "Zoe sorts 12 shells into 4 boxes. How many lie in one?",
    "A train goes 40 km in an hour. How far in three?",
    "Ann has 3 cats and 4 dogs. How many pets?",
)
READY = (
    "return document.querySelector('#lm-facts li') && document.querySelector('#lm-solve') && "
    "!document.querySelector('#lm-solve').disabled && "
    "document.querySelector('#lm-status')?.innerText.length > 0"
)


def usable(page: Page, url: str) -> dict[str, float]:
    """Seconds from the start of loading: first paint, the button can be pressed, and everything of
    the start is there."""
    page.driver.get("about:blank")
    began = time.perf_counter()
    page.driver.get(url)
    page.until("const b = document.querySelector('#lm-solve'); return b && !b.disabled;")
    pressable = time.perf_counter() - began
    page.until(READY)
    whole = time.perf_counter() - began
    paint = page.run(
        "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    )
    return {
        "first_paint": paint / 1000 if paint else float("nan"),
        "pressable": pressable,
        "whole": whole,
    }


def press(page: Page, text: str) -> None:
    page.write("#lm-problem textarea", text)
    page.click("#lm-solve")


def first_words(page: Page, text: str) -> dict[str, float]:
    """Seconds from pressing Solve to the first sign of life, the first written words, and the
    receipt."""
    page.write("#lm-problem textarea", text)
    began = time.perf_counter()
    page.run("document.querySelector('#lm-solve').click()")
    page.until("return document.querySelector('#lm-status .status')")
    sign = time.perf_counter() - began
    page.until(
        "return [...document.querySelectorAll('#lm-cards .body')].some(b => b.innerText.trim())"
    )
    words = time.perf_counter() - began
    page.until("return document.querySelector('#lm-receipt .receipt')")
    return {"sign": sign, "words": words, "receipt": time.perf_counter() - began}


def three_at_once(url: str) -> list[dict[str, Any]]:
    """Three visitors press Solve together; what each sees until all have their receipt."""
    pages = [Page(), Page(), Page(390, 844)]
    try:
        for page, text in zip(pages, PROBLEMS, strict=True):
            page.open(url)
            page.write("#lm-problem textarea", text)
        began, seen = (
            time.perf_counter(),
            [{"places": [], "first_words": None, "receipt": None} for _ in pages],
        )
        for page in pages:
            page.run("document.querySelector('#lm-solve').click()")
        while any(s["receipt"] is None for s in seen) and time.perf_counter() - began < 600:
            for page, s in zip(pages, seen, strict=True):
                _look(page, s, time.perf_counter() - began)
            time.sleep(0.05)
        for page, s, text in zip(pages, seen, PROBLEMS, strict=True):
            s["own_answer_only"] = text in page.run(
                "return document.querySelector('#lm-problem textarea').value"
            ) and not any(other in page.text("#lm-cards") for other in PROBLEMS if other != text)
            s["console_errors"] = page.errors()
        return seen
    finally:
        for page in pages:
            page.driver.quit()


def _look(page: Page, s: dict[str, Any], now: float) -> None:
    status, words, receipt = page.run(
        "return [document.querySelector('#lm-status').innerText, "
        "[...document.querySelectorAll('#lm-cards .body')].some(b => b.innerText.trim()), "
        "Boolean(document.querySelector('#lm-receipt .receipt'))]"
    )
    place = re.search(r"(\d+) runs? ahead", status)
    if place and (not s["places"] or s["places"][-1]["place"] != place[0]):
        s["places"].append({"seconds": round(now, 2), "place": place[0]})
    if words and s["first_words"] is None:
        s["first_words"] = round(now, 2)
    if receipt and s["receipt"] is None:
        s["receipt"] = round(now, 2)


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(statistics.median(r[k] for r in rows), 2) for k in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", help="an app that is already running")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--pace", default="0.004", help="seconds a record of the engine without a model"
    )
    args = parser.parse_args()
    server: Iterator[str] | None = None
    if not args.url:
        server = serve_fake(
            Path(tempfile.mkdtemp()) / "log", "--memories", "20", "--pace", args.pace
        )
    url = args.url or next(server)  # type: ignore[arg-type]
    page = Page()
    try:
        loads = [usable(page, url) for _ in range(args.repeats)]
        words = [first_words(page, f"{PROBLEMS[0]} ({i})") for i in range(args.repeats)]
    finally:
        page.driver.quit()
    try:
        visitors = three_at_once(url)
    finally:
        if server is not None:
            server.close()  # type: ignore[attr-defined]
    print(
        json.dumps(
            {
                "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0]},
                "load_seconds": median(loads),
                "solve_seconds": median(words),
                "three_visitors": visitors,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
