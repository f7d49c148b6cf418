"""Takes the README's pictures of the app in a real Chromium: `python -m tests.tools.capture_app`.

A journey on real weights: solve a problem, distil it, keep the memory, open it on the map, ask a
similar problem, read the receipt, see why, watch a stream, read about it. On the way each panel is
pictured light and dark, at 1440x900 and 390x844, into assets/screens/, and the whole as
assets/journey.webp. Half an hour or more on two cores. With --url an app that is already running is
pictured.

What was done is remembered in the folder --work: the same command goes on after a stop; `--only map
--only about` takes some parts again. The first bank of an own app is the starter bank; the one that
the journey adds to is kept in --work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latentmem.evaluation.reader import read_problems
from latentmem.records import Problem
from tests.browser_page import ROOT, Page, click_point, free_port, serve
from tests.tools.capture_pictures import Film, animation, four, resize

PARTS = ("first", "solve", "distil", "keep", "map", "ask", "why", "stream", "about")
FAMILIES = ("sharing", "change", "ages", "discount", "work", "saving", "distance")
PATIENCE = 900.0  # seconds for one piece of model work


class Journey:
    """The parts of the journey in one browser tab, and what later parts need of earlier ones."""

    def __init__(
        self, page: Page, url: str, out: Path, work: Path, small: dict[str, float]
    ) -> None:
        self.page, self.url, self.out, self.small = page, url, out, small
        self.film, self.file = Film(work / "frames"), work / "journey.json"
        self.known: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.is_file() else {"done": [], "pair": 0}
        )
        if "keep" not in self.known["done"]:  # a memory that was not kept went with the tab
            self.known["done"] = []
        self.pairs = pairs()

    def note(self, **facts: Any) -> None:
        self.known |= facts
        self.file.write_text(json.dumps(self.known, indent=1))

    def begin(self, part: str) -> None:
        self.film.begin(f"{PARTS.index(part)}-{part}")

    # -------------------------------------------------------------- what a visitor does
    def watch(self, script: str, *values: Any) -> None:
        """Waits until a script gives something true, and takes frames meanwhile."""

        def seen() -> Any:
            self.film.frame(self.page)
            return self.page.run(script, *values)

        self.page.until(seen, seconds=PATIENCE)

    def panel(self, name: str) -> None:
        self.page.run(
            "document.querySelector(`#lm-tabs "
            "button[role=tab][data-tab-id=${arguments[0]}]`).click()",
            name,
        )
        self.page.until(
            "return document.querySelector('#lm-tabs button[aria-selected=true]').dataset.tabId "
            "=== arguments[0]",
            name,
        )

    def tune(self) -> None:
        """The small settings, in the folded controls of the open panel."""
        fold = (
            "[...document.querySelectorAll('.settings > button')].filter((b) => "
            "b.getClientRects().length && b.classList.contains('open') !== "
            "arguments[0]).forEach((b) => b.click())"
        )
        self.page.run(fold, True)
        self.page.until(
            "return [...document.querySelectorAll('.settings input[type=number]')]"
            ".some((i) => i.getClientRects().length)"
        )
        for label, value in self.small.items():
            self.page.run(
                """
                const box = document.querySelector(`.settings input[aria-label^="number input for ${arguments[0]}"]`);
                if (!box) return; // a control of another panel
                box.value = arguments[1];
                for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, {bubbles: true}));""",
                label,
                value,
            )
        self.page.run(fold, False)

    def ask(self, text: str) -> None:
        """Solves a problem; the first time the weights are loaded, too."""
        page = self.page
        page.run(
            "scrollTo({top: 0, behavior: 'instant'});"
            "document.querySelector('#lm-receipt .receipt')?.setAttribute('data-old', '')"
        )
        page.write("#lm-problem textarea", text)
        self.film.frame(page, hold=900)
        page.click("#lm-solve")
        self.watch(
            "return document.querySelector('#lm-receipt .receipt:not([data-old]), #lm-status "
            ".warn')"
        )
        page.until("return document.querySelector('#lm-stop').disabled", seconds=PATIENCE)
        assert page.text("#lm-status .warn") == "", page.text("#lm-status .warn")

    # -------------------------------------------------------------- the parts
    def first(self) -> None:
        self.page.open(self.url)
        self.page.until("return document.querySelector('.tile')")
        self.film.frame(self.page, hold=1500)
        four(self.page, "first-visit", "", self.out)

    def solve(self) -> None:
        """The problem to learn from, without and perhaps with a memory of the starter bank."""
        self.panel("solve")
        self.tune()
        self.ask(self.pairs[self.known["pair"]][0].text)
        self.film.frame(self.page, hold=1600)

    def distil(self) -> None:
        """Distils, and where nothing is learnt solves and distils the next example."""
        page = self.page
        for i in range(self.known["pair"], len(self.pairs)):
            self.note(pair=i)
            if not page.run("return document.querySelector('#lm-receipt .receipt')"):
                self.begin("solve")
                self.solve()
            self.begin("distil")
            self.panel("distil")
            self.tune()
            self.panel("solve")
            page.run("document.querySelector('#lm-outcome .outcome')?.setAttribute('data-old', '')")
            page.click("#lm-distil-this")
            self.watch(
                "return document.querySelector('#lm-outcome .outcome:not([data-old]), "
                "#lm-distil-status .warn')"
            )
            page.until(
                "return document.querySelector('#lm-distil-stop').disabled", seconds=PATIENCE
            )
            assert page.text("#lm-distil-status .warn") == "", page.text("#lm-distil-status .warn")
            if page.run("return document.querySelector('#lm-outcome .outcome.open')"):
                page.run("scrollTo({top: 0, behavior: 'instant'})")
                self.film.frame(page, hold=1600)
                four(page, "distil", "#lm-outcome", self.out)
                return
            print(f"nothing learnt from {self.pairs[i][0].id}: the next one", flush=True)
            page.run("document.querySelector('#lm-receipt .receipt').remove()")
        raise SystemExit(
            "None of the examples gave a memory: choose larger settings, for example --steps 8."
        )

    def keep(self) -> None:
        self.page.click("#lm-keep")
        self.page.until("return document.querySelector('#lm-outcome .outcome.kept')")
        self.film.frame(self.page, hold=900)
        self.note(
            memory=self.page.run(
                "return document.querySelector('#lm-outcome a[data-memory]').dataset.memory"
            )
        )

    def map(self) -> None:
        self.panel("memories")
        self._map_drawn()
        self.film.frame(self.page, hold=1200)
        name = click_point(self.page, self.known["memory"])  # or of the one that lies over it
        self.page.until(
            "return document.querySelector('#lm-memory [data-address]')?.dataset.address"
        )
        self.page.run(
            "document.querySelector(`a[data-memory='${arguments[0]}']`)?.click()",
            name,
        )
        self.page.until(
            "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
            "arguments[0]",
            name,
        )
        self.page.run("scrollTo({top: 0, behavior: 'instant'})")
        self.film.frame(self.page, hold=1500)
        four(self.page, "memory", "#lm-memory", self.out)

    def _map_drawn(self) -> None:
        self.page.until(
            "return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) > 0"
        )
        self.page.until("return latentmem.mapData.extras?.stamp === latentmem.mapData.points.stamp")

    def ask_neighbour(self) -> None:
        self.panel("solve")
        self.tune()
        self.ask(self.pairs[self.known["pair"]][1].text)
        self.film.frame(self.page, hold=2200)
        four(self.page, "solve", "#lm-votes", self.out)

    def why(self) -> None:
        """The receipt's link; where no memory was near enough the problem is placed by hand."""
        if self.page.run("return document.querySelector('#lm-receipt a[data-memory]')"):
            self.page.click("#lm-receipt a[data-memory]")
        else:
            self.panel("memories")
            self.page.write(
                "#lm-ask textarea, #lm-ask input", self.pairs[self.known["pair"]][1].text
            )
            self.page.click("#lm-locate")
        self._map_drawn()
        self.page.until("return Boolean(latentmem.mapView.mark.star)", seconds=PATIENCE)
        self.page.run("scrollTo({top: 0, behavior: 'instant'})")
        self.film.frame(self.page, hold=2200)
        four(self.page, "memories", "#lm-map", self.out)

    def stream(self) -> None:
        """Until two problems have been met, then it is stopped."""
        self.panel("stream")
        self.page.click("#lm-stream-start")
        self.watch(
            "return document.querySelectorAll('#lm-stream-problems .arrival').length >= 2 || "
            "document.querySelector('#lm-stream-status .warn')"
        )
        assert self.page.text("#lm-stream-status .warn") == "", self.page.text(
            "#lm-stream-status .warn"
        )
        self.page.run(
            "document.querySelector('#lm-stream-stop').click()"
        )  # or it has ended meanwhile
        self.page.until(
            "return document.querySelector('#lm-stream-stop').disabled", seconds=PATIENCE
        )
        self.film.frame(self.page, hold=1500)
        four(self.page, "stream", "#lm-stream-status", self.out)

    def about(self) -> None:
        self.panel("about")
        self.film.frame(self.page, hold=1500)
        four(self.page, "about", "", self.out)

    def go(self, only: list[str]) -> None:
        """All parts that are not done, or those that are asked for."""
        acts: dict[str, Callable[[], Any]] = {
            name: getattr(self, name) for name in PARTS if name != "ask"
        }
        acts["ask"] = self.ask_neighbour
        if only != ["first"]:
            self.page.open(self.url)
        for name in PARTS:
            if name not in only if only else name in self.known["done"]:
                continue
            began = time.monotonic()
            self.begin(name)
            acts[name]()
            self.note(done=sorted({*self.known["done"], name}, key=PARTS.index))
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        assert self.page.errors() == [], "the page has reported errors"


