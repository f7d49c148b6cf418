"""Runs as HTML: status, cards of rollouts and vote bars. Pure functions from records to strings.

A *fragment* is a `[key, html]` pair; `live.js` draws a list of them and touches only those that
changed. Every piece of foreign text goes through `Markup.format`, which escapes it, and every piece
of HTML through `fragments`; `live.js` then sets the mathematics in elements of class `tx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from ...engine.run_state import Row, Scene
from ...records import Cluster, Side, Status, Trace, Vote

Fragment = list[str]
# of Okabe and Ito in style.css; an eighth answer has the first colour again, but never its letter
COLOURS = 7
MOST_NAMED = 8  # answers in the list under a vote bar
OPEN_TWO = "Open an attempt to read it, or two to see what differs."
SIDES: dict[Side, str] = {"zero_shot": "Without memory", "memory": "With memory"}


def whole(text: str) -> str:
    """Lone surrogates, which no JSON encoder takes, become question marks."""
    return text.encode("utf-8", "replace").decode()


def join(parts: Iterable[object], glue: str = "") -> Markup:
    return Markup(glue).join(parts)  # type: ignore[arg-type]  # it escapes whatever is no Markup


def fragments(*pairs: tuple[str, Markup | str]) -> list[Fragment]:
    """`[key, html]` pairs as plain strings; empty ones are left out."""
    return [[key, whole(html)] for key, html in pairs if html]


def short(text: str, width: int = 90) -> str:
    """Text on one line, cut where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def notice(text: str, kind: str = "info") -> Markup:
    """One sentence to the visitor. kind: info, good, warn (announced at once by screen readers)."""
    if not text:
        return Markup("")
    role = "alert" if kind == "warn" else "status"
    return Markup('<p class="notice {}" role="{}">{}</p>').format(kind, role, text)


def answer_text(answer: str | None, nothing: str = "no answer") -> Markup:
    """An answer as mathematics, cut when it is absurdly long."""
    if answer is None:
        return Markup('<span class="none">{}</span>').format(nothing)
    shown = answer if len(answer) <= 160 else answer[:159] + "…"
    return Markup('<span class="tx">{}</span>').format(formula(shown))


def table(
    label: str, heads: Sequence[str], rows: Iterable[Sequence[object]], css: str = ""
) -> Markup:
    """A table in a frame of its own that scrolls; a row is its cells, or its whole markup. The
    first cell heads its row."""

    def line(row: Sequence[object]) -> Markup:
        first, *others = row
        cells = join(Markup("<td>{}</td>").format(c) for c in others)
        return Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, cells)

    body = [row if isinstance(row, Markup) else line(row) for row in rows]
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table class="{}">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(label, css, join(Markup("<th>{}</th>").format(h) for h in heads), join(body))


def number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}".replace(",", " ")


def percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """1.4 s, 38 s, 2 min 5 s, 1 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def roughly(seconds: float) -> str:
    """about 20 s, about 3 min, about 1.5 h: as exact as an estimate is."""
    if seconds < 55:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    if seconds < 3300:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {round(seconds / 1800) / 2:g} h"


def expected(seconds: float | None, ahead: int = 0) -> list[Fragment]:
    """How long a press will take, beside its button; `ahead`: runs of others in the queue."""
    words = [] if seconds is None else [roughly(seconds)]
    if ahead:
        words.append(f"after {count(ahead, 'other run')}")
    html = Markup('<p class="hint time">{}</p>').format(", ".join(words))
    return fragments(("time", html)) if words else []


def count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def swatch(colour: int | None) -> Markup:
    """The coloured letter of an answer; a dash for rollouts that do not vote."""
    if colour is None:
        return Markup('<span class="swatch cx" aria-hidden="true">–</span>')
    return Markup('<span class="swatch {}" aria-hidden="true">{}</span>').format(
        paint(colour), letter(colour)
    )


def paint(colour: int | None) -> str:
    """The CSS class of an answer's colour."""
    return "cx" if colour is None else f"c{colour % COLOURS}"


def letter(colour: int) -> str:
    """A to Z, then A2 to Z2: what tells answers of one colour apart."""
    turn, index = divmod(colour, 26)
    return chr(ord("A") + index) + (str(turn + 1) if turn else "")


def progress(status: Status | None, busy: bool = True) -> Markup:
    """What happens now, in words, with a bar where the end is known."""
    if status is None:
        return Markup("")
    bar = Markup("")
    if status.total > 0:
        share = min(1.0, max(0.0, status.done / status.total))
        bar = Markup('<progress max="1" value="{:.4f}" aria-label="{}"></progress>').format(
            share, status.text
        )
    css, dot = (" busy", Markup('<span class="dot"></span>')) if busy else ("", "")
    line = Markup('<p class="status{}" role="status">{}{}</p>').format(css, dot, status.text)
    return line + bar


