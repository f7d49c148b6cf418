"""The Stream panel: problems one at a time, and the accuracy of each system as it grows. Stop, go on, download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from ..evaluation import datasets
from ..evaluation import stream as protocol
from ..evaluation.datasets import DataSet
from ..evaluation.journal import Journal
from ..evaluation.work import Entrant
from ..records import LatentmemError, Status, digest
from ..settings import Settings
from . import parts
from .session import Desk, Run, attempt, bind, exclusively, family, follow, ready_engine
from .views import Fragment, fragments, notice, progress
from .views_stream import Feed, accuracy_figure, doing, empty, ending, notes, recent, standings_table

if TYPE_CHECKING:
    from ..engine import Engine

SYSTEMS = (("The model alone, one trace", "zero_shot"), ("The model alone, a vote of eight", "vote"),
           ("A past problem in the context", "icl_raw"), ("Latent memories", "elm"))
ALL = "All families, mixed"
FIRST, MOST, MOST_HOSTED = 8, 200, 6  # problems: at first, at most, and at most in a shared app
FILE_BYTES = 5_000_000
NOTHING: dict[str, Any] = {"data": [], "layout": {  # no empty axes before there is a result
    "height": 4, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "xaxis": {"visible": False}, "yaxis": {"visible": False}}}


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
    most = MOST_HOSTED if settings.hosted else MOST
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
            chosen = gr.Dropdown([ALL, *families], value=families[0] if families else ALL, label="Examples of",
                                 elem_id="lm-stream-set")
            file = gr.File(label="or a JSONL file of problems and answers", file_types=[".jsonl"], type="filepath",
                           elem_id="lm-stream-file", height=150)
            systems = gr.CheckboxGroup(list(SYSTEMS), value=["zero_shot", "elm"], label="Systems", elem_id="lm-stream-systems")
            size = gr.Slider(1, most, value=min(FIRST, most), step=1, label="Problems",
                             info="They come in a random order that the seed decides.")
            seed = gr.Number(settings.seed, label="Seed", precision=0, minimum=0)
            with gr.Row(elem_classes="tight"):
                press = gr.Button("Start", variant="primary", elem_id="lm-stream-start", min_width=110)
                stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="lm-stream-stop", min_width=110)
            again = gr.Button("Begin again", visible=False, elem_id="lm-stream-again", size="sm")
            download = gr.DownloadButton("Download the results", visible=False, elem_id="lm-stream-download", size="sm")
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = parts.live("lm-stream-status", fragments(("empty", empty())))
            figure = parts.figure("lm-stream-curve", "Accuracy so far, by system")
            figure.value = NOTHING
            table = parts.live("lm-stream-table")
            one_by_one = parts.live("lm-stream-problems", classes="arrivals")
    return Stream([chosen, file, systems, size, seed], press, stop, again,
                  [status, figure, table, one_by_one, press, stop, again, download])


def wire_stream(desk: Desk, s: Stream, model_work: dict[str, Any]) -> None:
    """Start, stop, go on, begin again."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    options = {"show_progress": "minimal", "show_progress_on": s.outputs[0], "api_visibility": "private", **model_work}
    runs = [pressed.then(bind(handler, desk), s.asked, s.outputs, **options) for handler, pressed in (
        (start, s.press.click(waiting, None, s.outputs, queue=False, **quiet)),
        (anew, s.again.click(waiting, None, s.outputs, queue=False, **quiet)))]
    s.stop.click(bind(stop, desk), None, s.outputs, cancels=runs, queue=False, **quiet)


# ------------------------------------------------------------------ what is streamed, and by whom
def data_of(desk: Desk, chosen: str, file: str | None, size: float, seed: float) -> DataSet:
    """The problems of the stream in their order. Raises LatentmemError for a file that holds none, or a wrong number."""
    most = MOST_HOSTED if desk.hosted else MOST
    if not isinstance(size, (int, float)) or not 1 <= size <= most:
        raise LatentmemError(f"{size} problems cannot be streamed: choose 1 to {most}.")
    if not isinstance(seed, (int, float)) or seed < 0:
        raise LatentmemError(f"Seed {seed} does not fit: give a whole number from 0 on.")
    if file:
        data = uploaded(Path(file), desk.engine.settings.max_problem_chars)
    else:
        those = tuple(p for p in desk.examples.values() if p.answer and chosen in (ALL, family(p)))
        if not those:
            raise LatentmemError(f"There are no examples of {str(chosen)[:40]!r}: choose another family.")
        data = DataSet("examples" if chosen == ALL else f"examples/{chosen}", "examples", those)
    order = datasets.shuffled(datasets.unique(data.problems), int(seed))
    return replace(data, problems=tuple(order[: int(size)]))


def uploaded(file: Path, most_chars: int) -> DataSet:
    """A visitor's file, checked line by line."""
    try:
        if file.stat().st_size > FILE_BYTES:
            raise LatentmemError(f"{file.name} has more than {FILE_BYTES // 1_000_000} MB: upload a part of it.")
        return datasets.from_bytes(file.read_bytes(), file.name, most_chars=most_chars)
    except OSError:
        raise LatentmemError(f"{file.name} cannot be read: upload it again.") from None


