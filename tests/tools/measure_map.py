"""How quick the map is in a real browser, on an engine without a model: `python -m
tests.tools.measure_map --points 5000`.

Prints one JSON object: seconds to the first picture and to an open memory, frames a second while the
map is moved and zoomed, milliseconds from a pointer's move or click to the frame that shows it, and
the size of what the page is sent. Needs chromium and chromium-driver. A bank of 50,000 takes a minute or more
to make: keep it with --bank FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from latentmem.ui.map.atlas import MOST_SHOWN
from tests.browser_page import AT, DRAWN, Page, free_port, serve
from tests.fake_engine import FakeEngine
from tests.fake_memories import many

# From here on: for each pointer event how long until the frame after it, and when these frames came.
RECORD = """
const host = document.querySelector('#lm-map .lm-figure'), r = window.lmMeasured = {frames: [], delays: []};
let waiting = [];
const note = (e) => { waiting.push(e.timeStamp); };
host.addEventListener(arguments[0], note, true);
const look = () => {
  if (window.lmMeasured !== r) { host.removeEventListener(arguments[0], note, true); return; }
  if (waiting.length) {
    const now = performance.now();
    r.frames.push(now);
    r.delays.push(...waiting.map((t) => now - t));
    waiting = [];
  }
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
STOP = "const r = window.lmMeasured; window.lmMeasured = null; return r;"
BOX = """const s = document.querySelector('#lm-map .nsewdrag'); s.scrollIntoView({block: 'center'});
const b = s.getBoundingClientRect(); return [b.left, b.top, b.width, b.height];"""
RENDERER = """const gl = document.createElement('canvas').getContext('webgl'); if (!gl) return 'none';
const e = gl.getExtension('WEBGL_debug_renderer_info'); return e ? gl.getParameter(e.UNMASKED_RENDERER_WEBGL) : 'unknown';"""
# When the points are drawn, the page of the memory is there, and its edges are drawn, too; in
# milliseconds from the start of loading.
WATCH = """const t = window.lmTimes = {}; (function look() {
  const f = document.querySelector('#lm-map .lm-figure'), m = document.querySelector('#lm-memory [data-address]');
  if (!t.points && Number(f?.dataset.points) > 0) t.points = performance.now();
  if (!t.page && m?.dataset.address) t.page = performance.now();
  if (t.points && t.page && (f.layout?.annotations ?? []).some((a) => /^-?\\d[.]\\d\\d$/.test(a.text))) {
    t.edges = performance.now(); return; }
  requestAnimationFrame(look); })();"""


def mouse(page: Page, kind: str, x: float, y: float, **more: Any) -> None:
    page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


def recorded(page: Page, event: str, action: Callable[[], None]) -> dict[str, float]:
    """Frames a second, the longest pause between two, and the delay of the pointer, while something
    is done."""
    page.run(RECORD, event)
    action()
    time.sleep(0.3)
    found = page.run(STOP)
    frames, delays = found["frames"], sorted(found["delays"])
    if len(frames) < 2 or not delays:
        return {"frames": len(frames)}
    gaps = [b - a for a, b in pairwise(frames)]
    return {
        "frames": len(frames),
        "per_second": round(1000 * (len(frames) - 1) / (frames[-1] - frames[0]), 1),
        "longest_pause_ms": round(max(gaps), 1),
        "delay_ms_median": round(median(delays), 1),
        "delay_ms_p95": round(delays[min(len(delays) - 1, int(0.95 * len(delays)))], 1),
    }


def moved(page: Page, seconds: float) -> dict[str, float]:
    """The map is dragged back and forth."""
    left, top, width, height = page.run(BOX)
    x, y = left + width / 2, top + height / 2

    def drag() -> None:
        mouse(page, "mousePressed", x, y, button="left", buttons=1, clickCount=1)
        end, step = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            step += 1
            mouse(
                page,
                "mouseMoved",
                x + 90 * ((step % 40) / 20 - 1),
                y + 40 * ((step % 60) / 30 - 1),
                button="left",
                buttons=1,
            )
        mouse(page, "mouseReleased", x, y, button="left", buttons=0, clickCount=1)

    return recorded(page, "pointermove", drag)


def zoomed(page: Page, seconds: float) -> dict[str, float]:
    """The wheel is turned back and forth, after a press on the map."""
    left, top, width, height = page.run(BOX)
    x, y = left + width / 2, top + height / 2
    mouse(page, "mousePressed", left + 8, top + 8, button="left", buttons=1, clickCount=1)
    mouse(page, "mouseReleased", left + 8, top + 8, button="left", clickCount=1)

    def wheel() -> None:
        end, step = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            step += 1
            mouse(page, "mouseWheel", x, y, deltaX=0, deltaY=30 if step % 20 < 10 else -30)

    found = recorded(page, "wheel", wheel)
    page.run("document.querySelector('#lm-map .modebar-btn[data-val=reset]').click()")
    time.sleep(1)
    return found


def hovered(page: Page, seconds: float) -> dict[str, float]:
    """The pointer wanders over the points: the delay until the name beside it follows."""
    left, top, width, height = page.run(BOX)

    def wander() -> None:
        end, step = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            step += 1
            mouse(
                page,
                "mouseMoved",
                left + width * (0.2 + 0.6 * (step * 37 % 100) / 100),
                top + height * (0.2 + 0.6 * (step * 61 % 100) / 100),
            )

    return recorded(page, "pointermove", wander)


def clicked(page: Page, times: int = 5) -> dict[str, float]:
    """From the click on a point to the frame with the edges and similarities."""
    joined = []
    for i in range(times):
        page.run("latentmem.mapView.clear()")
        page.until("return !latentmem.mapView.mark.open")
        time.sleep(0.5)
        x, y = page.run(
            f"""{AT} const box = host.getBoundingClientRect(), n = ids.length;
            for (let k = 0; k < n; k++) {{ const [x, y] = at((k + arguments[0] * 7919) % n);
              if (x > 40 && y > 40 && x < host.clientWidth - 40 && y < host.clientHeight - 150)
                return [box.left + x, box.top + y]; }}""",
            i + 1,
        )
        mouse(page, "mouseMoved", x, y)
        time.sleep(0.3)
        page.run("""window.lmClick = null; const host = latentmem.mapView.host;
            window.addEventListener('pointerup', (e) => { const frame = () => {
                if (latentmem.mapView.mark.open && host.layout?.annotations?.length) window.lmClick = performance.now() - e.timeStamp;
                else requestAnimationFrame(frame); }; requestAnimationFrame(frame); }, {once: true, capture: true});""")
        mouse(page, "mousePressed", x, y, button="left", buttons=1, clickCount=1)
        mouse(page, "mouseReleased", x, y, button="left", clickCount=1)
        joined.append(page.until("return window.lmClick"))
    return {"joined_ms_median": round(median(joined), 1), "joined_ms_max": round(max(joined), 1)}


def linked(page: Page, url: str, memory: str, times: int = 7) -> dict[str, int]:
    """`?memory=ID`: medians of the milliseconds to the points, to the memory's page, to its edges."""
    page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    took = []
    for _ in range(times):
        page.driver.get("about:blank")
        page.errors()
        page.driver.get(f"{url}?memory={memory}")
        took.append(page.until("return window.lmTimes.edges && window.lmTimes"))
    return {f"{what}_ms": round(median(t[what] for t in took)) for what in took[0]}


def measure(points: int, bank: str, seconds: float) -> dict[str, Any]:
    """All figures for a bank of so many memories in this file, which is filled first if it has
    fewer."""
    filled = many(FakeEngine(), bank, points)
    memory = filled.infos(limit=1)[0].id
    filled.close()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "tests.fake_engine",
            "--port",
            str(port),
            "--memories",
            str(points),
            "--bank",
            bank,
        ]
        server = serve(command, port, Path(folder) / "log", dict(os.environ))
        page = Page(1440, 900)
        try:
            return _measured(page, next(server), points, memory, seconds)
        finally:
            page.driver.quit()
            server.close()