def doing(scene: Scene) -> Status:
    """What happens now: the last status, or that rollouts are being sampled."""
    if not scene.sampling:
        return scene.status or Status("Starting…")
    sides = [side for side in SIDES if any(r.trace is None for r in scene.side(side))]
    rows = [r for side in sides or SIDES for r in scene.side(side)]
    done = sum(r.trace is not None for r in rows)
    which = f" of step {len(scene.steps) + 1}" if sides == ["memory"] and scene.distilling else ""
    return Status(
        f"The model writes {count(len(rows), 'attempt')}{which} at once: {done} finished",
        done,
        len(rows),
    )


def state_of(row: Row, stopped: bool = False) -> tuple[str, str]:
    """A rollout's state: (css class, words)."""
    t = row.trace
    if t is None:
        return ("mute", "stopped") if stopped else ("writing", "writing…")
    if not t.finished:
        return "mute", "cut off"
    if t.answer is None:
        return "mute", "no answer"
    return "votes", "votes"


def trace_card(row: Row, colour: int | None, stopped: bool = False) -> Markup:
    """One rollout: what it says, and what it votes for."""
    css, words = state_of(row, stopped)
    t = row.trace
    vote, foot = Markup('<span class="vote-for {}">{}</span>').format(css, words), Markup("")
    if t is not None:
        foot = Markup('<footer title="{}">{}</footer>').format(_certainty(t), _facts(t))
        if t.votes:
            vote = Markup('<span class="vote-for">votes {}</span>').format(answer_text(t.answer))
    return Markup(
        '<article class="card {0} {1}" aria-label="Attempt {2}, {3}"><header><b>{2}</b>{4}{5}'
        '</header><div class="body tx" tabindex="0" role="group" aria-label="Text of attempt {2}">'
        "{6}</div>{7}</article>"
    ).format(css, paint(colour), row.row + 1, words, swatch(colour), vote, row.text, foot)


def trace_line(row: Row, colour: int | None, stopped: bool = True) -> Markup:
    """A rollout that has ended, in a line: what it votes for, its length, how it ended. A click
    opens its text; of two that are open, `live.js` marks what differs."""
    css, words = state_of(row, stopped)
    t, facts, title, answer = row.trace, words, "", Markup("–")
    if t is not None:
        facts = f"{_facts(t)} · {'finished' if t.votes else words}"
        title, answer = _certainty(t), answer_text(t.answer) if t.votes else answer
    return Markup(
        '<details class="attempt {}"><summary title="{}"><b>{}</b>{}<span class="vote-for {}">{}'
        '</span><span class="hint">{}</span></summary><div class="body tx">{}</div></details>'
    ).format(paint(colour), title, row.row + 1, swatch(colour), css, answer, facts, row.text)


def _facts(t: Trace) -> str:
    return count(t.tokens, "token") + (f" · {duration(t.seconds)}" if t.seconds > 0 else "")


def _certainty(t: Trace) -> str:
    return f"self-certainty {t.self_certainty:.2f} nats" if t.self_certainty is not None else ""


def vote_bar(
    vote: Vote | None,
    colours: Sequence[int | None],
    *,
    title: str,
    total: int,
    finished: int,
    decided_after: int | None = None,
    running: bool = False,
) -> Markup:
    """Who leads. One segment per answer, then rollouts that do not vote, then those still open.

    `colours[i]` is the palette index of `vote.clusters[i]`.
    """
    clusters = vote.clusters if vote is not None else ()
    total = max(total, 1)
    mute = finished - (vote.voters if vote is not None else 0)
    segments = join(_segment(c, colours[i], total) for i, c in enumerate(clusters))
    if mute > 0:
        silent = '<span class="seg cx" style="flex:{0} 0 0" title="do not vote"><b>{0}</b></span>'
        segments += Markup(silent).format(mute)
    if total > finished:
        unended = Markup('<span class="seg open" style="flex:{} 0 0"></span>')
        segments += unended.format(total - finished)
    words = vote_words(vote, total, finished, running)
    read = vote_words(vote, total, finished, running, formula)
    flag = mark = Markup("")
    # no open rollout could change the majority any more
    if decided_after is not None and decided_after < total:
        flag = Markup('<span class="decided">decided after {} of {} attempts</span>').format(
            decided_after, total
        )
        # above the bar, which fills from the left: on it, it would hide a figure
        mark = Markup('<span class="mark" style="left:{:.2f}%" aria-hidden="true"></span>').format(
            100 * decided_after / total
        )
    item = Markup("<li>{}{} <b>× {}</b></li>")
    legend = join(
        item.format(swatch(colours[i]), answer_text(c.answer), c.size)
        for i, c in enumerate(clusters[:MOST_NAMED])
    )
    if len(clusters) > MOST_NAMED:
        legend += Markup("<li>and {} more</li>").format(len(clusters) - MOST_NAMED)
    return Markup(
        '<section class="vote"><header><h3>{}</h3>{}</header><div class="track">{}<div '
        'class="bar" role="img" aria-label="{}">{}</div></div><ul class="legend">{}</ul><p '
        'class="words tx">{}</p></section>'
    ).format(title, flag, mark, f"{title}: {words}", segments, legend, read)