def pairs() -> list[tuple[Problem, Problem]]:
    """Two problems of each family: one to learn from, and its neighbour."""
    problems = list(read_problems(ROOT / "examples" / "problems.jsonl"))
    return [tuple([p for p in problems if p.source == f"examples/{name}"][:2]) for name in FAMILIES]  # type: ignore[misc]


def own_app(work: Path) -> Iterator[str]:
    """The app on real weights, its bank in the folder of the journey."""
    port = free_port()
    env = {
        **os.environ,
        "GRADIO_SERVER_PORT": str(port),
        "LATENTMEM_BANK": str(work / "bank.sqlite"),
    }
    yield from serve([sys.executable, "app.py"], port, work / "log", env)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="an app that is already running")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "screens")
    parser.add_argument("--film", type=Path, default=ROOT / "assets" / "journey.webp")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "latentmem-journey"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        default=[],
        help="this part, done or not; may be repeated",
    )
    parser.add_argument("--anew", action="store_true", help="begin from the start")
    for name, value in (("rollouts", 8), ("steps", 4), ("tokens", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.anew:
        (args.work / "journey.json").unlink(missing_ok=True)
    server = iter([args.url]) if args.url else own_app(args.work)
    page = Page()
    try:
        resize(page, "wide")
        small = {
            "Attempts": args.rollouts,
            "Longest trace": args.tokens,
            "Gradient steps": args.steps,
        }
        Journey(page, next(server), args.out, args.work, small).go(args.only)
    finally:
        page.driver.quit()
        if not args.url:
            server.close()  # type: ignore[union-attr]
    frames = sorted((args.work / "frames").glob("*.png"))
    film = animation(frames, args.film)
    print(f"{film}: {film.stat().st_size / 1000:.0f} kB of {len(frames)} frames")


if __name__ == "__main__":
    main()
