"""Records on a terminal: the live picture of a run, and tables of its results. No engine, no typer.

Progress goes to standard error and results to standard output, so that a pipe gets results only.
All foreign text becomes `Text`, never rich markup, and loses its control characters: a model may
write "[red]" or an escape sequence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..engine.build import Outcome, Turn
from ..engine.run_state import Row, Scene
from ..records import Delta, Distilled, MemoryInfo, Receipt, Side, Status, Step, Vote, to_dict

SIDES: dict[Side, str] = {"zero_shot": "alone", "memory": "memory"}
CHOSEN: dict[Side | None, str] = {
    "zero_shot": "the model alone",
    "memory": "with the memory",
    None: "no side",
}
TITLE: dict[str, Any] = {"title_justify": "left", "title_style": "bold"}
# columns: of a pipe, which has no width; and those that a table with everything needs
PIPE_WIDTH, WIDE = 240, 130
PAUSE = 10  # seconds between two lines of progress in a file or a pipe
TAIL = 400  # characters of a rollout that are looked at for its last line


def plain(text: object, limit: int = 0) -> Text:
    """Text without control characters or markup, at most `limit` characters (0: any)."""
    clean = "".join(c if c.isprintable() else " " for c in str(text).replace("\r", ""))
    return Text(clean if not limit or len(clean) <= limit else clean[: limit - 1] + "…")


def label_of(answer: str | None) -> str:
    return "none" if answer is None else answer


def out() -> Console:
    """Standard output, made when needed: a test or a pipe may have replaced the stream."""
    return Console(
        file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH
    )


def err() -> Console:
    return Console(file=sys.stderr, highlight=False)


def say(sentence: str) -> None:
    """Print a sentence on standard output; a pipe gets it in one line."""
    out().print(plain(sentence), soft_wrap=not sys.stdout.isatty())


def line(record: Any) -> str:
    """A record as one line of JSON: its members and `record`, the name of its kind. A dict stays as
    it is.

    A Distilled has `memory_id` in place of its memory, whose arrays are in the bank.
    """
    members = record
    if not isinstance(record, dict):
        whole = replace(record, memory=None) if isinstance(record, Distilled) else record
        members = {"record": type(record).__name__, **to_dict(whole)}
    if isinstance(record, Distilled):
        del members["memory"]
        members["memory_id"] = record.memory.id if record.memory else None
    return json.dumps(members, ensure_ascii=False, allow_nan=False)


def print_lines(records: Iterable[Any]) -> None:
    for record in records:
        print(line(record), flush=True)


@dataclass
class Shown:
    """What a run came to: the picture at its end, and every distillation that ended."""

    scene: Scene = field(default_factory=Scene)
    distilled: list[Distilled] = field(default_factory=list)

    def add(self, record: Any) -> None:
        self.scene.add(record)
        if isinstance(record, Distilled):
            self.distilled.append(record)


def run(records: Iterator[Any], as_json: bool) -> Shown:
    """Show a run and return what it came to. Closes the generator, whatever happens."""
    with closing(records):
        return _lines(records) if as_json else _show(records)


def _lines(records: Iterator[Any]) -> Shown:
    """For machines: records, but no deltas, on standard output; statuses on standard error."""
    shown = Shown()
    for record in follow(records):
        shown.add(record)
        if not isinstance(record, Delta):
            print(line(record), flush=True)
    return shown


def _show(records: Iterable[Any]) -> Shown:
    """For people: on a terminal a picture redrawn eight times a second, elsewhere lines."""
    shown, console = Shown(), err()
    picture = Picture(shown.scene)
    if console.is_terminal:
        with Live(picture, console=console, refresh_per_second=8, transient=True):
            for record in records:
                shown.add(record)
        return shown
    with progress() as show:
        for record in records:
            shown.add(record)
            if text := picture.headline():
                status = shown.scene.status
                show(text, often=bool(shown.scene.steps or (status and status.total > 0)))
    return shown


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """A function that prints news on standard error. If the reader is a file or a pipe, news that
    comes `often` is printed at most every PAUSE seconds, and once more at the end."""
    printed, waiting, due = "", "", 0.0

    def show(text: str, often: bool = False) -> None:
        nonlocal printed, waiting, due
        if text == printed:
            return
        if often and time.monotonic() < due and not sys.stderr.isatty():
            waiting = text
            return
        print(plain(text), file=sys.stderr, flush=True)
        printed, waiting = text, ""
        due = time.monotonic() + PAUSE if often else due

    try:
        yield show
    finally:
        if waiting:
            print(plain(waiting), file=sys.stderr, flush=True)


def follow(records: Iterator[Any], told: Callable[[Any], str] = lambda _: "") -> Iterator[Any]:
    """All records but statuses, which are news on standard error, as is what `told` says of
    others."""
    with closing(records), progress() as show:
        for record in records:
            if isinstance(record, Status):
                part = f" ({record.done:.0f} of {record.total:.0f})" if record.total else ""
                show(record.text + part, often=record.total > 0)
                continue
            if text := told(record):
                show(text, often=True)
            yield record


def building(outcomes: Sequence[Outcome], total: int, record: Any) -> str:
    """Where a build stands, in one line, '' for a record that is not worth one."""
    learnt = sum(bool(one.memory) and not one.known for one in outcomes)
    at = f"Problem {len(outcomes) + 1} of {total}, {learnt} learnt"
    if isinstance(record, Turn):
        return f"{at}: {plain(record.problem.text, 60)}"
    if isinstance(record, Step):
        return f"{at}: {record.title}{agreed(record)}"
    return ""


def share(step: Step) -> str:
    """The agreement of a step, "–" where it sampled nothing."""
    return "–" if step.agreement is None else f"{step.agreement:.0%}"


def agreed(step: Step) -> str:
    """The agreement of a step behind its title, '' where it sampled nothing."""
    return "" if step.agreement is None else f", agreement {share(step)}"


def outcome_line(one: Outcome) -> str:
    """What has become of one problem of a build."""
    if one.memory:
        return f"{one.problem.id}: memory {one.memory}{', there already' if one.known else ''}."
    return f"{one.problem.id}: {one.unfit or one.nothing}"


class Picture:
    """The live view: what is happening, the rollouts, the votes, the steps."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.began = time.monotonic()

    def headline(self) -> str:
        """One sentence: the step that ended last with the time left, or the latest status."""
        if self.scene.steps:
            return step_line(self.scene.steps)
        return self.scene.status.text if self.scene.status else ""

    def __rich__(self) -> Group:
        scene = self.scene
        parts: list[Any] = [self._status()]
        if scene.rows:
            parts.append(rollouts_table(row for side in SIDES for row in scene.side(side)))
        parts += [vote_table(vote) for vote in scene.votes.values()]
        if scene.steps:
            parts.append(steps_table(scene.steps[-12:]))
            parts.append(plain(time_left(scene.steps)))
        return Group(*parts)

    def _status(self) -> Text:
        status, seconds = self.scene.status, time.monotonic() - self.began
        share = f" {100 * status.done / status.total:.0f} %" if status and status.total > 0 else ""
        return plain(
            f"{status.text if status else 'Working'}{share}   {seconds:.0f} s   (ctrl-C stops)"
        )


