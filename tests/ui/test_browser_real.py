"""The whole journey in a real Chromium with real weights: solve, distil, keep, click the point, ask
a neighbour, read the receipt, delete, reload. A minute or two on two cores."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser_page import OPENED, Page, click_point, free_port, marks, serve

pytestmark = [*marks, pytest.mark.real, pytest.mark.timeout(3000)]
# A model that is quick on two cores; the gate stands wide open and every gradient step is a memory,
# since what is tested is the way and not what is learnt. Such problems it often answers with a box,
# and often enough not, so that a vote has something to teach (tests/cli/test_real_commands.py).
SETTINGS = {
    "MODEL": "smollm2-135m",
    "DTYPE": "float32",
    "ROLLOUTS": "8",
    "MAX_NEW_TOKENS": "40",
    "STEPS": "1",
    "TEMPERATURE": "0.5",
    "GATE_VOTES": "1",
    "GATE_LEAD": "0",
    "KEEP": "last",
    "MIN_SIMILARITY": "0.2",
    "STARTER": "0",
}
PATIENCE = 900.0


def asks(a: int, b: int) -> str:
    both = f"{a} + {b} = \\boxed{{{a + b}}}. {b} + {a} = \\boxed{{{a + b}}}."
    return f"Summarize in three words: {both} So it is \\boxed{{{a + b}}}."


PAIRS = [(asks(n, n + 1), asks(n, n + 2)) for n in range(2, 8)]  # to learn from, and its neighbour


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    port, tab = free_port(), Page()
    env = {
        **os.environ,
        **{f"LATENTMEM_{k}": v for k, v in SETTINGS.items()},
        "GRADIO_SERVER_PORT": str(port),
        "LATENTMEM_BANK": str(tmp_path / "bank.sqlite"),
    }
    server = serve([sys.executable, "app.py"], port, tmp_path / "log", env)
    try:
        tab.open(next(server))
        yield tab
    finally:
        tab.driver.quit()
        server.close()


def ask(page: Page, text: str) -> None:
    """Solves, with patience: the first time the weights are loaded, too."""
    page.run("document.querySelector('#lm-receipt .receipt')?.setAttribute('data-old', '')")
    page.write("#lm-problem textarea", text)
    page.click("#lm-solve")
    page.until(
        "return document.querySelector('#lm-receipt .receipt:not([data-old]), #lm-status .warn')",
        seconds=PATIENCE,
    )
    assert page.text("#lm-status .warn") == ""
    page.until("return document.querySelector('#lm-stop').disabled")


def learn(page: Page) -> bool:
    """Distils the problem that was just solved; whether there is a memory to keep."""
    page.run("document.querySelector('#lm-outcome .outcome')?.setAttribute('data-old', '')")
    page.there("#lm-distil-this, #lm-help [data-do=retry]")
    if not page.run("return document.querySelector('#lm-distil-this')?.offsetHeight"):
        return False  # the vote does not pass: it is not offered
    page.click("#lm-distil-this")
    page.until(
        "return document.querySelector('#lm-outcome .outcome:not([data-old]), #lm-distil-status "
        ".warn')",
        seconds=PATIENCE,
    )
    page.until("return document.querySelector('#lm-distil-stop').disabled", seconds=PATIENCE)
    assert page.text("#lm-distil-status .warn") == ""
    return bool(page.run("return document.querySelector('#lm-outcome .outcome.open')"))


def solved_and_learnt(page: Page, text: str) -> bool:
    page.tab("Solve")
    ask(page, text)
    assert "The model alone" in page.text("#lm-receipt") or "No answer" in page.text("#lm-receipt")
    return learn(page)


def test_the_whole_journey(page: Page) -> None:
    url = page.driver.current_url.split("?")[0]
    assert "0 memories" in page.text("#lm-facts")
    learnt = next((pair for pair in PAIRS if solved_and_learnt(page, pair[0])), None)
    assert learnt is not None, (
        f"none of {len(PAIRS)} problems gave a memory: {page.text('#lm-outcome')}"
    )
    problem, neighbour = learnt
    assert (
        page.run("return document.querySelectorAll('#lm-curve .scatterlayer .trace').length") == 3
    )
    page.click("#lm-keep")
    page.there("#lm-outcome .outcome.kept")
    page.says("#lm-facts", "1 memory")
    name = page.run("return document.querySelector('#lm-outcome a[data-memory]').dataset.memory")

    page.tab("Memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) === 1")
    time.sleep(1)
    assert click_point(page) == name
    page.until(OPENED, name)
    assert name in page.driver.current_url

    page.tab("Solve")
    ask(page, neighbour)
    receipt = page.text("#lm-receipt")
    assert problem[:31] in receipt and "With memory" in receipt
    assert re.search(r"\b[01]\.\d{3}\b", receipt)  # how similar the memory's problem is
    page.click("#lm-receipt a[data-memory]")
    page.until(
        "return document.querySelector('#lm-map .lm-figure').data?.length && "
        "document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]",
        name,
    )
    page.until("return Boolean(window.latentmem.mapView.mark.star)")  # the neighbour on the map

    page.click("#lm-delete")
    page.click("#lm-really")
    page.says("#lm-facts", "0 memories")
    assert page.reload() == []
    page.says("#lm-facts", "0 memories")
    page.open(f"{url}?memory={name}")
    page.says("#lm-memory-notice", "no memory")
    assert page.errors() == []
