"""The Stream panel: problems one at a time, and the accuracy of each system as it grows. Stop, go
on, download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gradio as gr

from ...evaluation import datasets
from ...evaluation import protocols as protocol
from ...evaluation.datasets import DataSet
from ...evaluation.journal import Journal, Remedies, read_results, taken
from ...evaluation.protocols import SystemSpec
from ...records import LatentmemError, Status, digest
from ...settings import Settings
from .. import components
from ..runs import REFRESH, Run, follow
from ..session import AppSession, Visit, attempt, bind, exclusively, family, ready_engine
from ..views.html import Fragment, fragments, notice, progress
from ..views.stream import (
    Feed,
    accuracy_figure,
    doing,
    empty,
    ending,
    notes,
    recent,
    standings_table,
)

if TYPE_CHECKING:
    from ...engine import Engine

# ---------- What the Stream panel and its endpoint stream, by which systems, and where it is kept. No gradio.

SYSTEMS = (
    ("The model alone, one trace", "zero_shot"),
    ("The model alone, a vote of eight", "vote"),
    ("A past problem in the context", "icl_raw"),
    ("Latent memories", "elm"),
)
PAIR = ("zero_shot", "elm")  # chosen at first
ALL = "All families, mixed"
FIRST, MOST, MOST_HOSTED = 8, 200, 6  # problems: at first, at most, and at most in a shared app
FILE_BYTES = 5_000_000
# how a visitor is rid of what cannot be gone on with
PRESS = "press Begin again, which forgets that run"


class Given(NamedTuple):
    """What is chosen on the panel, in the order of its controls."""

    chosen: str  # a family, or all
    file: str | None  # goes before the family
    systems: Sequence[str] | None
    size: float  # problems
    seed: float


def posed(visit: Visit, given: Given, fresh: bool = False, again: str = PRESS) -> Run:
    """A new run of the panel, with what was chosen; not begun. `fresh`: what there was of this
    stream is forgotten. `again`: how whoever posed it begins a stream again, which an error may
    advise."""
    run = visit.start("stream")
    run.given, run.settings = given, {"fresh": fresh, "again": again}
    run.scene = Feed()  # type: ignore[assignment]
    return run


def feed_of(run: Run) -> Feed:
    """What the visitor sees of a stream; of another run, or of none, an empty one."""
    return run.scene if isinstance(run.scene, Feed) else Feed()


def going(
    desk: AppSession, run: Run, refresh: float = REFRESH, beat: float = inf
) -> Iterator[None]:
    """Streams what was posed; yields when the run should be looked at again, as `follow` does."""
    going_on = exclusively(desk, records(desk, feed_of(run), Given(*run.given), **run.settings))
    return follow(going_on, run, refresh=refresh, beat=beat)


def most_problems(hosted: bool) -> int:
    """So many may be asked for."""
    return MOST_HOSTED if hosted else MOST


def data_of(desk: AppSession, chosen: str, file: str | None, size: float, seed: float) -> DataSet:
    """The problems of the stream in their order. Raises LatentmemError for a file that holds none,
    or a wrong number."""
    return first_of(desk, all_of(desk, chosen, file, seed), size)


def first_of(desk: AppSession, data: DataSet, size: float) -> DataSet:
    """So many of the problems. Raises LatentmemError for a wrong number."""
    most = most_problems(desk.hosted)
    if not isinstance(size, (int, float)) or not 1 <= size <= most:
        raise LatentmemError(f"{size} problems cannot be streamed: choose 1 to {most}.")
    return replace(data, problems=data.problems[: int(size)])


def all_of(desk: AppSession, chosen: str, file: str | None, seed: float) -> DataSet:
    """All the problems that there are to stream, in the order of the seed. Raises LatentmemError
    for a file that holds none."""
    if not isinstance(seed, (int, float)) or not 0 <= seed < inf:
        raise LatentmemError(f"Seed {seed} does not fit: give a whole number from 0 on.")
    if file:
        data = uploaded(Path(file), desk.engine.settings.max_problem_chars)
    else:
        those = tuple(p for p in desk.examples.values() if p.answer and chosen in (ALL, family(p)))
        if not those:
            raise LatentmemError(
                f"There are no examples of {str(chosen)[:40]!r}: choose another family."
            )
        data = DataSet("examples" if chosen == ALL else f"examples/{chosen}", "examples", those)
    return replace(
        data, problems=tuple(datasets.shuffled(datasets.unique(data.problems), int(seed)))
    )


def uploaded(file: Path, most_chars: int) -> DataSet:
    """A visitor's file, checked line by line."""
    try:
        if file.stat().st_size > FILE_BYTES:
            raise LatentmemError(
                f"{file.name} has more than {FILE_BYTES // 1_000_000} MB: upload a part of it."
            )
        return datasets.from_bytes(file.read_bytes(), file.name, most_chars=most_chars)
    except OSError:
        raise LatentmemError(f"{file.name} cannot be read: upload it again.") from None


