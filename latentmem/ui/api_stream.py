"""The endpoint of the Stream panel: the standings while they grow, and at last every reply and lesson.

A file goes through hidden components, because `gr.api` knows only JSON; so all of its parameters do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import gradio as gr

from ..evaluation.tally import Progress, Standing
from ..records import to_dict
from . import session
from .session import Desk, Run, bind
from .streaming import ALL, FIRST, PAIR, SYSTEMS, Given, feed_of, going, most_problems, posed

System = Literal["zero_shot", "vote", "icl_raw", "elm"]
EVERY = 1.0  # seconds between two answers, if no reply or lesson comes in between


def stream(desk: Desk, family: str = ALL, systems: list[System] | None = None, problems: int | None = None,
           seed: int | None = None, file: str | None = None, fresh: bool = False,
           request: gr.Request = None) -> Iterator[dict]:  # type: ignore[assignment]
    """Meets problems one at a time and yields how each system stands so far; the last yield has all replies and lessons.

    Each problem is answered with what was learnt from earlier ones only, scored, and then learnt from. A stream that was
    stopped goes on where it was when the same one is asked for again.

    Parameters:
        family: a family of the examples, or all of them mixed
        systems: the model alone with one trace or a vote, a past problem in its context, memories; null means the first and last
        problems: how many; null means what the panel begins with
        seed: the same seed gives the same order and the same traces; null means the app's own
        file: a JSONL file of problems and answers, in the place of the examples
        fresh: true forgets what there was of this stream
    """
    given = Given(family, file, PAIR if systems is None else systems,
                  min(FIRST, most_problems(desk.hosted)) if problems is None else problems,
                  desk.engine.settings.seed if seed is None else seed)
    run = posed(desk.visit(request), given, fresh, again="ask with fresh=true, which forgets that run")
    try:
        yield standings(run, ended=False)  # at once: before its first answer gradio cannot cancel it
    except GeneratorExit:
        run.end()
        raise
    for _ in going(desk, run, refresh=EVERY, beat=EVERY):
        desk.visit(request)  # whoever listens is not idle: a stream may take hours
        yield standings(run, ended=False)
    if run.error:
        raise gr.Error(run.error, print_exception=False)
    yield standings(run, ended=True)


def standings(run: Run, ended: bool) -> dict[str, Any]:
    """A stream as plain values; replies and lessons only once it has ended, or it would be sent over and over."""
    with run.lock:
        feed = feed_of(run)
        far = feed.progress or Progress(0, 0, ())
        return {"done": far.done, "total": far.total, "whole": feed.whole, "problems": feed.total,
                "doing": feed.status.text if feed.status is not None and not ended else "",
                "standings": [standing(s) for s in far.standings], "notes": list(feed.notes),
                "results": [to_dict(r) for r in feed.results] if ended else [],
                "learned": [to_dict(one) for one in feed.learned] if ended else []}


def standing(s: Standing) -> dict[str, Any]:
    """How one system stands, with its shares."""
    return to_dict(s) | {"accuracy": s.accuracy, "coverage": s.coverage, "routing_accuracy": s.routing_accuracy}


def offer(desk: Desk, hidden: gr.Button, model_work: dict[str, Any]) -> None:
    """Registers the endpoint, inside the Blocks of the caller."""
    families = sorted({session.family(p) for p in desk.examples.values() if p.answer})
    asked = [gr.Dropdown([ALL, *families], value=ALL, label="family", visible=False),
             gr.Dropdown([name for _, name in SYSTEMS], value=list(PAIR), multiselect=True, label="systems", visible=False),
             gr.Number(None, precision=0, label="problems", visible=False),
             gr.Number(None, precision=0, label="seed", visible=False),
             gr.File(file_types=[".jsonl"], type="filepath", label="file", visible=False),
             gr.Checkbox(False, label="fresh", visible=False)]
    hidden.click(bind(stream, desk), asked, gr.JSON(visible=False, label="standings"), api_name="stream",
                 show_progress="hidden", **model_work)
