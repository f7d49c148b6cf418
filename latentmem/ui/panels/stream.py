"""The Stream panel: problems one at a time, and the accuracy of each system as it grows. Stop, go
on, download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from ...evaluation import datasets, protocols
from ...evaluation.datasets import DataSet
from ...evaluation.journal import Journal, Remedies, read_results, taken
from ...evaluation.protocols import SystemSpec
from ...records import LatentmemError, Status, digest
from ...settings import Settings
from .. import components
from ..components import QUIET
from ..runs import Run
from ..session import AppSession, Visit, attempt, exclusively, family, ready_engine
from ..views.html import fragments, notice
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
from .panel import HIDDEN, SKIP, Panel, sent, told

if TYPE_CHECKING:
    from ...engine import Engine

# ---------- What the panel and its endpoint stream, by which systems, and where it is kept.

SYSTEMS = (
    ("The model alone, one attempt", "zero_shot"),
    ("The model alone, a vote of eight", "vote"),
    ("A past problem in the context", "icl_raw"),
    ("Latent memories", "elm"),
)
AT_FIRST = ("zero_shot", "vote", "elm")  # chosen at first: the vote is the one to beat
ALL = "All families, mixed"  # as the endpoint has always called it
FIRST, MOST, MOST_HOSTED = 8, 200, 6  # problems: at first, at most, and at most in a shared app
FILE_BYTES = 5_000_000
FILE_TYPES = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz"]
AGAIN = "press Begin again, or ask with fresh=true, which forgets that run"
# the journal's errors as the page or a client is told them: neither has the command line's options
REMEDIES = Remedies(
    "The folder of this stream",
    AGAIN,
    AGAIN,
    "wait for it, or choose another seed",
    "make room there or let this program write there, then start again to go on",
)


class StreamChoice(NamedTuple):
    """What a press of Start asks: the values of the controls in their order, and how."""

    topic: str  # a family of the examples, or ALL
    file: str | None  # goes before the topic
    systems: Sequence[str] | None
    size: float  # problems
    seed: float
    fresh: bool = False  # what there was of this stream is forgotten


def stream_records(session: AppSession, run: Run) -> Iterator[Any]:
    """What a run that was asked for streams, once no other uses the model."""
    return exclusively(session, records(session, run.scene, run.asked))


def most_problems(hosted: bool) -> int:
    """So many may be asked for."""
    return MOST_HOSTED if hosted else MOST


def first_of(session: AppSession, data: DataSet, size: float) -> DataSet:
    """So many of the problems. Raises LatentmemError for a wrong number."""
    most = most_problems(session.hosted)
    if not isinstance(size, (int, float)) or not 1 <= size <= most:
        raise LatentmemError(f"{size} problems cannot be streamed: choose 1 to {most}.")
    return replace(data, problems=data.problems[: int(size)])


def all_of(session: AppSession, topic: str, file: str | None, seed: float) -> DataSet:
    """All the problems that there are to stream, in the order of the seed. Raises LatentmemError
    for a file that holds none."""
    if not isinstance(seed, (int, float)) or not 0 <= seed < inf:
        raise LatentmemError(f"Seed {seed} does not fit: give a whole number from 0 on.")
    if file:
        data = uploaded(Path(file), session.engine.settings.max_problem_chars)
    else:
        those = tuple(
            p for p in session.examples.values() if p.answer and topic in (ALL, family(p))
        )
        if not those:
            raise LatentmemError(
                f"There are no examples of {str(topic)[:40]!r}: choose another topic."
            )
        data = DataSet("examples" if topic == ALL else f"examples/{topic}", "examples", those)
    return replace(
        data, problems=tuple(datasets.shuffled(datasets.unique(data.problems), int(seed)))
    )


def uploaded(file: Path, most_chars: int) -> DataSet:
    """A visitor's file, checked line by line."""
    data = sent(file, FILE_BYTES)
    return datasets.from_bytes(data, file.name, most_chars=most_chars, most_bytes=FILE_BYTES)


