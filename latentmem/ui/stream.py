"""The Stream panel: problems one at a time, and the accuracy of each system as it grows. Stop, go on, download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import gradio as gr

from ..records import Status
from ..settings import Settings
from . import parts
from .session import Desk, Run, Visit, attempt, bind
from .streaming import (
    ALL,
    FIRST,
    PAIR,
    SYSTEMS,
    Given,
    feed_of,
    going,
    lines_of,
    most_problems,
    posed,
    what_is_left,
)
from .views import Fragment, fragments, notice, progress
from .views_stream import Feed, accuracy_figure, doing, empty, ending, notes, recent, standings_table


@dataclass(frozen=True)
class Stream:
    """The panel's components that the wiring needs."""

    asked: list[gr.components.Component]  # family, file, systems, problems, seed
    press: gr.Button
    stop: gr.Button
    again: gr.Button
    outputs: list[gr.components.Component]


class Picture(NamedTuple):
    """What a handler sends to the page; the order is that of `Stream.outputs`."""

    status: list[Fragment]
    figure: Any
    table: list[Fragment]
    recent: list[Fragment]
    press: Any
    stop: Any
    again: Any
    download: Any


def create_stream(settings: Settings, families: Sequence[str]) -> Stream:
    """The panel, inside the Blocks and the Tab of the caller."""
    most = most_problems(settings.hosted)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
            chosen = gr.Dropdown([ALL, *families], value=families[0] if families else ALL, label="Examples of",
                                 elem_id="lm-stream-set")
            file = gr.File(label="or a JSONL file of problems and answers", file_types=[".jsonl"], type="filepath",
                           elem_id="lm-stream-file", height=150)
            systems = gr.CheckboxGroup(list(SYSTEMS), value=list(PAIR), label="Systems", elem_id="lm-stream-systems")
            size = gr.Slider(1, most, value=min(FIRST, most), step=1, label="Problems",
                             info="They come in a random order that the seed decides.")
            seed = gr.Number(settings.seed, label="Seed", precision=0, minimum=0, elem_id="lm-stream-seed")
            with gr.Row(elem_classes="tight"):
                press = gr.Button("Start", variant="primary", elem_id="lm-stream-start", min_width=110)
                stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="lm-stream-stop", min_width=110)
            again = gr.Button("Begin again", visible=False, elem_id="lm-stream-again", size="sm")
            download = gr.DownloadButton("Download the results", visible=False, elem_id="lm-stream-download", size="sm")
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = parts.live("lm-stream-status", fragments(("empty", empty())))
            curve = parts.figure("lm-stream-curve", "Accuracy so far, by system")
            table = parts.live("lm-stream-table")
            one_by_one = parts.live("lm-stream-problems", classes="arrivals")
    return Stream([chosen, file, systems, size, seed], press, stop, again,
                  [status, curve, table, one_by_one, press, stop, again, download])


