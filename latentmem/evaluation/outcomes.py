"""Who was right where: one small line a system, kept where the replies are too many to be, so that every accuracy, paired
difference and interval can be computed again; and the differences of one system to all others of its run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .journal import write_whole
from .results import Result
from .runs import Run
from .scoring import BASE, grouped
from .statistics import Estimate, flips, paired

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


def contrasts(results: Sequence[Result], subject: str = SUBJECT, *, seed: int = 0) -> list[Contrast]:
    """Of each data set and form: the subject against every other system but the model alone, which the main table has."""
    groups, out = grouped(results), []
    for (learned_on, dataset, system, form), mine in groups.items():
        if system != subject:
            continue
        right = {r.problem_id: r.correct for r in mine}
        for (theirs_on, where, other, how), theirs in groups.items():
            if other in (subject, BASE) or (where, how) != (dataset, form) or theirs_on not in ("", learned_on):
                continue
            held = {r.problem_id: r.correct for r in theirs}
            difference = paired({k: float(v) for k, v in right.items()}, {k: float(v) for k, v in held.items()}, seed=seed)
            if difference is not None:
                out.append(Contrast(dataset, form, other, difference, *flips(right, held)))
    return out


def lines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One dict a system, form and data set of each run: the ids of the problems it got right, and of those it got wrong."""
    return [{"run": run.name, "model": run.model, "seed": run.seed, "dataset": dataset, "learned_on": learned_on,
             "system": system, "form": form, "right": [r.problem_id for r in mine if r.correct],
             "wrong": [r.problem_id for r in mine if not r.correct]}
            for run in runs for (learned_on, dataset, system, form), mine in grouped(run.results).items()]


def write(file: Path, runs: Sequence[Run]) -> None:
    write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(runs)))
