"""The report of a folder of runs, as a page of HTML and as Markdown, and the evidence file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import figures, metrics
from .evidence import budget, evidence, rows_of, write
from .journal import Found, Run, collect, write_whole
from .metrics import SUBJECT, Row, contrasts, grouped, share
from .page import Columns, Report, interval, members, percent, points

LEAD = (
    "Accuracy on problems with known answers, which no system saw while it learnt or answered. "
    "Accuracies have exact 95 % binomial intervals. Differences to zero_shot are paired over the "
    "same problems and the same form (one greedy trace, or a vote), with 95 % bootstrap "
    "intervals. Helped: right with the system and wrong alone; hurt: the reverse."
)


def make(folder: Path, others: Sequence[Path] = (), **remedy: str) -> dict[str, Path]:
    """Write report.html, report.md, evidence.json and outcomes.jsonl into `folder`, from the runs
    in it and in `others`; returns their paths. `remedy`: what the error advises where there is no
    run. Raises LatentmemError."""
    found = collect([folder, *others], **remedy)
    report = Report("What a memory is worth", LEAD)
    compose(report, found)
    outcomes = [json.dumps(line, ensure_ascii=False) + "\n" for line in outcome_lines(found.runs)]
    names = ("report.html", "report.md", "evidence.json", "outcomes.jsonl")
    files = {name: folder / name for name in names}
    write_whole(files["report.html"], report.html())
    write_whole(files["report.md"], report.markdown())
    write(files["evidence.json"], evidence(found))
    write_whole(files["outcomes.jsonl"], "".join(outcomes))
    return files


def outcome_lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A dict for each system, form and data set of each run: the ids of the problems that it got
    right, and of those that it got wrong. Small enough to keep, and every accuracy and paired
    difference can be computed from it."""
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


def compose(report: Report, found: Found) -> None:
    """Every section for which there is something to show."""
    runs = found.runs
    rows = {run.name: rows_of(run) for run in runs}
    looks = figures.styles([row.system for those in rows.values() for row in those])
    for run in runs:
        if run.protocol != "transfer":
            run_section(report, run, rows[run.name], looks)
    moved = [(run, row) for run in runs if run.protocol == "transfer" for row in rows[run.name]]
    transfer_section(report, moved)
    vote_section(report, runs)
    for title, text, those, columns, words, caption in tables(found):
        if those:
            report.section(title, text)
            report.table(those, columns, text_columns=words, caption=caption)
    settings_section(report, runs)


# ---------- One run: its systems against the model alone and against each other.


def run_section(report: Report, run: Run, rows: Sequence[Row], looks: figures.Looks) -> None:
    """The tables and figures of a run."""
    several = len({r.dataset for r in rows}) > 1
    of_one = "" if several else f" All of {rows[0].dataset}."
    report.section(f"{run.name}: {run.model}", _protocol(run) + of_one + _budgets(run, rows))
    _systems(report, rows, several)
    drawn = [r for r in rows if metrics.ORACLE not in r.system]
    named = [
        (f"{r.system}, {r.form}" + (f", {r.dataset}" if several else ""), r.delta)
        for r in drawn
        if r.delta is not None
    ]
    if named:
        report.figure(
            figures.differences({"": named}),
            "Differences to zero_shot in the same form, paired by problem; filled where the "
            "interval leaves out zero.",
        )
    _contrasts(report, run)
    report.figure(
        figures.accuracy_by_tokens(drawn, looks),
        "Accuracy against tokens; a small mark is one trace, a large one a vote.",
    )
    if run.protocol == "stream":
        curve = figures.stream_curve(run.results, looks)
        report.figure(curve, "Accuracy so far over the stream.")
    _memories(report, run)
    _lessons(report, run)


def _protocol(run: Run) -> str:
    """How problems came, in a sentence."""
    if run.protocol != "stream":
        learnt = run.config.get("distil", {}).get("problems", 0)
        return f"Learnt from {learnt} problems, then asked others."
    block = run.config.get("block", 1)
    came, earlier = ("one", "ones") if block == 1 else (block, "arrivals")
    asked = f"each was answered with the memories of earlier {earlier} only"
    return f"Problems came {came} at a time; {asked}."