def home(desk: AppSession, data: DataSet, systems: Sequence[str], seed: int) -> Path:
    """Where a stream is kept: beside the bank, or with the visitor's other files in a shared app.
    The same choices find the same folder, so that a stream goes on after a stop, a reload or a
    restart.

    `data` are all the problems that there are to stream: how many of them are asked for decides
    nothing about a reply, so a stream that is made longer keeps what it has.
    """
    s = desk.engine.settings
    lasting = not desk.hosted and str(s.bank) != ":memory:"
    root = s.bank.parent if lasting else Path(desk.folder())
    what = digest(
        data.name,
        data.digest,
        *sorted(systems),
        str(seed),
        s.model_dump_json(exclude={"bank", "device"}),
    )[:12]
    return root / "streams" / what


def enter_systems(
    engine: Engine, systems: Sequence[str], data: DataSet, folder: Path
) -> tuple[list[SystemSpec], dict[str, Any]]:
    """The systems that were chosen, over one sampler, and what the run is. The engine is loaded."""
    from ...evaluation.baselines.registry import SystemFactory
    from ...evaluation.suites import part, run_config

    factory = SystemFactory(engine, folder / "cache")
    specs = entered(systems, factory.make)
    modes = {e.name: [f.name for f in e.modes] for e in specs}
    return specs, run_config(
        factory, {"protocol": "stream", "data": part(data), "block": 1, "systems": modes}
    )


def entered(systems: Sequence[str], make: Any) -> list[SystemSpec]:
    """The systems behind the names of the checkboxes: the two of the model alone are one system in
    two modes."""
    from ...evaluation.protocols import MODES

    alone = tuple(
        MODES[mode] for name, mode in (("zero_shot", "one"), ("vote", "vote")) if name in systems
    )
    found = [SystemSpec("zero_shot", alone, lambda: make("zero_shot"))] if alone else []
    return found + [
        SystemSpec(name, (MODES["one"],), lambda name=name: make(name), "online")
        for name in ("icl_raw", "elm")
        if name in systems
    ]


def what_is_left(desk: AppSession, given: Given) -> tuple[bool, bool]:
    """(whether there is anything of an earlier run with these choices, whether any replies are
    missing). Of choices that do not fit there is nothing."""
    names = chosen_systems(given.systems)
    try:
        order = all_of(desk, given.chosen, given.file, given.seed)
        n = len(first_of(desk, order, given.size).problems)
    except LatentmemError:
        return False, True
    try:
        there, _, _ = read_results(home(desk, order, names, int(given.seed)) / "run")
    except LatentmemError:  # damaged: it can be begun again
        return True, True
    return bool(there), sum(r.index < n for r in there) < n * len(names)


def forget(folder: Path, remedies: Remedies) -> None:
    """Deletes what there is of a stream. Raises LatentmemError while another process writes to it."""
    run = folder / "run"
    if not run.is_dir():
        return
    with taken(run, remedies):
        shutil.rmtree(folder, ignore_errors=True)


def remedies_of(again: str) -> Remedies:
    """The journal's errors as the page or a client is told them: neither has the options of the
    command line."""
    return Remedies(
        "The folder of this stream",
        again,
        again,
        "wait for it, or choose another seed",
        "make room there or let this program write there, then start again to go on",
    )


def lines_of(file: Path, problems: int) -> bytes:
    """The results of a stream, one line a reply and a lesson, as far as the first so many problems:
    an earlier run may have met more of them. What is not a whole line is left out."""

    def place(line: bytes) -> float:
        try:
            return _place(json.loads(line)["unit"])
        except (ValueError, KeyError, TypeError):
            return inf

    return b"".join(
        line for line in file.read_bytes().splitlines(keepends=True) if place(line) < problems
    )


def _place(unit: str) -> int:
    """Which problem a unit of the journal is about, from 0 on: they are named SYSTEM/FORM/PLACE and
    SYSTEM/lesson/PLACE."""
    return int(unit.rpartition("/")[2])


def chosen_systems(systems: Sequence[str] | None) -> list[str]:
    """Those of SYSTEMS that are ticked, in that order."""
    return [name for _, name in SYSTEMS if name in (systems or ())]