def wire_stream(desk: Desk, s: Stream, model_work: dict[str, Any]) -> None:
    """Start, stop, go on, begin again."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    runs = [button.click(bind(pressed, desk), s.asked, s.outputs, queue=False, **quiet).then(
        bind(begin, desk), None, s.outputs, show_progress_on=s.outputs[0], **parts.WORK, **model_work)
        for button, pressed in ((s.press, press), (s.again, press_anew))]
    chosen, file, systems, size, seed = s.asked
    for touched in (chosen.input, file.upload, file.clear, file.delete, systems.input, size.input, seed.input):
        touched(bind(offered, desk), s.asked, [s.press, s.again], queue=False, trigger_mode="always_last", **quiet)
    for run in runs:
        run.failure(bind(refused, desk), None, s.outputs, queue=False, **quiet)
    s.stop.click(bind(stop, desk), None, s.outputs, cancels=runs, queue=False, **quiet)


# ------------------------------------------------------------------ handlers
def picture(desk: Desk, run: Run, running: bool, words: str = "") -> Picture:
    """The page of a stream as it stands."""
    with run.lock:
        feed = feed_of(run)
        if run.error:
            status = fragments(("error", notice(run.error, "warn")))
        elif running:
            status = fragments(("status", doing(feed)))
        else:
            said = words or ending(feed)
            status = fragments(("said", notice(said, "good" if feed.whole else "info"))) or fragments(("empty", empty()))
        some = bool(feed.results)
        stuck = bool(run.error and feed.folder)  # what there is of this stream may be what is wrong
        return Picture(
            status + fragments(("notes", notes(feed))), accuracy_figure(feed.results, feed.total) if some else parts.NO_FIGURE,
            fragments(("table", standings_table(feed))), recent(feed),
            gr.update(value="Go on" if some and not feed.whole and not running else "Start", interactive=not running),
            gr.update(interactive=running), gr.update(visible=(some or stuck) and not running),
            gr.update(value=saved(desk, feed), visible=True) if some and not running else gr.update(visible=False))


def saved(desk: Desk, feed: Feed) -> str | None:
    """A copy of the results to download: one line a reply and a lesson."""
    file = Path(feed.folder) / "run" / "results.jsonl"
    if not feed.folder or not file.is_file():
        return None

    def copied(folder: Path) -> str:
        (folder / "stream.jsonl").write_bytes(lines_of(file, feed.total))
        return str(folder / "stream.jsonl")

    return attempt(lambda: desk.export("stream", copied))[0]


def offered(desk: Desk, request: gr.Request, *given: Any) -> tuple[Any, Any]:
    """A choice was touched: what the buttons would do with the choices as they now are. Other ones are another stream, which
    does not go on with the one that is shown."""
    if desk.visit(request).busy("stream"):
        return gr.skip(), gr.skip()
    there, missing = what_is_left(desk, Given(*given))
    return gr.update(value="Go on" if there and missing else "Start"), gr.update(visible=there)


def begin(desk: Desk, request: gr.Request) -> Iterator[Any]:
    """Streams what the last press asked, from where the same stream was stopped before."""
    yield from parts.in_turn(desk.visit(request), "stream", len(Picture._fields), lambda run: _stream(desk, run))


def _stream(desk: Desk, run: Run) -> Iterator[Picture]:
    yield picture(desk, run, True)
    for _ in going(desk, run):
        yield picture(desk, run, True)
    yield picture(desk, run, False)


def press(desk: Desk, request: gr.Request, *given: Any) -> Picture:
    """At once on the press, before the queue: what was chosen is taken down, so that a reload meanwhile does not lose it."""
    posed(desk.visit(request), Given(*given))
    return waiting()


def press_anew(desk: Desk, request: gr.Request, *given: Any) -> Picture:
    """The same for "Begin again": what there was of this stream is forgotten."""
    posed(desk.visit(request), Given(*given), fresh=True)
    return waiting()


def refused(desk: Desk, request: gr.Request) -> Any:
    """The queue was full."""
    run = desk.visit(request).runs.get("stream")
    return parts.refused(run, desk.full(), len(Picture._fields), lambda run: picture(desk, run, False))


def waiting() -> Picture:
    """The last stream's page is gone, and one that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model"))))
    hidden = gr.update(visible=False)
    return Picture(status, parts.NO_FIGURE, [], [], gr.update(interactive=False), gr.update(interactive=True), hidden, hidden)


# ------------------------------------------------------------------ after a reload
def resume(desk: Desk, request: gr.Request) -> Iterator[Any]:
    """Goes on showing the stream that is still going on."""
    run = desk.visit(request).runs.get("stream")
    yield from parts.taken_up(run, len(Picture._fields), lambda running: picture(desk, run, running))


def restored(desk: Desk, visit: Visit) -> tuple[Any, ...]:
    """What a loaded page shows: the choices and the Picture of the last stream, if there was one."""
    run = visit.runs.get("stream")
    if run is None:
        return (gr.skip(),) * len(Given._fields + Picture._fields)
    given = cast(Given, run.given)
    if given.file and not Path(given.file).is_file():
        given = given._replace(file=None)  # gradio forgets uploads after a day
    return *given, *(waiting() if run.pressed else picture(desk, run, run.busy))


def stop(desk: Desk, request: gr.Request) -> Picture:
    """Ends the stream after the reply that is being written; what was done is kept."""
    run = desk.visit(request).runs.get("stream") or Run()
    run.end()
    with run.lock:
        feed_of(run).stopped = True
    return picture(desk, run, False, "" if feed_of(run).results else "Stopped before the first reply.")
