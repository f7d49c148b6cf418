"""Distils the memories that the app starts with: `python examples/make_bank.py` writes
examples/bank.zip.

Some problems of each family of problems.jsonl, a few in one batch. A memory takes minutes on two
cores. The script may be stopped at any time: what is done stays in the work folder, and the next
start continues from there. A problem that teaches nothing is noted too, and not tried again. The
bank that is there was made with `LATENTMEM_STEPS=5 python examples/make_bank.py --each 1 --batch
13`: 6 of 13 problems gave a memory, in 18 minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from latentmem import Engine, Problem, Settings
from latentmem.evaluation.reader import read_problems
from latentmem.files import Log
from latentmem.records import Distilled, Step, digest

HERE = Path(__file__).resolve().parent


def chosen(problems: list[Problem], each: int, skip: int = 0) -> list[Problem]:
    """`each` problems of every family after the first `skip`, one family after the other so that a
    stop leaves a mixture."""
    families: dict[str, list[Problem]] = {}
    for problem in problems:
        families.setdefault(problem.source, []).append(problem)
    return [
        family[i]
        for i in range(skip, skip + each)
        for family in families.values()
        if i < len(family)
    ]


def distil(engine: Engine, problems: list[Problem], log: Path, batch: int) -> Iterator[Distilled]:
    """Distils what is not done yet, and notes each result as soon as there is one."""
    notes = Log(log)
    done = {note["problem"] for note in notes.read()} | {
        info.problem.id for info in engine.bank.infos()
    }
    left = [p for p in problems if p.id not in done]
    for i in range(0, len(left), batch):
        for record in engine.distil_many(left[i : i + batch]):
            if isinstance(record, Step):
                print(
                    f"  {record.problem_id}: step {record.step} of {record.steps}, agreement "
                    f"{record.agreement:.0%}",
                    flush=True,
                )
            elif isinstance(record, Distilled):
                memory = record.memory.id if record.memory is not None else None
                notes.append(
                    {"problem": record.problem_id, "memory": memory, "reason": record.reason}
                )
                yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "bank.zip")
    parser.add_argument(
        "--work", type=Path, help="folder for what is done so far (default: one of these settings)"
    )
    parser.add_argument("--each", type=int, default=2, help="problems of each family")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="problems of each family that are left out at its beginning",
    )
    parser.add_argument("--batch", type=int, default=2, help="problems distilled in one batch")
    args = parser.parse_args()
    # What other settings have done is no part of this bank.
    made = digest(Settings().model_dump_json(exclude={"bank", "device"}))[:8]
    args.work = args.work or Path(tempfile.gettempdir()) / f"latentmem-make-bank-{made}"
    args.work.mkdir(parents=True, exist_ok=True)
    engine = Engine(Settings(bank=args.work / "bank.sqlite"))
    problems, began = (
        chosen(list(read_problems(HERE / "problems.jsonl")), args.each, args.skip),
        time.monotonic(),
    )
    for result in distil(engine, problems, args.work / "done.jsonl", args.batch):
        what = result.memory.id if result.memory is not None else "no memory"
        print(
            f"{result.problem_id}: {what}, {time.monotonic() - began:.0f} s after the start. "
            f"{result.reason}",
            flush=True,
        )
    report = engine.bank.export_zip(args.out)
    print(
        f"{report.memories} memories of {len(problems)} problems, "
        f"{args.out.stat().st_size / 1e6:.1f} MB: {args.out}"
    )


if __name__ == "__main__":
    main()