def _segment(c: Cluster, colour: int | None, total: int) -> Markup:
    mark = letter(colour) if colour is not None else ""
    return Markup('<span class="seg {}" style="flex:{} 0 0" title="{}">{}</span>').format(
        paint(colour), c.size, f"{c.answer}: {c.size} of {total}", mark
    )


def formula(answer: str | None) -> str:
    """An answer inside a sentence that `live.js` typesets: LaTeX gets its delimiters."""
    tex = answer and any(c in answer for c in "\\^_") and "\\)" not in answer
    return f"\\({answer}\\)" if tex else str(answer)


def vote_words(
    vote: Vote | None,
    total: int,
    finished: int,
    running: bool,
    say: Callable[[str | None], str] = str,
) -> str:
    """The bar in one sentence. `say` writes an answer."""
    if vote is None or finished == 0:
        so_far = f"{finished} of {count(total, 'attempt')} finished."
        return so_far if running else "No attempt has voted."
    if vote.abstained:
        return f"{finished} of {count(total, 'attempt')} finished and none votes" + (
            "." if running else ": no answer."
        )
    leaders = [
        (c.size, f"{'says' if c.size == 1 else 'say'} {say(c.answer)}") for c in vote.clusters[:2]
    ]
    lead = f"{leaders[0][0]} of {total} {leaders[0][1]}"
    runner = f", {leaders[1][0]} {leaders[1][1]}" if len(leaders) > 1 else ""
    mute = finished - vote.voters
    silent = f"; {mute} {'does' if mute == 1 else 'do'} not vote" if mute else ""
    still = f"; {total - finished} still running" if running and total > finished else ""
    return f"{lead}{runner}{silent}{still}."


def scene_vote(scene: Scene, side: Side, title: str, running: bool) -> Markup:
    vote = scene.votes.get(side)
    colours = (
        [scene.colours.get((side, c.rows[0])) for c in vote.clusters] if vote is not None else []
    )
    total = vote.total if vote is not None else scene.total or sum(1 for _ in scene.side(side))
    return vote_bar(
        vote,
        colours,
        title=title,
        total=total,
        finished=scene.finished(side),
        decided_after=scene.decided_after.get(side),
        running=running,
    )


def scene_votes(scene: Scene, running: bool, titles: Mapping[Side, str] = SIDES) -> list[Fragment]:
    """One vote bar a side that has rollouts."""
    return fragments(
        *(
            (f"vote-{side}", scene_vote(scene, side, title, running))
            for side, title in titles.items()
            if any(scene.side(side)) or side in scene.votes
        )
    )


def scene_cards(scene: Scene, running: bool, titles: Mapping[Side, str] = SIDES) -> list[Fragment]:
    """All rollouts, the sides one after the other, each under its heading when there are two: as
    cards while they are written, then in a line each."""
    sides = [s for s in titles if any(scene.side(s))]
    pairs: list[tuple[str, Markup]] = []
    if sides and not running:
        pairs.append(("traces", Markup('<p class="hint">{}</p>').format(OPEN_TWO)))
    for side in sides:
        if len(sides) > 1:
            pairs.append((f"head-{side}", Markup("<h3>{}</h3>").format(titles[side])))
        draw = trace_card if running else trace_line
        for row in scene.side(side):
            html = draw(row, scene.colour(row), scene.stopped or not running)
            pairs.append((f"{side}-{row.row}", html))
    return fragments(*pairs)


def stored_vote(vote: Vote, title: str, colours: Sequence[int | None] | None = None) -> Markup:
    """The bar of a stored vote, coloured in the order of its clusters unless told otherwise."""
    return vote_bar(
        vote,
        colours if colours is not None else list(range(len(vote.clusters))),
        title=title,
        total=vote.total,
        finished=vote.total,
    )


def stored_traces(vote: Vote, traces: Sequence[Trace]) -> Markup:
    """Stored rollouts, a line each."""
    colour = {r: i for i, c in enumerate(vote.clusters) for r in c.rows}
    rows = [Row(t.row, t.side, t.text, t) for t in sorted(traces, key=lambda t: t.row)]
    return Markup('<p class="hint">{}</p>').format(OPEN_TWO) + join(
        trace_line(row, colour.get(row.row)) for row in rows
    )