def _measured(page: Page, url: str, points: int, memory: str, seconds: float) -> dict[str, Any]:
    took = []
    for _ in range(2):
        page.driver.get("about:blank")
        page.errors()  # gradio reports its own open stream as an error when a page is left
        began = time.perf_counter()
        page.driver.get(f"{url}?panel=memories")
        page.until(DRAWN, min(points, MOST_SHOWN))
        took.append(round(time.perf_counter() - began, 2))
    named = time.perf_counter()
    page.until("return latentmem.mapData.extras?.stamp === latentmem.mapData.points.stamp")
    named = time.perf_counter() - named
    return {
        "points": points,
        "first_picture_s": {"server_cold": took[0], "again": took[1]},
        "names_and_trust_after_s": round(named, 2),
        "move": moved(page, seconds),
        "wheel": zoomed(page, seconds),
        "hover": hovered(page, seconds),
        "click": clicked(page),
        "memory_link": linked(page, url, memory),
        "sent_bytes": page.run("""const size = (v) => JSON.stringify(v ?? '').length, d = latentmem.mapData;
                return {points: size(d.points), paint: size(d.paint), click: size(latentmem.mapView.mark)};"""),
        "stage": page.run(BOX)[2:],
        "webgl": page.run(RENDERER),
        "errors": page.errors(),
        "cores": os.cpu_count(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument(
        "--bank", default="", help="a file that keeps the memories for the next time"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of moving, of zooming, and of hovering"
    )
    parser.add_argument(
        "--fill-only", action="store_true", help="make the bank and measure nothing"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bank = args.bank or str(Path(folder) / "bank.sqlite")
        if args.fill_only:
            many(FakeEngine(), bank, args.points).close()
            return
        print(json.dumps(measure(args.points, bank, args.seconds), indent=1))


if __name__ == "__main__":
    main()
