"""What Solve saves by stopping when the vote is decided: the prefilled problem and the first example
of five other families, each asked whole and then with `stop_when_decided`, on the starter's bank.

    python -m tests.tools.measure_early --out assets/results/app/early-stop.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from latentmem import Engine, Settings
from latentmem.records import Problem, Receipt
from latentmem.ui.hosting import begin
from latentmem.ui.session import AppSession, family, opening


def chosen(engine: Engine, most: int = 6) -> list[Problem]:
    """The prefilled problem, and the first example of each other family."""
    session = AppSession(engine)
    families = {family(first): first for first in [opening(session)]}
    for problem in session.examples.values():
        families.setdefault(family(problem), problem)
    return list(families.values())[:most]


def asked(engine: Engine, problem: Problem) -> Receipt:
    *_, receipt = engine.answer(problem)
    assert isinstance(receipt, Receipt)
    return receipt


def compared(engine: Engine, problem: Problem) -> dict[str, Any]:
    whole, early = (
        asked(engine.changed(stop_when_decided=stop), problem.unlabelled())
        for stop in (False, True)
    )
    assert (early.answer, early.route.side) == (whole.answer, whole.route.side)
    sides = [v.side for v in (whole.zero_shot, whole.memory) if v is not None]
    # The same run's clock, whatever else the machine does: when the last attempt that was waited
    # for ended, and the last of all.
    waited = {(t.side, t.row) for t in early.traces}
    ends = [max(t.seconds for t in whole.traces if (t.side, t.row) in waited)]
    row = {
        "problem": problem.id,
        "sampled": {side: early.sampled(side) for side in sides},
        "of": whole.zero_shot.total,
        "tokens": [whole.tokens, early.tokens],
        "seconds": [round(whole.seconds, 2), round(early.seconds, 2)],
        "same_run": [round(s, 2) for s in (max(t.seconds for t in whole.traces), *ends)],
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--seed", type=int, default=0)
    args = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Settings(seed=args.seed, bank=Path(folder) / "bank.sqlite"))
        begin(engine.bank)
        list(engine.load())
        asked(engine, Problem("What is 12 + 30?"))  # the first answer takes longer
        rows = [compared(engine, problem) for problem in chosen(engine)]
    figures = ("tokens", "seconds", "same_run")
    sums = {of: [round(sum(r[of][i] for r in rows), 1) for i in (0, 1)] for of in figures}
    saved = {of: round(1 - early / whole, 4) for of, (whole, early) in sums.items()}
    made = {"order": "whole, stopped", "seed": args.seed, "rows": rows} | sums | {"saved": saved}
    args.out.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(saved))


if __name__ == "__main__":
    main()
