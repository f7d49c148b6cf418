"""The online stream in words and pictures: how each system stands, and what became of each problem.
Pure; no gradio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from markupsafe import Markup

from ...evaluation.metrics import curve, grouped
from ...evaluation.results import Learned, Progress, Result, Standing, Tally, Taught
from ...records import Status, Step
from .distillation import caption, line
from .html import (
    Fragment,
    answer_text,
    count,
    duration,
    fragments,
    join,
    notice,
    number,
    percent,
    progress,
    table,
)

NAMES = {
    ("zero_shot", "one"): "Alone, one attempt",
    ("zero_shot", "vote"): "Alone, vote of eight",
    ("icl_raw", "one"): "Past problem in the context",
    ("elm", "one"): "Latent memories",
}
LOOKS = {
    ("zero_shot", "one"): ("#8a8f98", "dot", "circle-open"),
    ("zero_shot", "vote"): ("#009E73", "dash", "square"),
    ("icl_raw", "one"): ("#D55E00", "dashdot", "diamond"),
    ("elm", "one"): ("theme:blue", "solid", "circle"),
}
OTHER = ("#CC79A7", "longdash", "cross")
RECENT = 12  # problems shown one by one
MOST_BANDS = 24  # runs of a family whose names have room in the picture
BANDS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
Key = tuple[str, str]


@dataclass
class Feed:
    """What a visitor sees of a stream, folded from its records; a Run's scene."""

    total: int = 0  # problems that will come
    status: Status | None = None
    progress: Progress | None = None
    results: list[Result] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # problem id -> its text
    families: list[str] = field(default_factory=list)  # of the problems in their order
    notes: tuple[str, ...] = ()  # what was left out of the data set
    folder: str = ""  # where the stream is kept, once that is known
    stopped: bool = False

    def add(self, record: Any) -> bool:
        """Takes a record; True if the page should be drawn at once."""
        if isinstance(record, Status):
            self.status = record
        elif isinstance(record, Step):
            told = "" if record.agreement is None else f", {percent(record.agreement)} agree"
            words = f"Learning: {record.title}{told}"
            self.status = Status(words, record.step, record.steps + 1)
        elif isinstance(record, Result):
            self.results.append(record)
        elif isinstance(record, Learned):
            self.learned.append(record)
        elif isinstance(record, Progress):
            self.progress = record
        return isinstance(record, (Result, Learned))

    def standings(self) -> tuple[Standing, ...]:
        return standings_of(self.results)

    @property
    def met(self) -> int:
        """Problems that every system has answered."""
        counts = [s.n for s in self.standings()]
        return min(counts) if counts else 0

    @property
    def whole(self) -> bool:
        """Whether every reply has come."""
        return (
            self.progress is not None
            and self.progress.total > 0
            and self.progress.done >= self.progress.total
        )


def name_of(system: str, form: str) -> str:
    """A system in words."""
    return NAMES.get((system, form), f"{system}, {form}")