def home(session: AppSession, data: DataSet, systems: Sequence[str], seed: int) -> Path:
    """Where a stream is kept: beside the bank, or with the visitor's other files in a shared app.
    The same choices find the same folder, so that a stream continues after a stop, a reload or a
    restart.

    `data` are all the problems that there are to stream: how many of them are asked for decides
    nothing about a reply, so a stream that is made longer keeps what it has.
    """
    s = session.engine.settings
    lasting = not session.hosted and str(s.bank) != ":memory:"
    root = s.bank.parent if lasting else Path(session.folder())
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
    """The systems behind the checkboxes: the model alone is one system in two modes."""
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


def what_is_left(session: AppSession, given: StreamChoice) -> tuple[bool, bool]:
    """(whether there is anything of an earlier run with these choices, whether any replies are
    missing). Of choices that do not fit there is nothing."""
    names = chosen_systems(given.systems)
    try:
        order = all_of(session, given.topic, given.file, given.seed)
        n = len(first_of(session, order, given.size).problems)
    except LatentmemError:
        return False, True
    try:
        there, _, _ = read_results(home(session, order, names, int(given.seed)) / "run")
    except LatentmemError:  # damaged: it can be begun again
        return True, True
    return bool(there), sum(r.index < n for r in there) < n * len(names)


def forget(folder: Path) -> None:
    """Deletes a stream's folder. Raises LatentmemError while another process writes to it."""
    run = folder / "run"
    if not run.is_dir():
        return
    with taken(run, REMEDIES):
        shutil.rmtree(folder, ignore_errors=True)


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


def records(session: AppSession, feed: Feed, asked: StreamChoice) -> Iterator[Any]:
    """Everything from the press of Start to the last reply; begins with what an earlier part of the
    stream has left."""
    topic, file, systems, size, seed, fresh = asked
    names = chosen_systems(systems)
    if not names:
        raise LatentmemError("No system is chosen: tick at least one.")
    order = all_of(session, topic, file, seed)
    data = first_of(session, order, size)
    feed.total, feed.notes = len(data.problems), data.notes
    feed.texts = {p.id: p.text for p in data.problems}
    feed.families = [family(p) for p in data.problems]
    folder = home(session, order, names, int(seed))
    feed.folder = str(folder)
    engine = yield from ready_engine(session, {"seed": int(seed)})
    if fresh:
        forget(folder)
    yield Status("Getting the systems ready")
    specs, config = enter_systems(engine, names, order, folder)
    with Journal(folder / "run", config, REMEDIES) as journal:
        # Fewer than an earlier run met: the others are not looked at. They stay in the file.
        journal.units = {
            unit: lines
            for unit, lines in journal.units.items()
            if _place(unit) < len(data.problems)
        }
        yield from journal.results()
        yield from journal.learned()
        with closing(protocols.run_stream(specs, data, journal)) as stream:
            yield from stream


def saved(session: AppSession, feed: Feed) -> str | None:
    """A copy of the results to download: one line a reply and a lesson."""
    file = Path(feed.folder) / "run" / "results.jsonl"
    if not feed.folder or not file.is_file():
        return None

    def copied(folder: Path) -> str:
        (folder / "stream.jsonl").write_bytes(lines_of(file, feed.total))
        return str(folder / "stream.jsonl")

    return attempt(lambda: session.export("stream", copied))[0]


# ---------- The panel.


class StreamView(NamedTuple):
    """What the page shows of a stream: one update for each component of that name."""

    status: Any = SKIP
    curve: Any = SKIP
    table: Any = SKIP
    recent: Any = SKIP
    press_button: Any = SKIP
    stop_button: Any = SKIP
    again: Any = SKIP
    download: Any = SKIP


