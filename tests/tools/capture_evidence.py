"""Takes the README's picture of the results in a real Chromium: `python -m
tests.tools.capture_evidence`.

Every row of assets/results/evidence.json with its difference to the model alone, but for the oracle
routers, goes into assets/results/evidence.webp.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from latentmem.evaluation.figures import differences
from latentmem.evaluation.metrics import Estimate
from latentmem.evaluation.page import Report
from tests.browser_page import Page
from tests.tools.capture_pictures import save, shot

ROOT = Path(__file__).parents[2]
WIDTH = 900  # pixels


def shown_name(row: dict[str, Any]) -> str:
    """The name of a row where people read it: vote_n says how many traces vote."""
    votes = row["settings"].get("votes")
    return row["system"] if votes is None else f"{row['system']} (N = {votes})"


def groups(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, Estimate]]]:
    found: dict[str, list[tuple[str, Estimate]]] = {}
    for r in rows:
        if r["delta_vs_zero_shot"] is not None and "_oracle" not in r["system"]:
            title = f"{r['settings']['run']}: {r['dataset']}, n = {r['n']}"
            found.setdefault(title, []).append(
                (
                    shown_name(r),
                    Estimate(
                        r["n"], r["delta_vs_zero_shot"], r["delta_ci_low"], r["delta_ci_high"]
                    ),
                )
            )
    return found


def main() -> None:
    figure = differences(groups(json.loads((ROOT / "assets/results/evidence.json").read_bytes())))
    height = figure["layout"]["height"]
    report = Report("", "")
    report.figure(figure, "Differences to the model alone")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(report.html().replace("<h1></h1><p></p>", ""), encoding="utf-8")
        page = Page(WIDTH, height)
        try:
            page.driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": height, "deviceScaleFactor": 2, "mobile": False},
            )
            page.driver.get(file.as_uri())
            page.until("return document.querySelector('.main-svg')")
            page.run(
                "document.querySelector('figcaption').remove(); "
                "document.documentElement.style.overflow = 'hidden';document.body.style.padding = "
                "document.querySelector('figure').style.margin = 0;"
            )
            print(save(shot(page), ROOT / "assets" / "results" / "evidence.webp"))
        finally:
            page.driver.quit()


if __name__ == "__main__":
    main()