def _budgets(run: Run, rows: Sequence[Row]) -> str:
    """A sentence on each budget that a system has for itself."""
    sentences = {
        "votes": " vote_n has {} traces.",
        "offline_steps": " The offline systems took {} gradient steps.",
    }
    found = {name: value for row in rows for name, value in budget(run, row.system).items()}
    text = "".join(sentences[name].format(value) for name, value in found.items())
    made = run.config.get("made", {})
    full = {"offline_ttrl", "offline_grpo"} & {row.system for row in rows}
    if full and made.get("dtype") != made.get("training"):
        text += (
            f" All parameters were sampled in {made.get('training')} and the model alone in "
            f"{made.get('dtype')}, so a part of their difference is arithmetic."
        )
    return text


def _systems(report: Report, rows: Sequence[Row], several: bool) -> None:
    """The main table of a run."""
    columns: Columns = {
        "system": lambda r: r.system,
        "form": lambda r: f"{r.form}, {r.dataset}" if several else r.form,
        "n": lambda r: r.n,
        "accuracy": lambda r: interval(r.accuracy),
        "against zero_shot, points": lambda r: interval(r.delta, points),
        **members("helped, hurt"),
        "coverage": lambda r: percent(r.coverage),
        "right side chosen": lambda r: (
            f"{percent(r.routing_accuracy)} of {r.judged}" if r.judged else None
        ),
        "tokens a problem": lambda r: f"{r.tokens / r.n:.0f}",
        "seconds a problem": lambda r: f"{r.seconds / r.n:.1f}",
        "memories": lambda r: r.memories,
        "tokens to learn": lambda r: f"{r.learn_tokens:,}",
        "seconds to learn": lambda r: f"{r.learn_seconds:.0f}",
        "as many tokens as a vote of": lambda r: metrics.equal_votes(r, rows),
    }
    report.table(
        rows,
        columns,
        text_columns=(0, 1),
        marked=lambda r: r.delta is not None and r.delta.low > 0,
        caption="Systems; bold where the paired interval is above zero. In the last column, the "
        "tokens of learning are shared out among the problems asked",
    )


def _contrasts(report: Report, run: Run) -> None:
    """The memories against each other system, and not only against the model alone."""
    found = contrasts(run.results, seed=run.seed)
    several = len({c.dataset for c in found}) > 1
    columns: Columns = {
        "other system": lambda c: c.system,
        "form": lambda c: f"{c.form}, {c.dataset}" if several else c.form,
        "n": lambda c: c.difference.n,
        f"{SUBJECT} against it, points": lambda c: interval(c.difference, points),
        **members(f"only {SUBJECT} right: ahead, only the other right: behind"),
    }
    if found:
        report.table(
            found,
            columns,
            text_columns=(0, 1),
            marked=lambda c: c.difference.low > 0,
            caption=f"{SUBJECT} against each other system, paired by problem; bold where the "
            "interval is above zero",
        )


MEMORIES: Columns = {
    **members("memory of: name, id: memory, tried: used"),
    "helped": lambda s: len(s.helped),
    "hurt": lambda s: len(s.hurt),
    "whom it helped": lambda s: _ids(s.helped),
    "whom it hurt": lambda s: _ids(s.hurt),
}
THIRDS: Columns = {
    **members("system, form"),
    "similarity": lambda x: f"{x.low:.2f} to {x.high:.2f}",
    **members("n, right with it: right, right alone: alone, helped, hurt"),
}


def _memories(report: Report, run: Run) -> None:
    """Which memories helped and hurt whom, and whether a nearer one is worth more."""
    for system in metrics.memory_systems(run.results):
        effects = metrics.memory_effects(
            [r for r in run.results if r.system in (system, metrics.BASE)]
        )
        effects = [e for e in effects if e.helped or e.hurt]
        if effects:
            report.table(
                effects[:15],
                MEMORIES,
                text_columns=(0, 1, 5, 6),
                caption=f"{system}: which memories helped whom",
            )
    if near := metrics.thirds(run.results):
        report.table(
            near,
            THIRDS,
            text_columns=(0, 1),
            caption="Is a nearer memory worth more? What was tried, before any router, in thirds "
            "from far to near",
        )