class Stream(Panel):
    """Start, stop, go on, begin again."""

    name = "stream"
    View, Asked, Scene = StreamView, StreamChoice, Feed

    # ---------- the layout

    def create(self, settings: Settings, topics: Sequence[str]) -> None:
        """The panel, inside the Blocks and the Tab of the caller."""
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
                self._choices(settings, topics)
                self._buttons()
            with gr.Column(scale=8, min_width=320, elem_classes="result"):
                self.status = components.live("lm-stream-status", fragments(("empty", empty())))
                self.curve = components.figure("lm-stream-curve", "Accuracy so far, by system")
                self.table = components.live("lm-stream-table")
                self.recent = components.live("lm-stream-problems", classes="arrivals")

    def _choices(self, settings: Settings, topics: Sequence[str]) -> None:
        most = most_problems(settings.hosted)
        topic = gr.Dropdown(
            [("All topics, mixed", ALL), *topics],
            value=topics[0] if topics else ALL,
            label="Topic",
            elem_id="lm-stream-set",
        )
        file = gr.File(
            label="or a file of problems and answers (JSONL, CSV, Parquet)",
            file_types=FILE_TYPES,
            type="filepath",
            elem_id="lm-stream-file",
            elem_classes="lm-file",
            height=150,
        )
        systems = gr.CheckboxGroup(
            list(SYSTEMS), value=list(AT_FIRST), label="Systems", elem_id="lm-stream-systems"
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
        controls = (topic, file, systems, size, seed)
        self.controls = dict(zip(StreamChoice._fields, controls, strict=False))

    def _buttons(self) -> None:
        self.buttons("Start", "lm-stream-start", "lm-stream-stop")
        self.again = gr.Button("Begin again", visible=False, elem_id="lm-stream-again", size="sm")
        self.download = gr.DownloadButton(
            "Download the results", visible=False, elem_id="lm-stream-download", size="sm"
        )

    # ---------- what is asked

    def press_anew(self, request: gr.Request, *given: Any) -> StreamView:
        """The same as `press` for "Begin again": what there was of this stream is forgotten."""
        return self.press(request, *given, True)

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[StreamView]:
        """From where the same stream was stopped before."""
        return self.pictures(session, visit, run, stream_records(session, run))

    def offered(self, request: gr.Request, *given: Any) -> tuple[Any, Any]:
        """A choice was touched: what the buttons would do with the choices as they now are. Other
        choices are another stream, which does not go on with the one that is shown."""
        session, visit = self.of(request)
        if visit.busy(self.name):
            return SKIP, SKIP
        there, missing = what_is_left(session, self.asked(*given))
        label = "Go on" if there and missing else "Start"
        return gr.update(value=label), gr.update(visible=there)

    # ---------- what is shown

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> StreamView:
        with run.lock:
            feed = run.scene
            some, whole = bool(feed.results), feed.whole
            ended = notice(message or ending(feed), "good" if whole else "info")
            status = told(run, doing(feed) if running else None, ended or empty())
            stuck = bool(run.error and feed.folder)  # what there is may be what is wrong
            label = "Go on" if some and not whole and not running else "Start"
            saved_ = gr.update(value=saved(session, feed), visible=True)
            return StreamView(
                status=status + fragments(("notes", notes(feed))),
                curve=(
                    accuracy_figure(feed.results, feed.total, feed.families)
                    if some
                    else components.NO_FIGURE
                ),
                table=fragments(("table", standings_table(feed))),
                recent=recent(feed),
                press_button=gr.update(value=label, interactive=not running),
                stop_button=gr.update(interactive=running),
                again=gr.update(visible=(some or stuck) and not running),
                download=saved_ if some and not running else HIDDEN,
            )

    def form(self, asked: StreamChoice) -> dict[str, Any]:
        values = asked._asdict()
        del values["fresh"]  # no control
        if asked.file and not Path(asked.file).is_file():
            values["file"] = None  # gradio forgets uploads after a day
        return values

    # ---------- the wiring

    def wire(self) -> None:
        """Listens to everything on the panel."""
        choices = list(self.controls.values())
        runs = []
        for button, press in ((self.press_button, self.press), (self.again, self.press_anew)):
            runs.append(self.follow_press(button.click(press, choices, self.outputs, **QUIET)))
        self.stop_button.click(self.stop, None, self.outputs, cancels=runs, **QUIET)
        topic, file, systems, size, seed = choices
        for touched in (
            topic.input,
            file.upload,
            file.clear,
            file.delete,
            systems.input,
            size.input,
            seed.input,
        ):
            buttons = [self.press_button, self.again]
            touched(self.offered, choices, buttons, trigger_mode="always_last", **QUIET)