def records(desk: AppSession, feed: Feed, given: Given, fresh: bool, again: str) -> Iterator[Any]:
    """Everything from the press of Start to the last reply; begins with what an earlier part of the
    stream has left."""
    chosen, file, systems, size, seed = given
    names = chosen_systems(systems)
    if not names:
        raise LatentmemError("No system is chosen: tick at least one.")
    order = all_of(desk, chosen, file, seed)
    data = first_of(desk, order, size)
    feed.total, feed.notes = len(data.problems), data.notes
    feed.texts = {p.id: p.text for p in data.problems}
    folder = home(desk, order, names, int(seed))
    feed.folder, remedies = str(folder), remedies_of(again)
    engine = yield from ready_engine(desk, {"seed": int(seed)})
    if fresh:
        forget(folder, remedies)
    yield Status("Getting the systems ready")
    specs, config = enter_systems(engine, names, order, folder)
    with Journal(folder / "run", config, remedies) as journal:
        # Fewer than an earlier run met: the others are not looked at. They stay in the file.
        journal.units = {
            unit: lines
            for unit, lines in journal.units.items()
            if _place(unit) < len(data.problems)
        }
        yield from journal.results()
        yield from journal.learned()
        with closing(protocol.run_stream(specs, data, journal)) as stream:
            yield from stream


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
            chosen = gr.Dropdown(
                [ALL, *families],
                value=families[0] if families else ALL,
                label="Examples of",
                elem_id="lm-stream-set",
            )
            file = gr.File(
                label="or a JSONL file of problems and answers",
                file_types=[".jsonl"],
                type="filepath",
                elem_id="lm-stream-file",
                height=150,
            )
            systems = gr.CheckboxGroup(
                list(SYSTEMS), value=list(PAIR), label="Systems", elem_id="lm-stream-systems"
            )
            size = gr.Slider(
                1,
                most,
                value=min(FIRST, most),
                step=1,
                label="Problems",
                info="They come in a random order that the seed decides.",
            )
            seed = gr.Number(
                settings.seed, label="Seed", precision=0, minimum=0, elem_id="lm-stream-seed"
            )
            with gr.Row(elem_classes="tight"):
                press = gr.Button(
                    "Start", variant="primary", elem_id="lm-stream-start", min_width=110
                )
                stop = gr.Button(
                    "Stop",
                    variant="stop",
                    interactive=False,
                    elem_id="lm-stream-stop",
                    min_width=110,
                )
            again = gr.Button("Begin again", visible=False, elem_id="lm-stream-again", size="sm")
            download = gr.DownloadButton(
                "Download the results", visible=False, elem_id="lm-stream-download", size="sm"
            )
        with gr.Column(scale=8, min_width=320, elem_classes="result"):
            status = components.live("lm-stream-status", fragments(("empty", empty())))
            curve = components.figure("lm-stream-curve", "Accuracy so far, by system")
            table = components.live("lm-stream-table")
            one_by_one = components.live("lm-stream-problems", classes="arrivals")
    return Stream(
        [chosen, file, systems, size, seed],
        press,
        stop,
        again,
        [status, curve, table, one_by_one, press, stop, again, download],
    )