def _ids(those: Sequence[str], most: int = 6) -> str:
    different = list(dict.fromkeys(those))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _lessons(report: Report, run: Run) -> None:
    """What the systems that keep memories learnt from, and how good their pseudo-labels were."""
    rows = []
    for system in dict.fromkeys(x.system for x in run.learned):
        lessons = [t for x in run.learned if x.system == system for t in x.taught]
        kept = [t for t in lessons if t.memory is not None]
        known = [t.label_right for t in kept if t.label_right is not None]
        if kept:
            agreement = sum(t.majority_ratio or 0 for t in kept) / len(kept)
            right = sum(known) / len(known) if known else None
            rows.append((system, len(lessons), len(kept), percent(right), percent(agreement)))
    if rows:
        head = ("system", "problems met", "memories", "pseudo-labels right", "mean agreement")
        report.table(rows, _in_order(head), caption="Lessons")


def _in_order(head: Iterable[str]) -> Columns:
    """Columns of rows that are tuples already."""
    return {name: lambda row, i=i: row[i] for i, name in enumerate(head)}


# ---------- All runs together: transfer, the votes, the gate, the router.


def transfer_section(report: Report, moved: Sequence[tuple[Run, Row]]) -> None:
    """A table for each system and form."""
    groups: dict[str, list[Row]] = {}
    for run, row in moved:
        if metrics.ORACLE not in row.system:
            title = f"{row.system}, {row.form} ({run.model}, seed {run.seed})"
            groups.setdefault(title, []).append(row)
    if not groups:
        return
    report.section(
        "Transfer",
        "Memories of one data set (row) used on another (column): accuracy, and the paired "
        "difference to zero_shot, in points.",
    )
    columns: Columns = {
        **members("learnt from: learned_on, asked: dataset, n"),
        "accuracy": lambda r: interval(r.accuracy),
        "against zero_shot, points": lambda r: interval(r.delta, points),
        **members("helped, hurt"),
    }
    for title, rows in groups.items():
        report.table(rows, columns, text_columns=(0, 1), caption=title)


def vote_section(report: Report, runs: Sequence[Run]) -> None:
    """TTRL's words for each run's votes, with and without a memory."""
    voted = [(run.name, sides) for run in runs if (sides := metrics.vote_sides(run.results))]
    if not voted:
        return
    report.section(
        "The vote",
        "majority_ratio: share of the traces that agree. label_accuracy: how often the majority "
        "is right. reward_accuracy: how often a trace's reward by the majority is the one by the "
        "truth. ground_truth_ratio: share of right traces. pass@k: at least one of k is right.",
    )
    for name, sides in voted:
        measured = [metrics.vote_metrics(votes) for _, votes in sides]
        measures = dict.fromkeys(m for one in measured for m in one)
        rows = [
            ("votes", *(len(votes) for _, votes in sides)),
            *((m, *(percent(one.get(m)) for one in measured)) for m in measures),
        ]
        report.table(rows, _in_order(("measure", *(title for title, _ in sides))), caption=name)


# ---------- Sections that are one table: the gate, the router, keys; and one problem and recipes,
# which runs of an older latentmem hold.

GATES: Columns = {
    "run": lambda x: x[0],
    "votes at least": lambda x: x[1].votes,
    "lead at least": lambda x: x[1].lead,
    "votes met": lambda x: x[1].met,
    "let through": lambda x: x[1].passed,
    "of those right": lambda x: x[1].right,
    "share right (95 %)": lambda x: interval(share(x[1].right, x[1].passed)),
}
ROUTERS: Columns = {
    "run": lambda x: x[0],
    "system": lambda x: x[1].system,
    "form": lambda x: x[1].form,
    "router": lambda x: x[1].router,
    "right side taken": lambda x: percent(x[1].accuracy),
    "of": lambda x: x[1].judged,
    "memory right: taken / missed": lambda x: _of(x[1], "memory"),
    "alone right: taken / missed": lambda x: _of(x[1], "alone"),
    "both wrong": lambda x: x[1].both_wrong,
}


