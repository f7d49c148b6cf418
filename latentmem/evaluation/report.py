"""The report of a folder of runs: the same sections as a page of HTML and as Markdown, and the
evidence file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from . import figures, metrics
from .evidence import budget, cell, evidence, percent, points, rows_of, write
from .journal import Found, Run, collect, write_whole
from .metrics import BASE, Estimate, Row, flips, grouped, paired, share
from .results import Result

# ---------- A report as one HTML file that needs nothing else: tables, figures, plotly's script once, light and dark.

Cell = str | Markup | int | float | None

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #56606e; --paper: #ffffff; --line: #d5d9df; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a7b0bc; --paper: #14171c; --line: #3a414c; --link: #56b4e9; } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; } h1 { margin-top: 0; }
p, h2, figcaption { overflow-wrap: anywhere; } p.soft, figcaption, caption { color: var(--soft); } a { color: var(--link); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; padding-bottom: .4rem; } th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; } th { text-align: right; } td.words, th.words { text-align: left; }
tr.mark td { font-weight: 600; } figure { margin: 1rem 0 2rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""

DRAW = """
(function () {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  function draw() {
    const ink = dark.matches ? '#e8eaed' : '#1b2430', line = dark.matches ? '#3a414c' : '#d5d9df';
    for (const source of document.querySelectorAll('script[data-figure]')) {
      const place = document.getElementById(source.dataset.figure), given = JSON.parse(source.textContent);
      const layout = Object.assign({}, given.layout, {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
        font: {color: ink, family: 'ui-sans-serif, system-ui, sans-serif'}});
      for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name))
        layout[name] = Object.assign({gridcolor: line, zerolinecolor: line, linecolor: line}, layout[name]);
      Plotly.react(place, given.data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
    }
  }
  dark.addEventListener('change', draw);
  draw();
})();
"""


class Page:
    """Collects a report's parts in order."""

    def __init__(self, title: str, lead: str) -> None:
        self.title, self.lead = title, lead
        self.parts: list[Markup] = []
        self.figures = 0

    def section(self, title: str, words: str = "") -> None:
        self.parts.append(Markup("<h2>{}</h2>").format(title))
        self.words(words)

    def words(self, text: str) -> None:
        if text:
            self.parts.append(Markup('<p class="soft">{}</p>').format(text))

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        words: Sequence[int] = (0,),
        caption: str = "",
        marked: Sequence[int] = (),
    ) -> None:
        """A table. `words`: columns that hold text; `marked`: rows that stand out."""

        def cells(tag: str, line: Sequence[Cell]) -> Markup:
            return Markup("").join(
                Markup("<{0}{1}>{2}</{0}>").format(
                    Markup(tag),
                    Markup(' class="words"' if i in words else ""),
                    "–" if c is None else c,
                )
                for i, c in enumerate(line)
            )

        body = Markup("").join(
            Markup("<tr{}>{}</tr>").format(
                Markup(' class="mark"' if i in marked else ""), cells("td", row)
            )
            for i, row in enumerate(rows)
        )
        said = Markup("<caption>{}</caption>").format(caption) if caption else ""
        self.parts.append(
            Markup(
                '<div class="wide" tabindex="0" role="region" '
                'aria-label="{}"><table>{}<thead><tr>{}</tr>'
                "</thead><tbody>{}</tbody></table></div>"
            ).format(caption or "table", said, cells("th", head), body)
        )

    def figure(self, figure: dict[str, Any], caption: str) -> None:
        """A plotly figure. Nothing in its JSON can end the script element that carries it."""
        self.figures += 1
        name = f"figure-{self.figures}"
        data = json.dumps(figure, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
        self.parts.append(
            Markup(
                '<figure><div class="plot" id="{0}" role="img" '
                'aria-label="{1}"></div><figcaption>{1}</figcaption><script '
                'type="application/json" data-figure="{0}">{2}</script></figure>'
            ).format(name, caption, Markup(data))
        )

    def html(self) -> str:
        """The whole file; plotly's script is in it if there is a figure."""
        scripts = Markup("")
        if self.figures:
            from plotly.offline import get_plotlyjs

            scripts = Markup("<script>{}</script><script>{}</script>").format(
                Markup(get_plotlyjs()), Markup(DRAW)
            )
        return str(
            Markup(
                '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{0}</title>'
                '<meta name="viewport" content="width=device-width, '
                'initial-scale=1"><style>{1}</style></head>\n'
                "<body><main><h1>{0}</h1><p>{2}</p>\n{3}\n</main>{4}</body></html>\n"
            ).format(self.title, Markup(STYLE), self.lead, Markup("\n").join(self.parts), scripts)
        )


class Sheet:
    """The same parts as Markdown; figures are left to the page."""

    def __init__(self, title: str, lead: str) -> None:
        self.lines = [f"# {title}", "", lead, ""]

    def section(self, title: str, words: str = "") -> None:
        self.lines += [f"## {cell(title)}", ""]
        self.words(words)

    def words(self, text: str) -> None:
        if text:
            self.lines += [cell(text), ""]

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        words: Sequence[int] = (0,),
        caption: str = "",
        marked: Sequence[int] = (),
    ) -> None:
        if caption:
            self.lines += [f"**{cell(caption)}**", ""]
        rule = "|".join("---" if i in words else "--:" for i in range(len(head)))
        self.lines += ["| " + " | ".join(head) + " |", f"|{rule}|"]
        for i, row in enumerate(rows):
            texts = ["–" if c is None else cell(str(c)) for c in row]
            self.lines.append(
                "| " + " | ".join(f"**{t}**" if i in marked else t for t in texts) + " |"
            )
        self.lines.append("")

    def figure(self, figure: dict[str, Any], caption: str) -> None:
        """Drawn in the HTML report only."""

    def markdown(self) -> str:
        return "\n".join(self.lines).rstrip() + "\n"