def wire_stream(desk: AppSession, s: Stream, model_work: dict[str, Any]) -> None:
    """Start, stop, go on, begin again."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    runs = [
        button.click(bind(pressed, desk), s.asked, s.outputs, queue=False, **quiet).then(
            bind(begin, desk),
            None,
            s.outputs,
            show_progress_on=s.outputs[0],
            **components.WORK,
            **model_work,
        )
        for button, pressed in ((s.press, press), (s.again, press_anew))
    ]
    chosen, file, systems, size, seed = s.asked
    for touched in (
        chosen.input,
        file.upload,
        file.clear,
        file.delete,
        systems.input,
        size.input,
        seed.input,
    ):
        touched(
            bind(offered, desk),
            s.asked,
            [s.press, s.again],
            queue=False,
            trigger_mode="always_last",
            **quiet,
        )
    for run in runs:
        run.failure(bind(refused, desk), None, s.outputs, queue=False, **quiet)
    s.stop.click(bind(stop, desk), None, s.outputs, cancels=runs, queue=False, **quiet)


# ------------------------------------------------------------------ handlers
def picture(desk: AppSession, run: Run, running: bool, words: str = "") -> Picture:
    """The page of a stream as it stands."""
    with run.lock:
        feed = feed_of(run)
        if run.error:
            status = fragments(("error", notice(run.error, "warn")))
        elif running:
            status = fragments(("status", doing(feed)))
        else:
            said = words or ending(feed)
            status = fragments(
                ("said", notice(said, "good" if feed.whole else "info"))
            ) or fragments(("empty", empty()))
        some = bool(feed.results)
        stuck = bool(run.error and feed.folder)  # what there is of this stream may be what is wrong
        return Picture(
            status + fragments(("notes", notes(feed))),
            accuracy_figure(feed.results, feed.total) if some else components.NO_FIGURE,
            fragments(("table", standings_table(feed))),
            recent(feed),
            gr.update(
                value="Go on" if some and not feed.whole and not running else "Start",
                interactive=not running,
            ),
            gr.update(interactive=running),
            gr.update(visible=(some or stuck) and not running),
            gr.update(value=saved(desk, feed), visible=True)
            if some and not running
            else gr.update(visible=False),
        )


def saved(desk: AppSession, feed: Feed) -> str | None:
    """A copy of the results to download: one line a reply and a lesson."""
    file = Path(feed.folder) / "run" / "results.jsonl"
    if not feed.folder or not file.is_file():
        return None

    def copied(folder: Path) -> str:
        (folder / "stream.jsonl").write_bytes(lines_of(file, feed.total))
        return str(folder / "stream.jsonl")

    return attempt(lambda: desk.export("stream", copied))[0]


def offered(desk: AppSession, request: gr.Request, *given: Any) -> tuple[Any, Any]:
    """A choice was touched: what the buttons would do with the choices as they now are. Other ones
    are another stream, which does not go on with the one that is shown."""
    if desk.visit(request).busy("stream"):
        return gr.skip(), gr.skip()
    there, missing = what_is_left(desk, Given(*given))
    return gr.update(value="Go on" if there and missing else "Start"), gr.update(visible=there)


def begin(desk: AppSession, request: gr.Request) -> Iterator[Any]:
    """Streams what the last press asked, from where the same stream was stopped before."""
    yield from components.in_turn(
        desk.visit(request), "stream", len(Picture._fields), lambda run: _stream(desk, run)
    )


def _stream(desk: AppSession, run: Run) -> Iterator[Picture]:
    yield picture(desk, run, True)
    for _ in going(desk, run):
        yield picture(desk, run, True)
    yield picture(desk, run, False)


def press(desk: AppSession, request: gr.Request, *given: Any) -> Picture:
    """At once on the press, before the queue: what was chosen is taken down, so that a reload
    meanwhile does not lose it."""
    posed(desk.visit(request), Given(*given))
    return waiting()


def press_anew(desk: AppSession, request: gr.Request, *given: Any) -> Picture:
    """The same for "Begin again": what there was of this stream is forgotten."""
    posed(desk.visit(request), Given(*given), fresh=True)
    return waiting()


def refused(desk: AppSession, request: gr.Request) -> Any:
    """The queue was full."""
    run = desk.visit(request).runs.get("stream")
    return components.refused(
        run, desk.full(), len(Picture._fields), lambda run: picture(desk, run, False)
    )


def waiting() -> Picture:
    """The last stream's page is gone, and one that waits in the queue can be stopped."""
    status = fragments(("wait", progress(Status("Waiting for the model"))))
    hidden = gr.update(visible=False)
    return Picture(
        status,
        components.NO_FIGURE,
        [],
        [],
        gr.update(interactive=False),
        gr.update(interactive=True),
        hidden,
        hidden,
    )


# ------------------------------------------------------------------ after a reload
def resume(desk: AppSession, request: gr.Request) -> Iterator[Any]:
    """Goes on showing the stream that is still going on."""
    run = desk.visit(request).runs.get("stream")
    yield from components.taken_up(
        run, len(Picture._fields), lambda running: picture(desk, run, running)
    )


def restored(desk: AppSession, visit: Visit) -> tuple[Any, ...]:
    """What a loaded page shows: the choices and the Picture of the last stream, if there was one."""
    run = visit.runs.get("stream")
    if run is None:
        return (gr.skip(),) * len(Given._fields + Picture._fields)
    given = cast(Given, run.given)
    if given.file and not Path(given.file).is_file():
        given = given._replace(file=None)  # gradio forgets uploads after a day
    return *given, *(waiting() if run.pressed else picture(desk, run, run.busy))


def stop(desk: AppSession, request: gr.Request) -> Picture:
    """Ends the stream after the reply that is being written; what was done is kept."""
    run = desk.visit(request).runs.get("stream") or Run()
    run.end()
    with run.lock:
        feed_of(run).stopped = True
    return picture(
        desk, run, False, "" if feed_of(run).results else "Stopped before the first reply."
    )