def _of(r: metrics.Routing, side: str) -> str:
    return f"{getattr(r, f'{side}_right_taken')} / {getattr(r, f'{side}_right_missed')}"


KEYS: Columns = {
    **members("model, data set: dataset"),
    "key": lambda r: f"input ({r['embedder']})" if _embedded(r) else r["kind"],
    **members("problems: n, families"),
    "same family": lambda r: percent(r["same_family"]),
    "by chance": lambda r: percent(r["chance"]),
}


def _embedded(row: dict[str, Any]) -> bool:
    return row["kind"] == "input" and "embedder" in row


SINGLE: Columns = {
    **members("model, data set: dataset, seed, way of training: learner, problem: problem_id"),
    **members("step, n"),
    "accuracy": lambda r: interval(share(round(r["accuracy"] * r["n"]), r["n"])),
    "against zero_shot, points": lambda r: points(r["delta"]),
    **members("helped, hurt"),
}
SWEEP: Columns = {
    "recipe": "recipe",
    "changes": lambda r: ", ".join(f"{k}={v}" for k, v in r["settings"].items()) or "none",
    **members("model, data set: data, seed"),
    "memories": lambda r: f"{r['learned']} of {r['tried']}",
    "labels right": lambda r: percent(r["label_right"]),
    "accuracy": lambda r: percent(r["accuracy"]),
    "zero_shot": lambda r: percent(r["base"]),
    "difference, points (95 %)": lambda r: interval(r["gain"], points),
    **members("helped, hurt"),
    "finished": lambda r: percent(r["finished"]),
    "tokens": lambda r: None if r["tokens"] is None else f"{r['tokens']:.0f}",
    "seconds a memory": lambda r: f"{r['train_seconds']:.0f}",
}
TEXTS = {
    "The gate": "Of the votes of the model alone: how many a gate lets through to be learnt from, "
    "and how many of those majorities are right. Where all traces agree there is nothing to learn "
    "with any gate.",
    "Routing": "Where both sides had an answer and the answers differed. Each verifier is judged "
    "on the same traces; chance is 50 %.",
    "Keys": "How often the nearest other problem of a data set is of the same family, by kind of "
    "key.",
    "One problem": "Trained on a single problem, tried on held-out ones with one greedy trace, "
    "after each of some steps. Step 0 is before any training.",
    "Recipes": "Each row: one recipe, trained on some problems, tried on held-out problems with "
    "one greedy trace. Differences to zero_shot are paired by problem.",
}


def tables(found: Found) -> Iterator[tuple[str, str, list[Any], Columns, Sequence[int], str]]:
    """(title, text, rows, columns, columns of words, caption) of the sections that are a table."""
    gates = [(run.name, gate) for run in found.runs for gate in metrics.gates(run.results)]
    routed = [(run.name, one) for run in found.runs for one in metrics.routing(run.results)]
    for title, rows, columns, words, caption in (
        ("The gate", gates, GATES, (0,), "Gates"),
        ("Routing", routed, ROUTERS, (0, 1, 2, 3), "Routing confusion"),
        ("Keys", list(found.rows["keys"]), KEYS, (0, 1, 2), ""),
        ("One problem", list(found.rows["single"]), SINGLE, (0, 1, 3, 4), ""),
        ("Recipes", metrics.pooled(found.rows["sweep"]), SWEEP, (0, 1, 2, 3), ""),
    ):
        yield title, TEXTS[title], rows, columns, words, caption


def settings_section(report: Report, runs: Sequence[Run]) -> None:
    """The configuration of each run."""
    if runs:
        report.section("Settings")
    for run in runs:
        config = {
            "fingerprint" if name == "model" else name: value
            for name, value in run.config.items()
            if name not in ("settings", "made")
        }
        made = {f"made.{name}": value for name, value in run.config.get("made", {}).items()}
        rows = {**run.settings, **config, **made}.items()
        report.table(rows, _in_order(("setting", "value")), text_columns=(0, 1), caption=run.name)