# ---------- Who was right where: one small line a system, kept where the replies are too many to be, so that every accuracy, paired

SUBJECT = "elm"  # what the others are held against


@dataclass(frozen=True, slots=True)
class Contrast:
    """`subject` less `system`, paired over the problems that both were asked, in the same form."""

    dataset: str
    form: str
    system: str
    difference: Estimate
    ahead: int  # problems that only the subject got right
    behind: int  # problems that only the other got right


def contrasts(
    results: Sequence[Result], subject: str = SUBJECT, *, seed: int = 0
) -> list[Contrast]:
    """Of each data set and form: the subject against every other system but the model alone, which
    the main table has."""
    groups, out = grouped(results), []
    for (learned_on, dataset, system, form), mine in groups.items():
        if system != subject:
            continue
        right = {r.problem_id: r.correct for r in mine}
        for (theirs_on, where, other, how), theirs in groups.items():
            if (
                other in (subject, BASE)
                or (where, how) != (dataset, form)
                or theirs_on not in ("", learned_on)
            ):
                continue
            held = {r.problem_id: r.correct for r in theirs}
            difference = paired(
                {k: float(v) for k, v in right.items()},
                {k: float(v) for k, v in held.items()},
                seed=seed,
            )
            if difference is not None:
                out.append(Contrast(dataset, form, other, difference, *flips(right, held)))
    return out


def lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One dict a system, form and data set of each run: the ids of the problems it got right, and
    of those it got wrong."""
    return [
        {
            "run": run.name,
            "model": run.model,
            "seed": run.seed,
            "dataset": dataset,
            "learned_on": learned_on,
            "system": system,
            "form": form,
            "right": [r.problem_id for r in mine if r.correct],
            "wrong": [r.problem_id for r in mine if not r.correct],
        }
        for run in runs
        for (learned_on, dataset, system, form), mine in grouped(run.results).items()
    ]


def write_outcomes(file: Path, runs: Sequence[Run]) -> None:
    write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(runs)))


LEAD = (
    "Accuracy on problems with known answers, which no system saw while it learnt or answered. "
    "Intervals are 95 % bootstrap intervals; differences to zero_shot are paired over the same "
    "problems and the same form (one greedy trace, or a vote). Helped: right with the system and "
    "wrong alone; hurt: the reverse."
)
Paper = Page | Sheet


def make(folder: Path, others: Sequence[Path] = (), **told: str) -> dict[str, Path]:
    """Write report.html, report.md, evidence.json and outcomes.jsonl into `folder`, from the runs
    in it and in `others`; their paths.
    `told`: what `collect` says where there is none."""
    found = collect([folder, *others], **told)
    title = "What a memory is worth"
    page, sheet = Page(title, LEAD), Sheet(title, LEAD)
    for paper in (page, sheet):
        compose(paper, found)
    files = {
        name: folder / name
        for name in ("report.html", "report.md", "evidence.json", "outcomes.jsonl")
    }
    write_whole(files["report.html"], page.html())
    write_whole(files["report.md"], sheet.markdown())
    write(files["evidence.json"], evidence(found))
    write_outcomes(files["outcomes.jsonl"], found.runs)
    return files


def compose(paper: Paper, found: Found) -> None:
    """All sections that there is something for."""
    look = figures.styles([row.system for run in found.runs for row in rows_of(run, found.runs)])
    for run in found.runs:
        if run.protocol != "transfer":
            systems(paper, run, rows_of(run, found.runs), look)
    if moved := [run for run in found.runs if run.protocol == "transfer"]:
        transfer(paper, moved, found.runs)
    votes(paper, found.runs)
    gates(paper, found.runs)
    routers(paper, found.runs)
    if found.rows["keys"]:
        keys(paper, found.rows["keys"])
    if found.rows["single"]:
        single(paper, found.rows["single"])
    if found.rows["sweep"]:
        from .sweep import COLUMNS, cells

        paper.section(
            "Recipes",
            "Each row: one recipe, trained on some problems, tried on held-out problems with one "
            "greedy trace. Differences to zero_shot are paired by problem.",
        )
        paper.table(COLUMNS, cells(found.rows["sweep"]), words=(0, 1, 2, 3))
    settings(paper, found.runs)


def interval(e: Estimate | None, show: Any = percent) -> str:
    return "–" if e is None else f"{show(e.mean)} ({show(e.low)} to {show(e.high)})"


def systems(paper: Paper, run: Run, rows: Sequence[Row], look: dict[str, dict[str, Any]]) -> None:
    """The main table of a run, and its figures."""
    online, block = run.protocol == "stream", run.facts.get("block", 1)
    learnt = run.facts.get("distil", {}).get("problems", 0)
    how = (
        f"Problems came {'one' if block == 1 else block} at a time; each was answered with the "
        f"memories of earlier {'ones' if block == 1 else 'arrivals'} only."
        if online
        else f"Learnt from {learnt} problems, then asked others."
    )
    sets = list(dict.fromkeys(r.dataset for r in rows))
    where = f" All of {sets[0]}." if len(sets) == 1 else ""
    paper.section(f"{run.name}: {run.model}", how + where + budgets(run, rows))
    ahead = [i for i, r in enumerate(rows) if r.delta is not None and r.delta.low > 0]
    paper.table(
        (
            "system",
            "form",
            "n",
            "accuracy",
            "against zero_shot, points",
            "helped",
            "hurt",
            "coverage",
            "right side chosen",
            "tokens a problem",
            "seconds a problem",
            "memories",
            "tokens to learn",
            "seconds to learn",
            "as many tokens as a vote of",
        ),
        [
            (
                r.system,
                r.form if where else f"{r.form}, {r.dataset}",
                r.n,
                interval(r.accuracy),
                interval(r.delta, points),
                r.helped,
                r.hurt,
                percent(r.coverage),
                "–"
                if r.routing_accuracy is None
                else f"{percent(r.routing_accuracy)} of {r.judged}",
                f"{r.tokens / r.n:.0f}",
                f"{r.seconds / r.n:.1f}",
                r.memories,
                f"{r.learn_tokens:,}",
                f"{r.learn_seconds:.0f}",
                metrics.equal_votes(r, rows),
            )
            for r in rows
        ],
        words=(0, 1),
        marked=ahead,
        caption="Systems; bold where the paired interval is above zero. In the last column, the "
        "tokens of learning are shared "
        "out among the problems asked",
    )
    drawn = [r for r in rows if metrics.ORACLE not in r.system]
    named = [
        (f"{r.system}, {r.form}" + ("" if where else f", {r.dataset}"), r.delta)
        for r in drawn
        if r.delta is not None
    ]
    if named:
        paper.figure(
            figures.differences({"": named}),
            "Differences to zero_shot in the same form, paired by problem; filled "
            "where the interval leaves out zero.",
        )
    contrast_section(paper, run)
    paper.figure(
        figures.accuracy_by_tokens(drawn, look),
        "Accuracy against tokens; a small mark is one trace, a large one a vote.",
    )
    if online:
        paper.figure(figures.stream_curve(run.results, look), "Accuracy so far over the stream.")
    for system in metrics.memory_systems(run.results):
        served = metrics.services([r for r in run.results if r.system in (system, metrics.BASE)])
        if any(s.helped or s.hurt for s in served):
            paper.figure(
                figures.memory_bars(served),
                f"{system}: which memories helped and hurt, both forms together.",
            )
            paper.table(
                ("memory of", "id", "tried", "helped", "hurt", "whom it helped", "whom it hurt"),
                [
                    (
                        s.name,
                        s.memory,
                        s.used,
                        len(s.helped),
                        len(s.hurt),
                        ids(s.helped),
                        ids(s.hurt),
                    )
                    for s in served
                    if s.helped or s.hurt
                ][:15],
                words=(0, 1, 5, 6),
                caption=f"{system}: which memories helped whom",
            )
    if near := metrics.thirds(run.results):
        paper.table(
            ("system", "form", "similarity", "n", "right with it", "right alone", "helped", "hurt"),
            [
                (
                    x.system,
                    x.form,
                    f"{x.low:.2f} to {x.high:.2f}",
                    x.n,
                    x.right,
                    x.alone,
                    x.helped,
                    x.hurt,
                )
                for x in near
            ],
            words=(0, 1),
            caption="Is a nearer memory worth more? What was tried, before any router, in thirds "
            "from far "
            "to near",
        )
    lessons(paper, run)


def contrast_section(paper: Paper, run: Run) -> None:
    """The memories against each other system, not against the model alone only."""
    found, us = contrasts(run.results, seed=run.seed), SUBJECT
    several = len({c.dataset for c in found}) > 1
    if found:
        paper.table(
            (
                "other system",
                "form",
                "n",
                f"{us} against it, points",
                f"only {us} right",
                "only the other right",
            ),
            [
                (
                    c.system,
                    f"{c.form}, {c.dataset}" if several else c.form,
                    c.difference.n,
                    interval(c.difference, points),
                    c.ahead,
                    c.behind,
                )
                for c in found
            ],
            words=(0, 1),
            marked=[i for i, c in enumerate(found) if c.difference.low > 0],
            caption=f"{us} against each other system, paired by problem; bold where the interval "
            "is above zero",
        )


def budgets(run: Run, rows: Sequence[Row]) -> str:
    """A sentence on each budget that a row has for itself."""
    found = {name: value for row in rows for name, value in budget(run, row.system).items()}
    words = {
        "votes": " vote_n has {} traces.",
        "offline_steps": " The offline rows took {} gradient steps.",
    }
    said = "".join(words[name].format(value) for name, value in found.items())
    made = run.facts.get("made", {})
    if {"offline_ttrl", "offline_grpo"} & {row.system for row in rows} and made.get(
        "dtype"
    ) != made.get("training"):
        said += (
            f" All parameters were sampled in {made.get('training')} and the model alone in "
            f"{made.get('dtype')}, so a part of their difference is arithmetic."
        )
    return said


def ids(those: Sequence[str], most: int = 6) -> str:
    different = list(dict.fromkeys(those))
    return ", ".join(different[:most]) + (
        f" and {len(different) - most} more" if len(different) > most else ""
    )


def lessons(paper: Paper, run: Run) -> None:
    """What the systems that keep memories learnt from, and how good their pseudo-labels were."""
    rows = []
    for system in dict.fromkeys(x.system for x in run.learned):
        those = [t for x in run.learned if x.system == system for t in x.taught]
        kept = [t for t in those if t.memory is not None]
        known = [t.label_right for t in kept if t.label_right is not None]
        if kept:
            rows.append(
                (
                    system,
                    len(those),
                    len(kept),
                    percent(sum(known) / len(known)) if known else None,
                    percent(sum(t.majority_ratio or 0 for t in kept) / len(kept)),
                )
            )
    if rows:
        paper.table(
            ("system", "problems met", "memories", "pseudo-labels right", "mean agreement"),
            rows,
            caption="Lessons",
        )


def votes(paper: Paper, runs: Sequence[Run]) -> None:
    """TTRL's words for the votes of each run, with and without a memory, and agreement against
    accuracy."""
    voted = [(run.name, sides) for run in runs if (sides := metrics.vote_sides(run.results))]
    if not voted:
        return
    paper.section(
        "The vote",
        "majority_ratio: share of the traces that agree. label_accuracy: how often the majority "
        "is right. reward_accuracy: how often a trace's reward by the majority is the one by the "
        "truth. ground_truth_ratio: share of right traces. pass@k: at least one of k is right.",
    )
    for name, sides in voted:
        measured = [metrics.vote_metrics(those) for _, those in sides]
        measures = dict.fromkeys(m for one in measured for m in one)
        paper.table(
            ("measure", *(title for title, _ in sides)),
            [
                ("votes", *(len(those) for _, those in sides)),
                *(
                    (m, *(percent(one[m]) if m in one else None for one in measured))
                    for m in measures
                ),
            ],
            caption=name,
        )
        paper.figure(
            figures.agreement(sides),
            f"{name}: agreement against label accuracy; a larger mark is more votes.",
        )


def gates(paper: Paper, runs: Sequence[Run]) -> None:
    """What a stricter or weaker gate would have learnt from, as far as first votes say."""
    told = [(run.name, g) for run in runs for g in metrics.gates(run.results)]
    if not told:
        return
    paper.section(
        "The gate",
        "Of the votes of the model alone: how many a gate lets through to be learnt from, and how "
        "many of those majorities are right. Where all traces agree there is nothing to learn "
        "with any gate.",
    )
    paper.table(
        (
            "run",
            "votes at least",
            "lead at least",
            "votes met",
            "let through",
            "of those right",
            "share right (95 %)",
        ),
        [
            (name, g.votes, g.lead, g.met, g.passed, g.right, interval(share(g.right, g.passed)))
            for name, g in told
        ],
        words=(0,),
        caption="Gates",
    )


def routers(paper: Paper, runs: Sequence[Run]) -> None:
    """What each verifier would have done in the same disagreements."""
    told = [(run, x) for run in runs for x in metrics.routing(run.results)]
    if not told:
        return
    paper.section(
        "Routing",
        "Where both sides had an answer and the answers differed. Each verifier is judged on the "
        "same traces; chance is 50 %.",
    )
    paper.table(
        (
            "run",
            "system",
            "form",
            "router",
            "right side taken",
            "of",
            "memory right: taken / missed",
            "alone right: taken / missed",
            "both wrong",
        ),
        [
            (
                run.name,
                x.system,
                x.form,
                x.router,
                percent(x.accuracy),
                x.judged,
                f"{x.memory_right_taken} / {x.memory_right_missed}",
                f"{x.alone_right_taken} / {x.alone_right_missed}",
                x.both_wrong,
            )
            for run, x in told
        ],
        words=(0, 1, 2, 3),
        caption="Routing confusion",
    )
    shown = [(run.name, x) for run, x in told if x.judged]
    if shown:
        paper.figure(figures.routing_bars(shown), "Disagreements with exactly one side right.")


def transfer(paper: Paper, moved: Sequence[Run], runs: Sequence[Run]) -> None:
    """A table for each system and form, and a matrix of those that can be compared with the model
    alone."""
    paper.section(
        "Transfer",
        "Memories of one data set (row) used on another (column): accuracy, and the paired "
        "difference to zero_shot, in points.",
    )
    told = [
        ((run.model, run.seed, row.system, row.form), row)
        for run in moved
        for row in rows_of(run, runs)
        if metrics.ORACLE not in row.system
    ]
    for key in dict.fromkeys(key for key, _ in told):
        mine, title = (
            [row for other, row in told if other == key],
            "{2}, {3} ({0}, seed {1})".format(*key),
        )
        paper.table(
            (
                "learnt from",
                "asked",
                "n",
                "accuracy",
                "against zero_shot, points",
                "helped",
                "hurt",
            ),
            [
                (
                    r.learned_on,
                    r.dataset,
                    r.n,
                    interval(r.accuracy),
                    interval(r.delta, points),
                    r.helped,
                    r.hurt,
                )
                for r in mine
            ],
            words=(0, 1),
            caption=title,
        )
        if any(r.delta is not None for r in mine):
            paper.figure(figures.matrix(mine), f"{title}: memories of one set on another.")


def keys(paper: Paper, rows: Sequence[dict[str, Any]]) -> None:
    paper.section(
        "Keys",
        "How often the nearest other problem of a data set is of the same family, by kind of key.",
    )
    paper.table(
        ("model", "data set", "key", "problems", "families", "same family", "by chance"),
        [
            (
                r["model"],
                r["dataset"],
                f"{r['kind']} ({r['embedder']})"
                if r["kind"] == "input" and "embedder" in r
                else r["kind"],
                r["n"],
                r["families"],
                percent(r["same_family"]),
                percent(r["chance"]),
            )
            for r in rows
        ],
        words=(0, 1, 2),
    )


def single(paper: Paper, rows: Sequence[dict[str, Any]]) -> None:
    paper.section(
        "One problem",
        "Trained on a single problem, tried on held-out ones with one greedy trace, after each of "
        "some steps. Step 0 is before any training.",
    )
    paper.table(
        (
            "model",
            "data set",
            "seed",
            "way of training",
            "problem",
            "step",
            "n",
            "accuracy",
            "against zero_shot, points",
            "helped",
            "hurt",
        ),
        [
            (
                r["model"],
                r["dataset"],
                r["seed"],
                r["learner"],
                r["problem_id"],
                r["step"],
                r["n"],
                interval(figures.step_accuracy(r)),
                points(r["delta"]),
                r["helped"],
                r["hurt"],
            )
            for r in rows
        ],
        words=(0, 1, 3, 4),
    )
    paper.figure(figures.step_curves(rows), "Accuracy on held-out problems by step.")


def settings(paper: Paper, runs: Sequence[Run]) -> None:
    """With what each run was made."""
    if not runs:
        return
    paper.section("Settings")
    for run in runs:
        facts = {
            **run.settings,
            **{
                "fingerprint" if k == "model" else k: v
                for k, v in run.facts.items()
                if k not in ("settings", "made")
            },
            **{f"made.{k}": v for k, v in run.facts.get("made", {}).items()},
        }
        paper.table(
            ("setting", "value"),
            [(k, str(v)) for k, v in facts.items()],
            words=(0, 1),
            caption=run.name,
        )