def rollouts_table(rows: Iterable[Row]) -> Table:
    """One line for each rollout: state, answer, and the end of its text."""
    table = _table("trace", "side", "tokens", "answer", "text")
    for row in rows:
        t, state = row.trace, plain("…")
        if t is not None:
            state = plain(t.answer, 24) if t.votes else Text("no vote", style="dim")
        tail = row.text[-TAIL:].strip().rsplit("\n", 1)[-1]
        tokens = str(t.tokens) if t else ""
        table.add_row(str(row.row + 1), SIDES[row.side], tokens, state, plain(tail[-60:]))
    return table


def vote_table(vote: Vote) -> Table:
    """The clusters of a vote, best first, with a bar each."""
    title = f"Vote ({SIDES[vote.side]}): {vote.voters} of {vote.total} voted"
    table = _table("votes", "answer", "share", title=title)
    for c in vote.clusters:
        share = c.size / vote.total
        table.add_row(str(c.size), plain(c.answer, 60), f"{'█' * round(20 * share)} {share:.0%}")
    return table


def steps_table(steps: Iterable[Step]) -> Table:
    """One line for each gradient step; a column for the problem if there are several."""
    steps = list(steps)
    several = len({s.problem_id for s in steps}) > 1
    figures = "step label agree reward loss gradient shift tokens seconds note".split()
    table = _table(*["problem"] * several, *figures)
    for s in steps:
        place = "check" if s.final else f"{s.step}/{s.steps}"
        mean = sum(s.rewards) / len(s.rewards) if s.rewards else 0.0
        table.add_row(
            *[plain(s.problem_id, 16)] * several,
            *(place, plain(label_of(s.label), 20), share(s), f"{mean:.2f}" if s.rewards else "–"),
            *(f"{s.loss:.4f}", f"{s.grad_norm:.3g}", f"{s.shift:.3f}", str(s.tokens)),
            *(f"{s.seconds:.0f}", plain(s.note, 40)),
        )
    return table