def accuracy_figure(
    results: Sequence[Result], total: int, families: Sequence[str] = ()
) -> dict[str, Any]:
    """Accuracy so far by system; lines differ by dash and mark as well as by colour. Bands behind
    them are the families of the problems."""
    data: list[dict[str, Any]] = []
    for (_, _, system, form), mine in grouped(results).items():
        colour, dash, symbol = LOOKS.get((system, form), OTHER)
        looks = {"line": {"dash": dash}, "marker": {"symbol": symbol}}
        hover = "%{y:.0%} of %{x}<extra>%{fullData.name}</extra>"
        x, y = map(list, zip(*curve(mine), strict=True))
        data.append(line(name_of(system, form), x, y, colour, hovertemplate=hover, **looks))
    words = "; ".join(
        f"{name_of(s.system, s.form)}: {percent(s.accuracy)} of {s.n}"
        for s in standings_of(results)
    )
    layout = {
        "height": 360,
        "margin": {"l": 52, "r": 16, "t": 26, "b": 44},
        "showlegend": True,
        "annotations": [caption("Right so far"), *_names(families)],
        "shapes": _bands(families),
        "legend": {"orientation": "h", "y": -0.24},
        "xaxis": {
            "title": {"text": "problems answered", "font": {"size": 13}},
            "range": [0.5, max(total, 2) + 0.5],
            "fixedrange": True,
            "dtick": max(1, -(-total // 12)),
        },
        "yaxis": {"range": [-0.03, 1.05], "tickformat": ".0%", "fixedrange": True},
    }
    return {"data": data, "words": f"Accuracy so far. {words}", "layout": layout}


def _runs(families: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(family, first, last) of problems in a row that are of one family, from 1 on."""
    first = 1
    for name, those in groupby(families):
        last = first + len(list(those)) - 1
        yield name, first, last
        first = last + 1


def _bands(families: Sequence[str]) -> list[dict[str, Any]]:
    """A band for each run of one family, in that family's colour, if there are several."""
    known = sorted(set(families))
    if len(known) < 2:
        return []
    return [
        {
            "type": "rect",
            "layer": "below",
            "xref": "x",
            "yref": "paper",
            "x0": first - 0.5,
            "x1": last + 0.5,
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": BANDS[known.index(name) % len(BANDS)],
            "opacity": 0.13,
        }
        for name, first, last in _runs(families)
    ]


def _names(families: Sequence[str]) -> list[dict[str, Any]]:
    """The name of a family in its band, turned where there are many."""
    runs = list(_runs(families))
    if not 1 < len(runs) <= MOST_BANDS:
        return []
    look = {"yref": "paper", "y": 0.02, "yanchor": "bottom", "showarrow": False}
    turned = {"textangle": -90} if len(runs) > 4 else {}
    return [
        {"text": name, "x": (first + last) / 2, "xref": "x", "font": {"size": 12}, **look, **turned}
        for name, first, last in runs
    ]


def standings_of(results: Sequence[Result]) -> tuple[Standing, ...]:
    tally = Tally()
    tally.add(results)
    return tally.progress().standings


def standings_table(feed: Feed) -> Markup:
    """How each system stands, in figures: what the picture shows and a little more."""
    heads = "System,Accuracy,Right,Coverage,Right side chosen,Tokens a problem,Time a problem"
    rows = [
        (
            name_of(s.system, s.form),
            percent(s.accuracy),
            f"{s.right} of {s.n}",
            percent(s.coverage) if s.used else "–",
            "–" if s.routing_accuracy is None else f"{s.routed} of {s.judged}",
            number(s.tokens / max(s.n, 1)),
            duration(s.seconds / max(s.n, 1)),
        )
        for s in feed.standings()
    ]
    if not rows:
        return Markup("")
    return table("Accuracy by system", heads.split(","), rows) + Markup(
        '<p class="hint">Coverage: how often an experience was near enough to be tried. Right side '
        "chosen: where the model alone and the memory disagreed, how often the router took the "
        "side that was right.</p>"
    )


def ending(feed: Feed) -> str:
    """What to say when nothing runs."""
    if feed.whole:
        return f"Done: {count(feed.met, 'problem')} answered."
    if feed.results:
        return (
            f"Stopped after {count(feed.met, 'problem')} of {feed.total}. Press Go on to "
            "continue where it was."
        )
    return "Stopped before the first reply." if feed.stopped else ""


def doing(feed: Feed) -> Markup:
    """What happens now, and how far the stream is."""
    now, far = progress(feed.status or Status("Starting…")), feed.progress
    if far is None or not far.total:
        return now
    replies = Status(f"{far.done} of {far.total} replies", far.done, far.total)
    return now + progress(replies, busy=False)


def notes(feed: Feed) -> Markup:
    return join(map(notice, feed.notes))


def recent(feed: Feed) -> list[Fragment]:
    """The last problems, newest first: what each system answered, and what was learnt."""
    by: dict[int, list[Result]] = {}
    for r in feed.results:
        by.setdefault(r.index, []).append(r)
    taught = {
        t.problem_id: t for lesson in feed.learned if lesson.system == "elm" for t in lesson.taught
    }
    newest = sorted(by, reverse=True)[:RECENT]
    return fragments(*((f"problem-{i}", _problem(i, by[i], feed.texts, taught)) for i in newest))


def _problem(
    index: int, those: Sequence[Result], texts: Mapping[str, str], taught: Mapping[str, Taught]
) -> Markup:
    first, learnt = those[0], Markup("")
    reply = Markup('<li class="{0}"><b>{1} {0}</b> {2}: {3}{4}</li>')
    replies = join(
        reply.format(
            *(("right", "✓") if r.correct else ("wrong", "✗")),
            name_of(r.system, r.form),
            answer_text(r.answer),
            _with(r),
        )
        for r in those
    )
    if lesson := taught.get(first.problem_id):
        what = "Learnt a memory" if lesson.memory else "Nothing learnt"
        wrong = " Its label was wrong." if lesson.memory and lesson.label_right is False else ""
        learnt = Markup('<p class="hint">{}: {}{}</p>').format(what, lesson.reason, wrong)
    text = texts.get(first.problem_id, first.problem_id)
    return Markup(
        '<article class="used arrival"><header><span>Problem {}</span><span>correct answer '
        '{}</span></header><p class="tx" tabindex="0">{}</p><ul>{}</ul>{}</article>'
    ).format(index + 1, answer_text(first.truth), text, replies, learnt)


def _with(r: Result) -> Markup:
    """Which experience a reply used."""
    if not r.used:
        return Markup("")
    near = f", similarity {r.similarity:.2f}" if r.similarity is not None else ""
    taken = {
        "memory": "; the memory's answer was taken",
        "zero_shot": "; the model's own answer was taken",
    }.get(r.chosen or "", "")
    route = "; both sides agree" if r.agreed else taken
    return Markup(' <span class="hint">with “{}”{}{}</span>').format(r.memory_name, near, route)


def empty() -> Markup:
    """The panel before the first stream."""
    return Markup(
        '<section class="outcome"><h3>Nothing has been streamed yet</h3>'
        "<p>Choose examples or upload a set, choose systems, and press Start. Problems then come "
        "one at a time: each is answered with what was learnt from earlier ones only, scored, and "
        "then learnt from. No system ever sees the correct answers.</p>"
        '<p class="hint">A set is a text file with one JSON object a line: '
        "<code>{}</code>. Learning takes minutes a problem on two cores. Stop whenever you like: "
        "finished replies are kept.</p></section>"
    ).format('{"problem": "What is 2 + 3?", "answer": "5"}')
