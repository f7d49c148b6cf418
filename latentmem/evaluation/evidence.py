"""The evidence: one row for each system and data set, in a file that others can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .journal import Found, Run, write_whole
from .metrics import ORACLE, Row, rerouted, table, two_sided
from .results import VOTES, TrainingSchedule

COLUMNS = (
    "dataset system model n accuracy ci_low ci_high delta_vs_zero_shot delta_ci_low delta_ci_high "
    "helped hurt coverage routing_accuracy tokens seconds seed settings"
).split()
DIGITS = 4


def rows_of(run: Run) -> list[Row]:
    """The table of a run, with the oracle router of each system that answered twice."""
    results = list(run.results)
    for system in two_sided(results):
        results += rerouted([r for r in run.results if r.system == system], ORACLE)
    return table(results, run.learned, seed=run.seed)


def evidence(found: Found) -> list[dict[str, Any]]:
    """One dict for each row, with exactly the members of COLUMNS."""
    return [plain(run, row) for run in found.runs for row in rows_of(run)]


def plain(run: Run, row: Row) -> dict[str, Any]:
    """A row as JSON values. `tokens` and `seconds` include those of learning."""
    about = {
        "run": run.name,
        "protocol": run.protocol,
        "form": row.form,
        "learned_on": row.learned_on,
        "memories": row.memories,
        "learned_from": learned_from(run),
        "learn_tokens": row.learn_tokens,
        "learn_seconds": round(row.learn_seconds, 1),
        "routing_judged": row.judged,
        **budget(run, row.system),
        **run.settings,
    }
    a, d = row.accuracy, row.delta
    values = (
        *(dataset_name(run, row), system_name(row), run.model, row.n, a.mean, a.low, a.high),
        *((d.mean, d.low, d.high) if d else (None, None, None)),
        *(row.helped, row.hurt, row.coverage, row.routing_accuracy),
        *(row.tokens + row.learn_tokens, row.seconds + row.learn_seconds, run.seed, about),
    )
    rounded = [round(v, DIGITS) if isinstance(v, float) else v for v in values]
    return dict(zip(COLUMNS, rounded, strict=True))


def budget(run: Run, system: str) -> dict[str, int]:
    """How many traces vote or how many steps are taken, for the systems with such a budget."""
    if system == "vote_n":
        return {"votes": run.config.get("votes", VOTES)}
    steps = run.config.get("offline_steps", TrainingSchedule.steps)
    return {"offline_steps": steps} if system.startswith("offline_") else {}


def dataset_name(run: Run, row: Row) -> str:
    if run.protocol == "stream":
        return f"{row.dataset} (online)"
    same = row.learned_on in ("", row.dataset)
    return row.dataset if same else f"{row.learned_on} > {row.dataset}"


def system_name(row: Row) -> str:
    """'elm' for one trace, 'elm_vote' for a vote; 'elm_oracle' for the oracle router."""
    name = row.system.replace(f" ({ORACLE})", "_oracle")
    return name if row.form == "one" else f"{name}_{row.form}"


def learned_from(run: Run) -> int:
    """The number of problems in the part that was learnt from; of a stream, all of them."""
    part = run.config.get("distil") or run.config.get("data") or {}
    return int(part.get("problems", 0))


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row a line, so that a change of one row changes one line."""
    lines = [json.dumps(r, ensure_ascii=False, allow_nan=False) for r in rows]
    write_whole(file, "[\n" + ",\n".join(lines) + "\n]\n")