def step_line(steps: list[Step]) -> str:
    """The last step in one sentence."""
    s = steps[-1]
    who = f" of {s.problem_id}" if len({t.problem_id for t in steps}) > 1 else ""
    told = [] if s.agreement is None else [f"agreement {share(s)}"]
    told += [] if s.final else [f"loss {s.loss:.4f}"]
    return f"{s.title.capitalize()}{who}: {', '.join(told)}. {time_left(steps)}"


def time_left(steps: list[Step]) -> str:
    """The time left at the pace so far. Problems that are distilled together take a step together;
    its time is the longest of theirs."""
    s = steps[-1]
    longest: dict[int, float] = {}
    for t in steps:
        longest[t.step] = max(t.seconds, longest.get(t.step, 0.0))
    if s.step >= s.steps:
        return "All is done." if s.final else "The final check is left."
    return f"At most {sum(longest.values()) / len(longest) * (s.steps - s.step):.0f} s left."


def receipt_table(r: Receipt) -> Table:
    """A receipt for reading. The JSON has all of it."""
    rows: list[tuple[str, object]] = [("answer", label_of(r.answer))]
    if (used := r.used) is not None:
        lead = f", {used.margin:.2f} ahead of the next" if used.margin is not None else ""
        rows.append(("memory tried", f"{used.memory_id} “{used.name}”"))
        rows.append(("similarity", f"{used.similarity:.3f} ({r.key_kind}), rank {used.rank}{lead}"))
    rows += [("passed over", f"{h.memory_id}, {h.passed_over}") for h in r.hits if h.passed_over]
    rows.append(("chosen", "both agree" if r.route.agreed else CHOSEN[r.route.side]))
    for v in filter(None, (r.zero_shot, r.memory)):
        votes = ", ".join(f"{c.answer}: {c.size}" for c in v.clusters)
        found = f"{votes} of {v.total}" if votes else f"none of {v.total} voted"
        rows.append((f"vote {SIDES[v.side]}", found))
    for side, score in r.route.scores.items():
        rows.append((f"{r.route.verifier} {SIDES.get(side, side)}", f"{score:.3g}"))
    rows.append(("model", f"{r.model_name} ({r.model[:16]})"))
    rows.append(("seed", r.seed))
    rows.append(("spent", f"{r.tokens} tokens, {r.seconds:.1f} s"))
    return facts_table([*rows, ("receipt", r.id)])


def memories_table(rows: Iterable[MemoryInfo], wide: bool) -> Table:
    """One line for each memory: for 80 columns, or `wide` with where and when it was made."""
    more = ["source", "model", "made"] * wide
    table = _table("id", "problem", "answer", "vote", "used", "helped", "hurt", *more, "")
    for m in rows:
        c, name, answer = m.counters, m.name, label_of(m.label)
        made = plain(m.problem.source or "typed", 20), plain(m.model_name, 24), m.created[:10]
        table.add_row(
            *(m.id, plain(name, 48 if wide else 24), plain(answer, 20 if wide else 8)),
            *(f"{m.majority_ratio:.0%}", str(c.used), str(c.helped), str(c.hurt)),
            *(made if wide else ()),
            "quarantined" if m.quarantined else "",
        )
    return table


def facts_table(rows: Iterable[tuple[str, object]], title: str = "") -> Table:
    """Names and values, one under the other."""
    table = Table(box=None, show_header=False, pad_edge=False, title=title or None, **TITLE)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(plain(name), plain(value))
    return table


def _table(*columns: str, title: str = "") -> Table:
    table = Table(box=None, pad_edge=False, title=title or None, header_style="dim", **TITLE)
    for name in columns:
        whole = name in ("id", "text", "problem", "made", "answer")
        table.add_column(name, no_wrap=whole, overflow="fold" if name == "id" else "ellipsis")
    return table