def home(desk: Desk, data: DataSet, systems: Sequence[str], seed: int) -> Path:
    """Where a stream is kept: beside the bank, or with the visitor's other files in a shared app. The same choices find
    the same folder, so that a stream goes on after a stop, a reload or a restart."""
    s = desk.engine.settings
    lasting = not desk.hosted and str(s.bank) != ":memory:"
    root = Path(s.bank).expanduser().parent if lasting else Path(desk.folder())
    what = digest(data.digest, *sorted(systems), str(seed), s.model_dump_json(exclude={"bank", "device"}))[:12]
    return root / "streams" / what


def cast(engine: Engine, systems: Sequence[str], data: DataSet, folder: Path) -> tuple[list[Entrant], dict[str, Any]]:
    """The systems that were chosen, over one sampler, and what the run is. The engine is loaded."""
    from ..baselines.registry import Workshop
    from ..evaluation.suites import facts, part

    shop = Workshop(engine, folder / "cache")
    entrants = entered(systems, shop.make)
    forms = {e.name: [f.name for f in e.forms] for e in entrants}
    return entrants, facts(shop, {"protocol": "stream", "data": part(data), "block": 1, "systems": forms})


def entered(systems: Sequence[str], make: Any) -> list[Entrant]:
    """The entrants behind the names of the checkboxes: the two of the model alone are one system in two forms."""
    from ..evaluation.work import FORMS

    alone = tuple(FORMS[form] for name, form in (("zero_shot", "one"), ("vote", "vote")) if name in systems)
    found = [Entrant("zero_shot", alone, lambda: make("zero_shot"))] if alone else []
    return found + [Entrant(name, (FORMS["one"],), lambda name=name: make(name), "online") for name in ("icl_raw", "elm")
                    if name in systems]


def records(desk: Desk, feed: Feed, given: tuple[Any, ...], fresh: bool) -> Iterator[Any]:
    """Everything from the press of Start to the last reply; begins with what an earlier part of the stream has left."""
    chosen, file, systems, size, seed = given
    names = [name for _, name in SYSTEMS if name in (systems or ())]
    if not names:
        raise LatentmemError("No system is chosen: tick at least one.")
    data = data_of(desk, chosen, file, size, seed)
    feed.total, feed.notes = len(data.problems), data.notes
    feed.texts = {p.id: p.text for p in data.problems}
    folder = home(desk, data, names, int(seed))
    engine = yield from ready_engine(desk, {"seed": int(seed)})
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    yield Status("Getting the systems ready")
    entrants, facts = cast(engine, names, data, folder)
    with Journal(folder / "run", facts) as journal:
        yield from journal.results()
        yield from journal.learned()
        with closing(protocol.run(entrants, data, journal)) as stream:
            yield from stream


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
        return Picture(
            status + fragments(("notes", notes(feed))), accuracy_figure(feed.results, feed.total) if some else NOTHING,
            fragments(("table", standings_table(feed))), recent(feed),
            gr.update(value="Go on" if some and not feed.whole and not running else "Start", interactive=not running),
            gr.update(interactive=running), gr.update(visible=some and not running),
            gr.update(value=saved(desk, run), visible=True) if some and not running else gr.update(visible=False))


def feed_of(run: Run) -> Feed:
    return run.scene if isinstance(run.scene, Feed) else Feed()


def saved(desk: Desk, run: Run) -> str | None:
    """A copy of the results to download: one line a reply and a lesson."""
    file = Path(run.settings.get("folder", "")) / "run" / "results.jsonl"
    if not run.settings.get("folder") or not file.is_file():
        return None
    copy, _ = attempt(lambda: shutil.copyfile(file, desk.fresh_folder() / "stream.jsonl"))
    return str(copy) if copy else None


def start(desk: Desk, chosen: str, file: str | None, systems: list[str], size: float, seed: float,
          request: gr.Request) -> Iterator[Picture]:
    """Streams, from where the same stream was stopped before."""
    yield from _stream(desk, (chosen, file, systems, size, seed), request, fresh=False)


def anew(desk: Desk, chosen: str, file: str | None, systems: list[str], size: float, seed: float,
         request: gr.Request) -> Iterator[Picture]:
    """Forgets what there was of this stream, and streams."""
    yield from _stream(desk, (chosen, file, systems, size, seed), request, fresh=True)


def _stream(desk: Desk, given: tuple[Any, ...], request: gr.Request, *, fresh: bool) -> Iterator[Picture]:
    run = desk.visit(request).start("stream")
    feed = Feed()
    run.scene = feed  # type: ignore[assignment]
    found, _ = attempt(lambda: home(desk, data_of(desk, given[0], given[1], given[3], given[4]),
                                    [n for _, n in SYSTEMS if n in (given[2] or ())], int(given[4])))
    run.settings = {"folder": str(found) if found else ""}
    yield picture(desk, run, True)
    for _ in follow(exclusively(desk, records(desk, feed, given, fresh)), run):
        yield picture(desk, run, True)
    yield picture(desk, run, False)


def waiting() -> Picture:
    """At once on the press: the last stream's page goes, and one that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model"))))
    hidden = gr.update(visible=False)
    return Picture(status, NOTHING, [], [], gr.update(interactive=False), gr.update(interactive=True), hidden, hidden)


def stop(desk: Desk, request: gr.Request) -> Picture:
    """Ends the stream after the reply that is being written; what was done is kept."""
    run = desk.visit(request).runs.get("stream") or Run()
    run.stop.set()
    with run.lock:
        feed_of(run).stopped = True
    return picture(desk, run, False, "" if feed_of(run).results else "Stopped before the first reply.")
